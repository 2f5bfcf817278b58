"""Room for a node's copies of finished jobs: those that were used longest ago make way."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO

FREE = 0.1
"""Share of the disk that copies leave free, for the work under way and for others."""

_in_use: dict[Path, IO[str]] = {}  # copies that this process works with, which it keeps from being deleted


def use_only(root: Path, keys: Iterable[str]) -> None:
    """Keep the copies of these jobs, and no others that this process used before, from being deleted."""
    wanted = {_lock_of(root, key) for key in keys}
    for path in _in_use.keys() - wanted:
        _in_use.pop(path).close()
    for path in wanted - _in_use.keys():
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
        fcntl.flock(stream, fcntl.LOCK_SH)  # it waits for a process that deletes the copy
        os.utime(path)
        _in_use[path] = stream


def make_room(root: Path, needed: int, done: str) -> None:
    """Delete copies that nobody uses, those used longest ago first, until there is room.

    Args:
        root: The node's folder.
        needed: Bytes that will be written.
        done: The file that marks a folder of `root/jobs` as a copy; a folder without it is work under way.
    """
    disk = shutil.disk_usage(root)
    lacking = needed + FREE * disk.total - disk.free
    if lacking <= 0:
        return
    copies = [mark.parent for mark in (root / "jobs").glob(f"*/{done}")]
    for folder in sorted(copies, key=lambda folder: _last_used(root, folder)):
        if lacking <= 0:
            return
        with _lock_of(root, folder.name).open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            lacking -= sum(path.lstat().st_size for path in folder.rglob("*"))
            (folder / done).unlink(missing_ok=True)  # first, so that a half-removed copy is none
            shutil.rmtree(folder, ignore_errors=True)


def _last_used(root: Path, folder: Path) -> float:
    lock = _lock_of(root, folder.name)
    return max(path.stat().st_mtime for path in (lock, folder) if path.exists())


def _lock_of(root: Path, key: str) -> Path:
    return root / "locks" / f"{key}.use"
