"""Files of an object store, by fsspec: patient with a store that is away, and never with half a file."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs

from raylab.atomic import atomic_path
from raylab.data.location import remedy
from raylab.errors import InputError, one_line
from raylab.search.disk import DiskFullError, full_disk_said

PATIENCE_SECONDS = 900.0
"""How long a store may be away before the work that needs it fails."""

PROBE_SECONDS = 20.0
"""How long a store may take to answer before anything starts."""

_LONGEST_PAUSE = 30.0
_AT_ONCE = 8  # files under way
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, DiskFullError, TypeError, NotImplementedError)
_SECRET = re.compile(r"^[^/]+://[^/@]*:[^/@]*@")
_T = TypeVar("_T")


class ObjectStore:
    """The files below a URI; names are relative to it.

    Every method tries again while the store is away, for `patience` seconds.

    Args:
        uri: Such as s3://bucket/prefix. Credentials, region and endpoint come from the environment.
        patience: Seconds.

    Raises:
        FileNotFoundError: A file, or the bucket, is not there.
        PermissionError: The store refuses.
        ConnectionError: It was away for too long.
    """

    def __init__(self, uri: str, patience: float = PATIENCE_SECONDS) -> None:
        self.uri = uri
        self._patience = patience
        options: dict[str, Any] = {"use_listings_cache": False}  # other machines write there too
        if uri.partition("://")[0] in ("s3", "s3a"):
            options["config_kwargs"] = {"connect_timeout": 5, "retries": {"max_attempts": 2}}
        self._system, self._path = url_to_fs(uri, **options)
        self._path = self._path.rstrip("/")

    def read(self, name: str) -> bytes:
        """The contents of a file."""
        contents: bytes = self._persist(f"reading {name}", lambda: self._system.cat_file(self._full(name)))
        return contents

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """The contents of several files; those that are not there are left out."""

        def read(name: str) -> tuple[str, bytes] | None:
            try:
                return name, self.read(name)
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(4 * _AT_ONCE) as pool:
            return dict(found for found in pool.map(read, names) if found is not None)

    def write(self, name: str, contents: bytes) -> None:
        """Write a file, in place of one that is there."""
        self._persist(f"writing {name}", lambda: self._system.pipe_file(self._full(name), contents))

    def create(self, name: str, contents: bytes) -> bool:
        """Write a file that is not there; whether it was not."""
        try:
            self._persist(f"writing {name}", lambda: self._system.pipe_file(self._full(name), contents, mode="create"))
        except FileExistsError:
            return False
        return True

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        return self.version(name) is not None

    def version(self, name: str) -> str | None:
        """What changes when a file is written again, as far as the store says; None where it is not there."""
        try:
            info = self._persist(f"looking for {name}", lambda: self._system.info(self._full(name)))
        except FileNotFoundError:
            return None
        return version_of(info) if info["type"] == "file" else None

    def files(self, folder: str) -> dict[str, Mapping[str, Any]]:
        """What the store says of all files below a folder, by their names in it."""
        top = self._full(folder) if folder else self._path
        found = self._persist(f"listing {folder}", lambda: self._system.find(top, detail=True))
        start = len(top) + 1
        return {name[start:]: info for name, info in found.items() if name[:start] == f"{top}/"}

    def upload(self, files: Mapping[str, Path]) -> None:
        """Write files, by name; each appears whole."""
        put = self._system.put_file
        self._each([(f"writing {name}", partial(put, str(path), self._full(name))) for name, path in files.items()])

    def download(self, files: Mapping[str, Path]) -> None:
        """Copy files to paths, whose folders are made; each appears whole.

        Raises:
            DiskFullError: There is no room for them.
        """

        def get(name: str, path: Path) -> None:
            with full_disk_said(path.parent), atomic_path(path) as temporary:
                self._system.get_file(self._full(name), str(temporary))

        self._each([(f"reading {name}", partial(get, name, path)) for name, path in files.items()])

    def copy(self, source: str, target: str) -> None:
        """Copy a file inside the store."""
        self._persist(f"copying {source}", lambda: self._system.cp_file(self._full(source), self._full(target)))

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not there are no matter."""

        def remove(name: str) -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._full(name))

        self._each([(f"deleting {name}", partial(remove, name)) for name in names])

    def _full(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _each(self, actions: list[tuple[str, Callable[[], Any]]]) -> None:
        if len(actions) < 2:
            for what, action in actions:
                self._persist(what, action)
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(self._persist, what, action) for what, action in actions]:
                done.result()

    def _persist(self, what: str, action: Callable[[], _T]) -> _T:
        begun, pause = time.monotonic(), 1.0
        while True:
            try:
                return action()
            except _FINAL:
                raise
            except Exception as error:  # of whatever library
                waited = time.monotonic() - begun
                if waited >= self._patience:
                    after = f" for {waited / 60:.0f} minutes" if waited >= 60 else ""
                    raise ConnectionError(f"{what} in {self.uri} failed{after}: {one_line(error)}") from error
                if pause == 1.0:
                    logging.getLogger(__name__).warning("%s in %s: %s; trying again", what, self.uri, one_line(error))
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


@lru_cache(maxsize=8)
def connect(uri: str) -> ObjectStore:
    """The store of a URI: one for each process."""
    return ObjectStore(uri)


def version_of(info: Mapping[str, Any]) -> str:
    """What changes when a file is written again, from what the store says of it."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "generation", "mtime", "created"):
        if info.get(name):
            return f"{info['size']} {info[name]}"
    return str(info["size"])


def check_uri(location: str) -> str:
    """A URI as it is kept: without a slash at the end.

    Raises:
        InputError: It holds a password, or is of a store that other processes do not see.
    """
    if _SECRET.match(location):
        protocol = location.partition("://")[0]
        raise InputError(
            f"--storage {protocol}://...: found a password in it; credentials belong in the environment, where "
            "logs do not show them"
        )
    if location.startswith("memory:"):
        raise InputError(f"--storage {location}: no other process sees it; a path or s3://bucket/folder would do")
    if not location.partition("://")[2].strip("/"):
        raise InputError(f"--storage {location}: no bucket; s3://bucket/folder would do")
    return location.rstrip("/")


def probe(uri: str) -> None:
    """Write, read, list and delete a file, so that what is wrong is known before anything starts.

    Raises:
        InputError: One of these failed, or the store does not answer.
    """
    doing = ["reached"]
    errors: list[BaseException] = []

    def act() -> None:
        try:
            store = ObjectStore(uri, patience=0.0)
            name = f".probe/{os.uname().nodename}-{uuid.uuid4().hex}"
            doing[0] = "written"
            store.write(name, b"raylab")
            doing[0] = "read"
            if store.read(name) != b"raylab":
                raise OSError("what was written does not come back")
            doing[0] = "listed"
            if name.partition("/")[2] not in store.files(".probe"):
                raise OSError("what was written is not in the list")
            doing[0] = "deleted from"
            store.delete([name])
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act, name="storage-probe", daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if thread.is_alive():
        raise InputError(f"--storage {uri}: cannot be {doing[0]}: no answer within {PROBE_SECONDS:.0f} seconds")
    if errors:
        raise InputError(f"--storage {uri}: {_reason(uri, doing[0], errors[0])}") from None


def _reason(uri: str, doing: str, error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"{one_line(error)}; {remedy(uri)}"
    if isinstance(error, FileNotFoundError):
        return f"cannot be {doing}: no such bucket; make it first"
    if isinstance(error, ConnectionError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, NotImplementedError | TypeError):
        return f"cannot be {doing}: this kind of URI is read-only; s3://bucket/folder, say, would do"
    return f"cannot be {doing}: {one_line(error)}"
