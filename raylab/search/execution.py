"""One job from its last checkpoint to its record in the storage, whoever drives it."""

from __future__ import annotations

import os
import socket
import time

from raylab.data.source import Source
from raylab.search.jobs import Report, start
from raylab.search.plan import Job
from raylab.search.storage import Storage
from raylab.train.run import Measurement, Run

Stamped = tuple[str, float, int, int]
"""A measurement: name, value, step, milliseconds since the epoch."""


class Execution:
    """A job under way.

    Begun again after whatever ended it, it goes on from its last checkpoint, and `history` holds what was measured
    before that.

    Args:
        job: The job; its inputs are finished.
        storage: Where its inputs lie, and its result will.
        source: The study's data.
        device: Where to train: `cpu` or `cuda`.
        checkpoint_seconds: Work between two checkpoints.
        report: Told how far a preparation is.

    Attributes:
        history: All measurements so far.
    """

    def __init__(
        self,
        job: Job,
        storage: Storage,
        source: Source,
        device: str = "cpu",
        checkpoint_seconds: float = 60.0,
        report: Report | None = None,
    ) -> None:
        begun = time.perf_counter()
        self._job = job
        self._storage = storage
        self._checkpoint_seconds = checkpoint_seconds
        self.history: list[Stamped] = []
        self._seconds = 0.0
        self._started = time.time()
        self._run: Run = start(job, storage, source, device, report)
        state = storage.read_checkpoint(job.key)
        if state is not None:
            self._run.load_state(state["run"])
            self.history, self._seconds, self._started = state["history"], state["seconds"], state["started"]
        self._saved = time.monotonic()
        self._seconds += time.perf_counter() - begun

    @property
    def progress(self) -> float:
        """Share of the work that is done, from 0 to 1."""
        return self._run.progress

    def advance(self, seconds: float) -> tuple[list[Stamped], bool]:
        """Work for about `seconds`, then write a checkpoint if one is due or, at the end, the record.

        Returns:
            What was measured, and whether the job is done.
        """
        begun = time.perf_counter()
        fresh = self._stamp(self._run.advance(seconds)) if not self._run.finished else []
        self._seconds += time.perf_counter() - begun
        if self._run.finished:
            self._finish()
            return fresh, True
        if time.monotonic() - self._saved > self._checkpoint_seconds:
            self.save()
        return fresh, False

    def save(self) -> None:
        """Write a checkpoint."""
        state = {"run": self._run.state(), "history": self.history, "seconds": self._seconds, "started": self._started}
        self._storage.write_checkpoint(self._job.key, state)
        self._saved = time.monotonic()

    def _stamp(self, measurements: list[Measurement]) -> list[Stamped]:
        now = int(time.time() * 1000)
        stamped = [(name, value, step, now) for name, value, step in measurements]
        self.history += stamped
        return stamped

    def _finish(self) -> None:
        begun = time.perf_counter()
        folder = self._storage.folder(self._job.key)
        folder.mkdir(parents=True, exist_ok=True)
        result = self._run.finish(folder)
        self._seconds += time.perf_counter() - begun
        record = {
            "key": self._job.key,
            "kind": self._job.kind,
            "config": self._job.config.model_dump(mode="json"),
            "inputs": self._job.inputs,
            "result": result,
            "seconds": self._seconds,
            "started": self._started,
            "ended": time.time(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "history": self.history,
        }
        self._storage.write_record(self._job.key, record)
