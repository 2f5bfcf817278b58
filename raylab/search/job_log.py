"""What a job prints, kept in its folder: prints, warnings, and whatever libraries in other languages write."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

LOG_FILE = "log.txt"


@contextlib.contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """Append to a file what this process writes to its standard output and error meanwhile; no file if that is nothing.

    Where the file cannot be written, what is printed goes where it went before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:
        yield
        return
    _flush()
    before = {stream: os.dup(stream) for stream in (1, 2)}
    try:
        for stream in before:
            os.dup2(log, stream)
        yield
    finally:
        _flush()
        for stream, kept in before.items():
            os.dup2(kept, stream)
            os.close(kept)
        if os.fstat(log).st_size == 0:
            path.unlink(missing_ok=True)
        os.close(log)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or its disk is full
            stream.flush()
