"""What each kind of job does: a `Run` made from the job's configuration and the folders of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raylab.config import FinetuneJob, ImportJob, PrepareJob, PretrainJob
from raylab.config.probes import ProbeJob
from raylab.data.prepare import prepare
from raylab.data.source import Source
from raylab.model import import_model
from raylab.search.plan import Job
from raylab.search.storage import Storage
from raylab.train.distributed import ALONE, Workers
from raylab.train.finetune import FinetuneRun
from raylab.train.pretrain import PretrainRun
from raylab.train.run import Measurement, Run

Report = Callable[[str, float], None]
"""Told what is being done and the share that is done, by work that `Run.advance` does not cut into pieces."""

_UNUSED: dict[str, tuple[str, ...]] = {
    "pretrain": ("model", "snapshots"),
    "finetune": ("tokens", "snapshots", "state.pt"),
    "probe": ("state.pt",),
}
"""What of its inputs a job does not read."""


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
    """Begin a job whose inputs are finished; what it needs of them is brought to this node.

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
    source = source.on_this_node(storage.root)
    storage.fetch(job.inputs, without=_UNUSED.get(job.kind, ()))
    if isinstance(job.config, PrepareJob):
        return WholeRun(partial(prepare, job.config, source, storage.folder(job.key), report))
    if isinstance(job.config, PretrainJob):
        return PretrainRun(
            job.config,
            prepared_folder=storage.folder(job.inputs[0]),
            folder=storage.folder(job.key),
            before=storage.folder(job.inputs[1]) if len(job.inputs) > 1 else None,
            device=device,
            workers=workers,
            accumulation=accumulation,
            compile=compile,
        )
    if isinstance(job.config, ImportJob):
        model, revision, tokenizer = job.config.model, job.config.revision, job.config.tokenizer
        folder = storage.folder(job.key)
        return WholeRun(partial(import_model, model, folder, revision=revision, tokenizer=tokenizer, report=report))
    if isinstance(job.config, ProbeJob):
        from raylab.probes.run import ProbeRun

        pretrained, prepared = map(storage.folder, job.inputs)
        return ProbeRun(
            job.config,
            model_folder=pretrained / "model",
            snapshots_folder=pretrained / "snapshots",
            prepared_folder=prepared,
            device=device,
        )
    return _finetune(job, job.config, storage, source, device)


@dataclass
class WholeRun:
    """A job whose work is one piece; when it was cut off, all of it is done again that is not in its folder.

    Attributes:
        work: Does all of it, and returns the job's result.
    """

    work: Callable[[], dict[str, Any]]
    finished: bool = False

    @property
    def progress(self) -> float:
        """1 when done, else 0."""
        return float(self.finished)

    def advance(self, seconds: float) -> list[Measurement]:
        """Do all of it."""
        self._result = self.work()
        self.finished = True
        return []

    def state(self) -> dict[str, Any]:
        """Nothing: what is done lies in the job's folder, or is done again."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to load."""

    def finish(self, folder: Path) -> dict[str, Any]:
        """What the work returned."""
        return self._result


def _finetune(job: Job, config: FinetuneJob, storage: Storage, source: Source, device: str) -> Run:
    checkpoint, prepared = (storage.folder(job.inputs[place]) for place in (0, -1))
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
        folder=storage.folder(job.key),
        features_folder=storage.features,
        device=device,
    )
