"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")
_LEFT_SECONDS = 3600.0  # a file that is being written changes more often


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Write a file or folder under a temporary name beside `path`, which it takes when the block ends well.

    Args:
        path: The final name; its folder is made where it is missing. A file there is replaced; a folder there with
            something in it is not (OSError).
        durable: Wait until it is on the disk, so that a machine that loses power shortly after has what was there
            before or all that is new.

    Yields:
        The temporary name, hidden and new; nothing is there yet. After an error it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        if durable:
            make_durable(temporary)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def make_durable(path: Path) -> None:
    """Wait until a file, or all that a folder holds, is on the disk."""
    for folder, _, files in os.walk(path):
        for file in files:
            _sync(Path(folder, file))
        _sync(Path(folder))
    if not path.is_dir():
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; freed when it ends, however it does.

    Args:
        path: A file of its own for the lock, made where it is missing; it stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove, anywhere below a folder, temporary files of `atomic_path` that were left an hour ago or more."""
    for path in folder.rglob(".*"):
        with suppress(OSError):  # another process may be removing it too
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
