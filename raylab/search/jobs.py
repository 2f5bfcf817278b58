"""What each kind of job does: a `Run` made from the job's configuration and the folders of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylab.config import FinetuneJob, PrepareJob, PretrainJob
from raylab.data.prepare import prepare
from raylab.data.source import Source
from raylab.search.plan import Job
from raylab.search.storage import Storage
from raylab.train.distributed import ALONE, Workers
from raylab.train.finetune import FinetuneRun
from raylab.train.pretrain import PretrainRun
from raylab.train.run import Measurement, Run

Report = Callable[[str, float], None]
"""Told what is being done and the share that is done, by work that `Run.advance` does not cut into pieces."""


def start(
    job: Job,
    storage: Storage,
    source: Source,
    device: str,
    report: Report | None = None,
    *,
    workers: Workers = ALONE,
    accumulation: int = 1,
    compile: bool = False,
) -> Run:
    """Begin a job whose inputs are finished.

    Args:
        job: The job.
        storage: Where its inputs lie.
        source: The study's data.
        device: Where to train: `cpu` or `cuda`.
        report: Told how far a preparation is.
        workers: Who pretrains together.
        accumulation: Passes in which each worker takes its share of a batch when pretraining.
        compile: Compile the encoder's layers when pretraining.
    """
    if isinstance(job.config, PrepareJob):
        return PrepareRun(job.config, source, storage.folder(job.key), report)
    if isinstance(job.config, PretrainJob):
        return PretrainRun(
            job.config,
            prepared_folder=storage.folder(job.inputs[0]),
            device=device,
            workers=workers,
            accumulation=accumulation,
            compile=compile,
        )
    return _finetune(job, job.config, storage, source, device)


@dataclass
class PrepareRun:
    """Preparation of a language set: one piece of work, started over when it was cut off."""

    config: PrepareJob
    source: Source
    folder: Path
    report: Report | None = None
    finished: bool = False

    @property
    def progress(self) -> float:
        """1 when done, else 0."""
        return float(self.finished)

    def advance(self, seconds: float) -> list[Measurement]:
        """Do all of it."""
        self._statistics = prepare(self.config, self.source, self.folder, self.report)
        self.finished = True
        return []

    def state(self) -> dict[str, Any]:
        """Nothing: a preparation that was cut off starts over."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to load."""

    def finish(self, folder: Path) -> dict[str, Any]:
        """The statistics of the corpora."""
        return self._statistics


def _finetune(job: Job, config: FinetuneJob, storage: Storage, source: Source, device: str) -> Run:
    checkpoint, prepared = (storage.folder(key) for key in job.inputs)
    datasets = {}
    for language in dict.fromkeys((config.train_language, *config.eval_languages)):
        for split in ("train", "dev", "test") if language == config.train_language else ("dev", "test"):
            path = source.dataset(config.task, language, split)
            if path is not None:
                datasets[language, split] = path
    return FinetuneRun(
        config,
        encoder_folder=checkpoint / "model",
        prepared_folder=prepared,
        datasets=datasets,
        fingerprint=job.key,  # it holds the contents of the data
        device=device,
    )
