"""A full disk, said in one line whoever met it: PyTorch, safetensors and Arrow each have words of their own for it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left on device", "os error 28)", "Disk quota exceeded", "os error 122)")
_NO_ROOM = 1 << 20  # bytes: PyTorch's writer does not say why it failed, but a disk with less than that is full


class DiskFullError(OSError):
    """Nothing more can be written; what is finished stays."""

    def __str__(self) -> str:
        return str(self.args[-1])


@contextmanager
def full_disk_said(folder: Path) -> Iterator[None]:
    """Turn whatever a full disk raises in the block into one error that says so.

    Args:
        folder: Where the block writes.

    Raises:
        DiskFullError: The disk, or the user's share of it, is full.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not _means_full(error, folder):
            raise
        raise DiskFullError(
            errno.ENOSPC,
            f"no space left on the disk of {folder}; what is finished stays, and the same command goes on when there "
            "is room (python -m raylab.storage shows what takes it)",
        ) from error


def _means_full(error: BaseException | None, folder: Path) -> bool:
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _ERRORS:
            return True
        words = str(error)
        if any(phrase in words for phrase in _WORDS):
            return True
        if "inline_container" in words and _free(folder) < _NO_ROOM:
            return True
        error = error.__cause__ or error.__context__
    return False


def _free(folder: Path) -> int:
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free
