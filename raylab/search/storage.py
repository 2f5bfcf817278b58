"""Where the results of jobs lie: one folder a job, named by its key, finished when it holds `result.json`.

ROOT/jobs/KEY/result.json      written last and at once: the job is done
ROOT/jobs/KEY/checkpoint.pt    of a job under way
ROOT/jobs/KEY/...              what the job leaves: a tokenizer and token stores, a model, predictions
ROOT/studies/STUDY/            what belongs to one study: its search, its lock
ROOT/features/                 tokenized datasets, which all jobs share; made anew where they are missing
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raylab.data.atomic import atomic_path
from raylab.errors import InputError


@dataclass(frozen=True)
class Storage:
    """The results of jobs under one root folder, which every node of the cluster sees."""

    root: Path

    @classmethod
    def open(cls, location: str) -> Storage:
        """The storage at a path, made if it is not there.

        Raises:
            InputError: It is not a local path, or cannot be written.
        """
        path = location.removeprefix("file://")
        if "://" in path:
            raise InputError(f"--storage {location}: a folder that all nodes see is needed (a local or network path)")
        root = Path(path).expanduser().resolve()
        try:
            (root / "jobs").mkdir(parents=True, exist_ok=True)
            probe = root / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"--storage {location}: cannot be written: {error.strerror}") from None
        return cls(root)

    def folder(self, key: str) -> Path:
        """The folder of the job's lasting files."""
        return self.root / "jobs" / key

    @property
    def features(self) -> Path:
        """The folder of tokenized datasets."""
        return self.root / "features"

    def study_folder(self, study: str) -> Path:
        """The folder of what belongs to one study, made if it is not there."""
        folder = self.root / "studies" / study
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def is_finished(self, key: str) -> bool:
        """Whether the job's result is there."""
        return (self.folder(key) / "result.json").is_file()

    def read_record(self, key: str) -> dict[str, Any]:
        """What a finished job left: result, history of measurements, times.

        Raises:
            FileNotFoundError: The job is not finished.
        """
        record: dict[str, Any] = json.loads((self.folder(key) / "result.json").read_text(encoding="utf-8"))
        return record

    def write_record(self, key: str, record: dict[str, Any]) -> None:
        """Declare the job finished; its checkpoint is no longer needed."""
        folder = self.folder(key)
        with atomic_path(folder / "result.json") as temporary:
            temporary.write_text(json.dumps(record), encoding="utf-8")
        for name in ("checkpoint.pt", "error.txt"):
            (folder / name).unlink(missing_ok=True)

    def write_checkpoint(self, key: str, state: dict[str, Any]) -> None:
        """Keep the state of a job under way, in place of the one before."""
        folder = self.folder(key)
        with atomic_path(folder / "checkpoint.pt") as temporary:
            torch.save(state, temporary)

    def read_checkpoint(self, key: str) -> dict[str, Any] | None:
        """The last state of a job under way, or None."""
        path = self.folder(key) / "checkpoint.pt"
        if not path.is_file():
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
        return state

    def discard(self, key: str) -> None:
        """Forget a job's result and files."""
        folder = self.folder(key)
        (folder / "result.json").unlink(missing_ok=True)  # first, so that a half-removed job is not a finished one
        shutil.rmtree(folder, ignore_errors=True)
