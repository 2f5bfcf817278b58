"""Tokenized datasets: made once on a machine, then shared by all its jobs and processes.

A dataset's features lie in one file, named by all that they depend on. Processes that want the same ones at the same
time make them once; each then maps the file, so that their arrays are in memory once for all of them. The strings that
come with them are each process's own.
"""

from __future__ import annotations

import logging
import mmap
import pickle
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import raylab.data.labelled
import raylab.data.tokenizer
import raylab.tasks
from raylab.atomic import atomic_path, locked
from raylab.data.labelled import Labelled
from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.hashing import fingerprint, fingerprint_files
from raylab.tasks import get_task

_MOST_DATASETS = 64  # that a process keeps
_MOST_FINGERPRINTS = 1024
_MAGIC = b"raylab features\n"
_ALIGNMENT = 64  # bytes; of the arrays in a file
_SETTLED_SECONDS = 2.0  # a file older than that shows a change in its times

Dataset = Path | Labelled
"""What `Task.read` takes."""


def load_features(
    task: str, dataset: Dataset, tokenizer: Path, max_length: int, stride: int, folder: Path | None = None
) -> Any:
    """The features of a labelled dataset: made on first use, then kept for as long as its contents stay the same.

    Args:
        task: Name of the task.
        dataset: What the task reads.
        tokenizer: The tokenizer's model file or folder.
        max_length: Longest sequence in tokens.
        stride: Tokens that two neighbouring windows of a long text share.
        folder: Where features are kept for other processes; None: in this process alone.

    Returns:
        The task's features; shared between callers, never to be changed.

    Raises:
        InputError: A file is missing, or cannot be read as what it should be.
    """
    dataset = Labelled.of(dataset)
    contents = [dataset.path.name, _contents(dataset), _contents(tokenizer)]  # a name's suffix may say how to read it
    key = fingerprint([_code(), task, contents, max_length, stride])
    return kept_features(key, folder, task, dataset, tokenizer, max_length, stride)


@lru_cache(maxsize=_MOST_DATASETS)
def kept_features(
    key: str, folder: Path | None, task: str, dataset: Dataset, tokenizer: Path, max_length: int, stride: int
) -> Any:
    """`load_features` of contents that `key` stands for: `kept_features.cache_info()` tells what this process keeps."""

    def make() -> Any:
        kind = get_task(task)
        return kind.features(kind.read(dataset), Tokenizer.load(tokenizer), max_length, stride)

    return make() if folder is None else _shared(folder / key, make)


def _contents(what: Path | Labelled) -> str:
    """Fingerprint of a dataset, file or folder; contents are read again only where sizes or times have changed.

    Raises:
        InputError: It is not there.
    """
    path = what if isinstance(what, Path) else what.path
    try:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        states = tuple((file, *_times_and_size(file)) for file in files)
        if all(time.time() - changed / 1e9 > _SETTLED_SECONDS for _, changed, _ in states):
            return _settled_contents(what, states)
        return _fingerprint(what, files)  # another change could still leave the time as it is
    except OSError as error:
        raise InputError.at(path, None, f"cannot be read ({error.strerror}); it should be there") from None


@lru_cache(maxsize=_MOST_FINGERPRINTS)
def _settled_contents(what: Path | Labelled, states: tuple[tuple[Path, int, int], ...]) -> str:
    return _fingerprint(what, [file for file, _, _ in states])


def _fingerprint(what: Path | Labelled, files: list[Path]) -> str:
    return fingerprint_files(files) if isinstance(what, Path) else what.fingerprint()


def _times_and_size(file: Path) -> tuple[int, int]:
    status = file.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns), status.st_size


@cache
def _code() -> str:
    """Fingerprint of the code that makes features, so that a change of it makes them anew."""
    files = (Path(str(module.__file__)) for module in (raylab.data.labelled, raylab.data.tokenizer))
    return fingerprint_files([*sorted(Path(raylab.tasks.__file__).parent.glob("*.py")), *files])


def _shared(path: Path, make: Callable[[], Any]) -> Any:
    """What a file holds, made by whoever comes first while others wait; a file that is not whole is made anew."""
    if (found := _read(path)) is not None:
        return found
    with locked(path.with_suffix(".lock")):
        if (found := _read(path)) is not None:
            return found
        features = make()
        with atomic_path(path) as temporary:
            _write(temporary, features)
        return _read(path)


def _write(path: Path, value: Any) -> None:
    """Write a value: magic, checksum of the rest, sizes, its pickle, and its arrays as they are in memory."""
    arrays: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    parts = [memoryview(stream), *(array.raw() for array in arrays)]
    sizes = struct.pack(f"<{1 + len(parts)}Q", len(parts), *(len(part) for part in parts))
    checksum = zlib.crc32(sizes)
    with path.open("wb") as file:
        file.write(_MAGIC + bytes(4) + sizes)
        for part in parts:
            for piece in (memoryview(bytes(-file.tell() % _ALIGNMENT)), part):
                file.write(piece)
                checksum = zlib.crc32(piece, checksum)
        file.seek(len(_MAGIC))
        file.write(struct.pack("<I", checksum))


def _read(path: Path) -> Any:
    """What `_write` wrote, its arrays mapped from the file and read-only; None where it is missing or not whole."""
    try:
        with path.open("rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        return None
    except ValueError:  # it is empty
        view = memoryview(b"")
    start = len(_MAGIC) + 4
    checksum = struct.pack("<I", zlib.crc32(view[start:]))
    if view[:start] != _MAGIC + checksum:
        logging.getLogger(__name__).warning("%s: not whole; made anew", path)
        return None
    (count,) = struct.unpack_from("<Q", view, start)
    sizes = struct.unpack_from(f"<{count}Q", view, start + 8)
    place = start + 8 * (1 + count)
    parts = []
    for size in sizes:
        place += -place % _ALIGNMENT
        parts.append(view[place : place + size])
        place += size
    return pickle.loads(parts[0], buffers=parts[1:])
