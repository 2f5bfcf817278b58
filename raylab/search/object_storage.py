"""The storage at a URI of an object store: each node works in a folder of its own, and copies what others will want.

URI/jobs/KEY/...               as `raylab.search.storage` has them; `result.json` is written last
URI/studies/STUDY/...          the search's trials and the sweep's status, copied from the driver every few seconds
URI/studies/STUDY/lease/       who drives the study

CACHE/jobs/KEY/...             a node's copy, or its work under way; with `result.json`, its files are those of the URI
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylab.atomic import atomic_path, locked
from raylab.errors import InputError
from raylab.hashing import fingerprint
from raylab.search.copies import make_room, use_only
from raylab.search.disk import full_disk_said
from raylab.search.lease import Held, Lease
from raylab.search.object_store import ObjectStore, check_uri, connect, probe
from raylab.search.storage import (
    ERROR,
    MODELS,
    PRUNED,
    RECORD,
    Storage,
    checkpoint_name,
    is_lasting,
    lasting_files,
    load_checkpoint,
    save_checkpoint,
)
from raylab.search.study_files import StudyFiles

LEASE_PATIENCE_SECONDS = 20.0
"""How long a sign of life is tried before it is left out."""


@dataclass(frozen=True)
class ObjectStorage(Storage):
    """The results of jobs below a URI, which every node of the cluster reaches.

    Attributes:
        root: This node's own folder.
        uri: The URI.
        cache: Where the node's own folder is, if not in the usual place.
    """

    uri: str = field(kw_only=True)
    cache: Path | None = field(default=None, kw_only=True)
    _listing: dict[str, set[str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _records: dict[str, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)
    _sent: dict[Path, tuple[int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _current: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    def at(cls, uri: str, cache: Path | None = None) -> ObjectStorage:
        """The storage at a URI.

        Args:
            uri: Such as s3://bucket/folder.
            cache: This node's own folder for it; default: a folder in RAYLAB_CACHE, else in ~/.cache/raylab.

        Raises:
            InputError: It cannot be reached, or not be written, listed, read and deleted from; or the node's own folder
                cannot be written.
        """
        uri = check_uri(uri)
        probe(uri)
        storage = cls._on_this_node(uri, cache, 1)
        try:
            (storage.root / "jobs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--storage {uri}: {storage.root}, where this machine keeps its copies, cannot be written "
                f"({error.strerror}); RAYLAB_CACHE names another folder"
            ) from None
        return storage

    @classmethod
    def _on_this_node(cls, uri: str, cache: Path | None, checkpoints: int) -> ObjectStorage:
        return cls(cache or _usual_cache(uri), checkpoints=checkpoints, uri=uri, cache=cache)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another node has another folder, and what this process knows is soon out of date.
        return type(self)._on_this_node, (self.uri, self.cache, self.checkpoints)

    @property
    def location(self) -> str:
        """The URI."""
        return self.uri

    @property
    def _store(self) -> ObjectStore:
        return connect(self.uri)

    # Which jobs are done.

    def is_finished(self, key: str) -> bool:
        """Whether the job's result is there: as `finished` saw it, or asked for where that was not called."""
        if RECORD in self._listing:
            return key in self._listing[RECORD]
        return self._store.exists(_name(key, RECORD))

    def has_files(self, key: str) -> bool:
        """Whether the job is finished and nothing that it left deleted: asked for where `finished` did not see it."""
        if key in self._listing.get(RECORD, ()):
            return key not in self._listing[PRUNED]
        return self._store.exists(_name(key, RECORD)) and not self._store.exists(_name(key, PRUNED))

    def finished(self) -> set[str]:
        """The keys of all finished jobs, in one listing."""
        names = [name.rpartition("/") for name in self._store.files("jobs")]
        for file in (RECORD, PRUNED):
            self._listing[file] = {key for key, _, name in names if name == file and "/" not in key}
        return set(self._listing[RECORD])

    # What other nodes made, and what they will want.

    def begin(self, key: str) -> None:
        """A job begins on this node, or goes on: its folder is no copy any more."""
        (self.folder(key) / RECORD).unlink(missing_ok=True)
        self._current.discard(key)
        make_room(self.root, 0, RECORD)

    def fetch(self, keys: Iterable[str], without: Collection[str] = ()) -> None:
        """Copy the files of finished jobs to this node, as far as they are not there; they stay until the next call."""
        keys = list(keys)
        use_only(self.root, keys)
        for key in keys:
            with locked(self.root / "locks" / key):
                record = self._copy_of_record(key)
                folder = self.folder(key)
                files = json.loads(record)["files"]
                wanted = (name for name in files if name.partition("/")[0] not in without)
                missing = [name for name in wanted if not (folder / name).is_file()]
                if missing:
                    make_room(self.root, sum(files[name] for name in missing), RECORD)
                self._store.download({_name(key, name): folder / name for name in missing})

    def _copy_of_record(self, key: str) -> bytes:
        """A job's record, on this node too; files that belong to another record are removed."""
        folder = self.folder(key)
        path = folder / RECORD
        there = path.read_bytes() if path.is_file() else None
        if there is not None and key in self._current:
            return there
        record = self._store.read(_name(key, RECORD))
        if record != there:  # of another run of the job, or what an unfinished one left
            path.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            with full_disk_said(folder), atomic_path(path) as temporary:
                temporary.write_bytes(record)
        self._current.add(key)
        return record

    def fetch_records(self, keys: Iterable[str]) -> None:
        """Read the records of many finished jobs at once."""
        self._records.update(
            (name.split("/")[1], record)
            for name, record in self._store.read_all(_name(key, RECORD) for key in keys).items()
        )

    def publish(self, key: str, record: bytes) -> None:
        """Copy a job's files to the URI, then its record; then delete what is of no use there any more."""
        folder = self.folder(key)
        there = self._store.files(f"jobs/{key}")
        files = json.loads(record)["files"]
        self._send(key, files, there)
        self._store.write(_name(key, RECORD), record)
        self._store.delete(_name(key, name) for name in there if name not in files and name != RECORD)
        super().publish(key, record)
        for name in files:
            self._sent.pop(folder / name, None)
        self._current.add(key)
        self._note(key, finished=True)

    def _note(self, key: str, *, finished: bool) -> None:
        """Keep what `finished` saw up to date."""
        for known in self._listing.values():
            known.discard(key)
        if finished and RECORD in self._listing:
            self._listing[RECORD].add(key)

    def _send(self, key: str, names: Iterable[str], there: Mapping[str, Any]) -> None:
        """Upload files of a job's folder, but those that this process has uploaded as they are."""
        folder, files = self.folder(key), {}
        for name in names:
            state = _state(folder / name)
            if name not in there or self._sent.get(folder / name) != state:
                files[name] = state
        self._store.upload({_name(key, name): folder / name for name in files})
        self._sent.update({folder / name: state for name, state in files.items()})

    # A job's record, checkpoints and error.

    def read_record(self, key: str) -> dict[str, Any]:
        """What a finished job left."""
        record: dict[str, Any] = json.loads(self._records.pop(key, b"") or self._store.read(_name(key, RECORD)))
        return record

    def write_checkpoint(self, key: str, state: dict[str, Any]) -> None:
        """Keep the state of a job under way, after the files that it has left so far."""
        folder = self.folder(key)
        folder.mkdir(parents=True, exist_ok=True)
        there = self._store.files(f"jobs/{key}")
        path = folder / f".{checkpoint_name(0)}.{uuid.uuid4().hex}"
        try:
            with full_disk_said(folder):
                save_checkpoint(state, path)
            self._send(key, lasting_files(folder), there)
            for age in range(self.checkpoints - 1, 0, -1):
                if checkpoint_name(age - 1) in there:
                    self._store.copy(_name(key, checkpoint_name(age - 1)), _name(key, checkpoint_name(age)))
            self._store.upload({_name(key, checkpoint_name(0)): path})
        finally:
            path.unlink(missing_ok=True)

    def read_checkpoint(self, key: str) -> dict[str, Any] | None:
        """The last state of a job under way that can be read, with the files that it had left by then; or None."""
        there = self._store.files(f"jobs/{key}")
        folder = self.folder(key)
        for age in range(self.checkpoints):
            if checkpoint_name(age) not in there:
                continue
            path = folder / f".{checkpoint_name(age)}.{uuid.uuid4().hex}"
            try:
                self._store.download({_name(key, checkpoint_name(age)): path})
                state = load_checkpoint(path)
            except FileNotFoundError:  # the job has just ended
                continue
            finally:
                path.unlink(missing_ok=True)
            if state is not None:
                here = lasting_files(folder)
                other = [name for name in there if is_lasting(name) and here.get(name) != there[name]["size"]]
                self._store.download({_name(key, name): folder / name for name in other})
                self._sent.update({folder / name: _state(folder / name) for name in there if is_lasting(name)})
                return state
        return None

    def write_error(self, key: str, details: str) -> None:
        """Keep how a job failed."""
        super().write_error(key, details)
        with suppress(OSError):
            self._store.write(_name(key, ERROR), details.encode())

    def read_error(self, key: str) -> str | None:
        """How a job failed, or None where that is not known."""
        try:
            return self._store.read(_name(key, ERROR)).decode()
        except FileNotFoundError:
            return None

    def studies(self) -> list[str]:
        """The names of the studies that have left something there."""
        return sorted({name.partition("/")[0] for name in self._store.files("studies")})

    def read_study_file(self, study: str, name: str) -> str | None:
        """A file of a study's folder as its driver copied it last; None where there is none."""
        try:
            return self._store.read(f"studies/{study}/{name}").decode()
        except FileNotFoundError:
            return None

    def discard(self, key: str) -> None:
        """Forget a job's result and files; other nodes see that their copies are of another run."""
        self._note(key, finished=False)
        self._current.discard(key)
        self._store.delete([_name(key, RECORD)])
        self._store.delete(_name(key, name) for name in self._store.files(f"jobs/{key}"))
        super().discard(key)

    def prune(self, key: str) -> None:
        """Delete the models that a finished job left; its result stays."""
        self._store.write(_name(key, PRUNED), b"")
        self._listing.get(PRUNED, set()).add(key)
        there = self._store.files(f"jobs/{key}")
        self._store.delete(_name(key, name) for name in there if name.partition("/")[0] in MODELS)
        (self.folder(key) / RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.folder(key), ignore_errors=True)

    def files(self) -> Iterator[tuple[str, int]]:
        """All files at the URI, by their path in it, with their bytes."""
        for name, info in self._store.files("").items():
            yield name, int(info.get("size") or 0)

    # A study, which one machine drives.

    def is_driven(self, study: str) -> bool:
        """Whether a sweep of a study is under way."""
        return Lease(self._store, f"studies/{study}/lease").is_held()

    @contextmanager
    def lock_study(self, study: str) -> Iterator[None]:
        """Hold the study's lease, and keep its files at the URI up to date.

        Raises:
            InputError: Another sweep of it runs.
        """
        files = StudyFiles(self.study_folder(study), self._store, f"studies/{study}")
        lease = Lease(
            ObjectStore(self.uri, patience=LEASE_PATIENCE_SECONDS), f"studies/{study}/lease", at_beat=files.push
        )
        with ExitStack() as stack:
            try:
                stack.enter_context(lease)
            except Held as held:
                raise InputError(f"study {study}: another sweep of it runs ({held}); wait for it, or stop it") from None
            files.pull()
            try:
                yield
            finally:
                if not lease.was_lost:  # else they are another's now
                    files.push()


def _usual_cache(uri: str) -> Path:
    base = os.environ.get("RAYLAB_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "raylab")
    readable = re.sub(r"[^A-Za-z0-9]+", "-", uri).strip("-")[:60]
    return Path(base).expanduser().resolve() / f"{readable}-{fingerprint(uri)[:8]}"


def _name(key: str, file: str) -> str:
    return f"jobs/{key}/{file}"


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
