"""The files of a study's folder, which its driver writes in a folder of its own and copies to an object store."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from raylab.atomic import atomic_path
from raylab.search.object_store import ObjectStore, version_of

_VERSIONS = ".versions.json"  # of the files in the store that those here were copied to, or from
_OWN = re.compile(r"^(\.|lock$)|(-wal|-shm|-journal)$")  # no other machine can use them
_LOGS = ("-wal", "-shm", "-journal")  # SQLite's, beside a database


class StudyFiles:
    """The files of one study, on the machine that drives it.

    Args:
        folder: Where they are written.
        store: Where they are copied to.
        name: Of the study's folder there.
    """

    def __init__(self, folder: Path, store: ObjectStore, name: str) -> None:
        self._folder = folder
        self._store = store
        self._name = name
        self._pushed: dict[str, tuple[int, int]] = {}

    def pull(self) -> None:
        """Take what another machine left, where this one's files do not go on from that."""
        there = self._store.files(self._name)
        versions = {file: version_of(info) for file, info in there.items() if "/" not in file}
        known = self._known()
        for file, version in versions.items():
            path = self._folder / file
            if known.get(file) == version and path.is_file():
                continue
            for log in _LOGS:
                path.with_name(f"{file}{log}").unlink(missing_ok=True)
            self._store.download({f"{self._name}/{file}": path})
        self._know(versions)

    def push(self) -> None:
        """Copy the files that have changed."""
        known = self._known()
        for path in sorted(self._folder.iterdir()):
            if not path.is_file() or _OWN.search(path.name):
                continue
            with suppress(FileNotFoundError):  # it is gone meanwhile
                state = _state(path)
                if self._pushed.get(path.name) == state:
                    continue
                with _steady(path) as copy:
                    self._store.upload({f"{self._name}/{path.name}": copy})
                self._pushed[path.name] = state
                known[path.name] = self._store.version(f"{self._name}/{path.name}") or ""
        self._know(known)

    def _known(self) -> dict[str, str]:
        try:
            known: dict[str, str] = json.loads((self._folder / _VERSIONS).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return known

    def _know(self, versions: Mapping[str, str]) -> None:
        with atomic_path(self._folder / _VERSIONS) as temporary:
            temporary.write_text(json.dumps(versions), encoding="utf-8")


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written, or SQLite's log beside it."""
    states = [path.stat()]
    log = path.with_name(f"{path.name}-wal")
    if log.is_file():
        states.append(log.stat())
    return sum(status.st_size for status in states), max(status.st_mtime_ns for status in states)


@contextmanager
def _steady(path: Path) -> Iterator[Path]:
    """A copy of a file that nobody is writing: of a database as SQLite makes one."""
    copy = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(copy)) as target:
                database.backup(target)
        else:
            shutil.copyfile(path, copy)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
