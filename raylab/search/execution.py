"""One job from its last checkpoint to its record in the storage, whoever drives it."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from raylab.atomic import locked
from raylab.data.source import Source
from raylab.model.matmul import use_widest_matmul
from raylab.search.disk import DiskFullError, full_disk_said
from raylab.search.jobs import Report, start
from raylab.search.plan import Job
from raylab.search.storage import Storage
from raylab.train.distributed import ALONE, Workers
from raylab.train.memory import keep_freed_memory
from raylab.train.run import Measurement, Run

Stamped = tuple[str, float, int, int]
"""A measurement: name, value, step, milliseconds since the epoch."""

_AGREEMENT_SECONDS = 0.5
"""Between two looks at a checkpoint of which some workers still see the one before."""


def set_up_process(threads: int) -> None:
    """Settings of a whole process that trains: its threads, its memory, and who multiplies matrices on its CPU."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    use_widest_matmul()


class Execution:
    """A job under way.

    Begun again after whatever ended it, it goes on from its last checkpoint, and `history` holds what was measured
    before that.

    Several workers that pretrain together have one each, make it at the same time and advance it until it is done; the
    first one alone writes checkpoints and the record.

    Args:
        job: The job; its inputs are finished.
        storage: Where its inputs lie, and its result will.
        source: The study's data.
        device: Where to train: `cpu` or `cuda`.
        checkpoint_seconds: Work between two checkpoints.
        report: Told how far a preparation is.
        workers: Who pretrains together.
        accumulation: Passes in which each of them takes its share of a batch.
        compile: Compile the encoder's layers.

    Attributes:
        history: All measurements so far.
        nodes: Other nodes that it works on: none.
        silence: Seconds for which others have made no progress: there are none.
    """

    nodes: tuple[str, ...] = ()
    silence = 0.0

    def __init__(
        self,
        job: Job,
        storage: Storage,
        source: Source,
        device: str = "cpu",
        checkpoint_seconds: float = 60.0,
        report: Report | None = None,
        *,
        workers: Workers = ALONE,
        accumulation: int = 1,
        compile: bool = False,
    ) -> None:
        begun = time.perf_counter()
        self._job = job
        self._storage = storage
        self._checkpoint_seconds = checkpoint_seconds
        self._workers = workers
        self.history: list[Stamped] = []
        self._seconds = 0.0
        self._started = time.time()
        storage.begin(job.key)
        with full_disk_said(storage.root):
            self._run: Run = start(
                job, storage, source, device, report, workers=workers, accumulation=accumulation, compile=compile
            )
        state = self._read_checkpoint(device)
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

        Of several workers each returns by its own clock, and they are done after the same step.

        Returns:
            What was measured, and whether the job is done.

        Raises:
            DiskFullError: There is no room for what it leaves; its last checkpoint stays.
        """
        begun = time.perf_counter()
        with full_disk_said(self._storage.root):
            fresh = self._stamp(self._run.advance(seconds)) if not self._run.finished else []
        self._seconds += time.perf_counter() - begun
        leads = self._workers.rank == 0
        if self._run.finished:
            if leads:
                self._finish()
            return fresh, True
        if leads and time.monotonic() - self._saved > self._checkpoint_seconds:
            self._saved = time.monotonic()
            with suppress(DiskFullError):  # there may be room the next time, or at least at the end
                self.save()
        return fresh, False

    def close(self) -> None:
        """Let go of it unfinished: it holds nothing that others need."""

    def ask_for_checkpoint(self) -> None:
        """Write a checkpoint soon: at once."""
        self.save()

    def save(self) -> None:
        """Write a checkpoint."""
        state = {
            "run": self._run.state(),
            "history": self.history,
            "seconds": self._seconds,
            "started": self._started,
            "saved": time.time_ns(),
        }
        self._storage.write_checkpoint(self._job.key, state)
        self._saved = time.monotonic()

    def _read_checkpoint(self, device: str) -> dict[str, Any] | None:
        """The last checkpoint, the same one on every worker: none goes on before all hold it.

        They may see different ones for a while, where a network file system shows a file late, or where a worker of an
        earlier group is not dead yet.
        """
        while True:
            state = self._storage.read_checkpoint(self._job.key)
            if self._workers.size == 1:
                return state
            seen = torch.zeros(self._workers.size, dtype=torch.int64, device=device)
            seen[self._workers.rank] = 0 if state is None else state["saved"]
            self._workers.sum([seen])
            if (seen == seen[0]).all():
                return state
            time.sleep(_AGREEMENT_SECONDS)

    def _stamp(self, measurements: list[Measurement]) -> list[Stamped]:
        now = int(time.time() * 1000)
        stamped = [(name, value, step, now) for name, value, step in measurements]
        self.history += stamped
        return stamped

    def _finish(self) -> None:
        """Leave the job's files and its record, unless a sweep of another study that shares the job was faster."""
        folder = self._storage.folder(self._job.key)
        lock = folder / ".finish"
        with full_disk_said(folder), locked(lock):
            # Then its files may be in use already.
            if not self._storage.has_files(self._job.key):
                self._leave(folder)
            lock.unlink(missing_ok=True)

    def _leave(self, folder: Path) -> None:
        begun = time.perf_counter()
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
            "workers": self._workers.size,
            "history": self.history,
        }
        self._storage.write_record(self._job.key, record)
