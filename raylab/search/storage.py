"""Where the results of jobs lie: one folder a job, named by its key, finished when it holds `result.json`.

ROOT/jobs/KEY/result.json      written last and at once: the job is done
ROOT/jobs/KEY/checkpoint.pt    of a job under way; older ones are checkpoint.1.pt and so on
ROOT/jobs/KEY/error.txt        of a job that failed: how
ROOT/jobs/KEY/pruned           its models were deleted; its result counts as ever
ROOT/jobs/KEY/...              what the job leaves: a tokenizer and token stores, a model, predictions
ROOT/studies/STUDY/            what belongs to one study: its search, its lock
ROOT/features/                 tokenized datasets, which all jobs share; made anew where they are missing

The root is a folder that all nodes see, or an object store (`raylab.search.object_storage`), which has jobs and studies
alone: the rest is each node's own.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pickle
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylab.atomic import atomic_path, make_durable
from raylab.data.location import is_url
from raylab.errors import InputError
from raylab.search.disk import full_disk_said

RECORD, PRUNED, ERROR = "result.json", "pruned", "error.txt"
MODELS = ("model", "state.pt", "snapshots", "epochs", "best")
"""What pruning deletes of a job."""

_PASSING = ("train", "text", "done.json")  # of a job under way: Ray Train's notes, text, and how far a preparation is


@dataclass(frozen=True)
class Storage:
    """The results of jobs under one root folder, which every node of the cluster sees.

    Attributes:
        root: The folder; for a storage elsewhere this node's own, where it keeps what it works on.
        checkpoints: How many checkpoints of a job under way are kept.
    """

    root: Path
    checkpoints: int = field(default=1, kw_only=True)

    def __deepcopy__(self, memo: object) -> Storage:
        return self  # Ray Tune would copy all that it knows for every job

    @classmethod
    def open(cls, location: str) -> Storage:
        """The storage at a path or URI, made if it is not there.

        Raises:
            InputError: It cannot be reached, or not be written, listed, read and deleted from.
        """
        if not location:  # of a shell variable that is not set
            raise InputError("--storage: empty; a folder or a URI is needed")
        path = location.removeprefix("file://")
        if is_url(path):
            from raylab.search.object_storage import ObjectStorage  # fsspec's packages take a second

            return ObjectStorage.at(path)
        root = Path(path).expanduser().resolve()
        try:
            (root / "jobs").mkdir(parents=True, exist_ok=True)
            probe = root / f".write-{os.getpid()}"
            probe.write_bytes(b"raylab")
            probe.unlink()
        except OSError as error:
            raise InputError(f"--storage {location}: cannot be written: {error.strerror}") from None
        return cls(root)

    @property
    def location(self) -> str:
        """Path or URI, as users name it."""
        return str(self.root)

    def location_of(self, key: str) -> str:
        """Where a job's lasting files lie, for people."""
        return f"{self.location}/jobs/{key}"

    def folder(self, key: str) -> Path:
        """The folder of the job's lasting files, on this node."""
        return self.root / "jobs" / key

    @property
    def features(self) -> Path:
        """The folder of tokenized datasets."""
        return self.root / "features"

    def study_folder(self, study: str) -> Path:
        """The folder of what belongs to one study, made if it is not there; the driver's own."""
        folder = self.root / "studies" / study
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def studies(self) -> list[str]:
        """The names of the studies that have left something here."""
        return sorted(path.name for path in (self.root / "studies").glob("*") if path.is_dir())

    # Which jobs are done.

    def is_finished(self, key: str) -> bool:
        """Whether the job's result is there: for its own sake it need not run."""
        return os.path.exists(f"{self.root}/jobs/{key}/{RECORD}")  # noqa: PTH110  # asked for many thousands at once

    def has_files(self, key: str) -> bool:
        """Whether the job is finished, right now, and nothing that it left was deleted: another can start from it."""
        return self.is_finished(key) and not (self.folder(key) / PRUNED).exists()

    def finished(self) -> set[str]:
        """The keys of all finished jobs, in one pass; of an object store, what `is_finished` answers from then on."""
        with os.scandir(self.root / "jobs") as entries:
            return {entry.name for entry in entries if os.path.exists(f"{entry.path}/{RECORD}")}  # noqa: PTH110  # many

    # What other nodes made, and what they will want.

    def begin(self, key: str) -> None:
        """A job begins on this node, or goes on."""

    def fetch(self, keys: Iterable[str], without: Collection[str] = ()) -> None:
        """Bring the files of finished jobs to this node.

        Args:
            keys: The jobs.
            without: Names in their folders that are of no use here.
        """

    def fetch_records(self, keys: Iterable[str]) -> None:
        """Bring the records of many finished jobs to this process at once, ahead of `read_record`."""

    def publish(self, key: str, record: bytes) -> None:
        """Make a job's files, then its record, visible to all nodes."""
        with atomic_path(self.folder(key) / RECORD, durable=True) as temporary:
            temporary.write_bytes(record)
        for path in self._ended(key):
            path.unlink(missing_ok=True)

    # A job's record, checkpoints and error.

    def read_record(self, key: str) -> dict[str, Any]:
        """What a finished job left: result, history of measurements, times, files (bytes by name).

        Raises:
            FileNotFoundError: The job is not finished.
        """
        record: dict[str, Any] = json.loads((self.folder(key) / RECORD).read_text(encoding="utf-8"))
        return record

    def write_record(self, key: str, record: dict[str, Any]) -> None:
        """Declare the job finished: all its files are on the disk, and its checkpoints are no longer needed.

        Raises:
            DiskFullError: There is no room for it; what was there stays.
        """
        folder = self.folder(key)
        with full_disk_said(folder):
            files = lasting_files(folder)
            for name in {name.partition("/")[0] for name in files}:
                make_durable(folder / name)
            self.publish(key, json.dumps({**record, "files": files}).encode())

    def write_checkpoint(self, key: str, state: dict[str, Any]) -> None:
        """Keep the state of a job under way.

        Raises:
            DiskFullError: There is no room for it; the one before stays.
        """
        folder = self.folder(key)
        with full_disk_said(folder), atomic_path(folder / checkpoint_name(0), durable=True) as temporary:
            save_checkpoint(state, temporary)
            for age in range(self.checkpoints - 1, 0, -1):
                with suppress(FileNotFoundError):
                    if age > 1:
                        (folder / checkpoint_name(age - 1)).replace(folder / checkpoint_name(age))
                    else:
                        (folder / checkpoint_name(1)).unlink(missing_ok=True)
                        (folder / checkpoint_name(1)).hardlink_to(folder / checkpoint_name(0))

    def read_checkpoint(self, key: str) -> dict[str, Any] | None:
        """The last state of a job under way that can be read, or None."""
        for age in range(self.checkpoints):
            path = self.folder(key) / checkpoint_name(age)
            if path.is_file() and (state := load_checkpoint(path)) is not None:
                return state
        return None

    def write_error(self, key: str, details: str) -> None:
        """Keep how a job failed, if there is room."""
        with suppress(OSError), atomic_path(self.folder(key) / ERROR) as temporary:
            temporary.write_text(details, encoding="utf-8")

    def read_error(self, key: str) -> str | None:
        """How a job failed, or None where that is not known."""
        try:
            return (self.folder(key) / ERROR).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def read_study_file(self, study: str, name: str) -> str | None:
        """A file of a study's folder, from whichever machine drives it; None where there is none."""
        try:
            return (self.root / "studies" / study / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def discard(self, key: str) -> None:
        """Forget a job's result and files."""
        folder = self.folder(key)
        (folder / RECORD).unlink(missing_ok=True)  # first, so that a half-removed job is not a finished one
        shutil.rmtree(folder, ignore_errors=True)

    def prune(self, key: str) -> None:
        """Delete the models that a finished job left; its result stays; it runs again where another needs them."""
        folder = self.folder(key)
        with atomic_path(folder / PRUNED, durable=True) as temporary:  # first: what is half deleted is of no use
            temporary.touch()
        for name in MODELS:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def files(self) -> Iterator[tuple[str, int]]:
        """All files, by their path below the root, with their bytes."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118  # there may be a hundred thousand
                with suppress(FileNotFoundError):
                    yield os.path.relpath(path, self.root), os.lstat(path).st_size

    def is_driven(self, study: str) -> bool:
        """Whether a sweep of a study is under way."""
        try:
            with (self.root / "studies" / study / "lock").open("a") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    @contextmanager
    def lock_study(self, study: str) -> Iterator[None]:
        """Keep a second sweep of the same study out of the same storage.

        Raises:
            InputError: Another one runs; or the file system cannot lock files.
        """
        path = self.study_folder(study) / "lock"
        with path.open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                raise InputError(
                    f"study {study}: another sweep of it runs ({stream.read().strip()}); wait for it, or stop it"
                ) from None
            except OSError as error:
                raise InputError(
                    f"--storage {self.location}: files cannot be locked there ({error.strerror}), which is to keep two "
                    "sweeps of one study apart; mount it with locks"
                ) from None
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {socket.gethostname()}")
            stream.flush()
            yield

    def _ended(self, key: str) -> list[Path]:
        """Files of a job's folder that are of no use when it is finished."""
        folder = self.folder(key)
        return [*folder.glob("checkpoint*.pt"), folder / ERROR, folder / PRUNED]


def checkpoint_name(age: int) -> str:
    """The file of the last checkpoint (age 0), or of one before it."""
    return f"checkpoint.{age}.pt" if age else "checkpoint.pt"


def is_lasting(name: str) -> bool:
    """Whether a file of a job's folder is what the job leaves, given its path in there."""
    top, _, _ = name.partition("/")
    passing = top in (*_PASSING, RECORD, ERROR, PRUNED) or (top.startswith("checkpoint.") and top.endswith(".pt"))
    passing = passing or (top.startswith("log.") and top.endswith(".txt"))  # what its processes printed
    return not passing and not any(part.startswith(".") for part in name.split("/"))


def lasting_files(folder: Path) -> dict[str, int]:
    """Bytes of the files that a job leaves, by their path in its folder."""
    found: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if is_lasting(name) and path.is_file():
            found[name] = path.stat().st_size
    return found


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write the state of a job under way to a new file."""
    import torch  # commands that only look at results need not wait for it

    with path.open("wb") as stream:  # so that a full disk is an OSError, if only as what the error came of
        torch.save(state, stream)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, or None where the file is broken."""
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        logging.getLogger(__name__).warning("%s: broken, and left out (%s)", path, error)
        return None
    return state
