"""How long a job takes: counted operations over a measured speed, corrected by jobs that ran here before."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from raylab.atomic import atomic_path
from raylab.config import ADAPTER_VARIANTS, FinetuneJob, ModelConfig, PretrainJob
from raylab.config.probes import ProbeJob
from raylab.search.plan import Job
from raylab.search.storage import Storage

ASSUMED_TFLOPS = 30.0
"""Of one GPU that trains in half precision, where none was timed: a V100's share of its 125 or so."""

EFFICIENCY = 0.25
"""Share of the matrix-product rate that training small models reaches, before any job was timed."""

STEP_SECONDS = 4e-3
"""Cost of an optimizer step beside its matrix products."""

PREPARE_SECONDS = 5.0
"""A preparation, before any was timed."""

WORKERS_SECONDS = 8.0
"""To start the training workers of a job."""

GLIMPSE_SECONDS = 5.0
"""Work of a running job before it tells how long it will take: the first steps are slow."""

SENTENCE_TOKENS = 24
"""Subwords of one sentence of a tagging task."""

TEXT_TOKENS = 150
"""Subwords of a pair of sentences, or of a question with its context, where a sequence may be as long."""

EXTERNAL = ModelConfig(num_layers=12, dim=768, num_heads=12, ffn_dim=3072)
"""Sizes of a model from elsewhere, before any was timed: BERT base's."""

_SPEEDS = "speeds.json"


class Estimator:
    """Estimates the seconds of jobs, better the more jobs of their kind have run over this storage.

    Args:
        storage: Where earlier sweeps left the speed that they counted with, and the ratios of real to counted time.
        jobs: The jobs that finetune jobs start from, by key.
        sizes: Training examples by task and language.
        num_workers: Training workers of a pretraining job.
        speed: Operations a second of one worker, as `training_flops` counts them; earlier sweeps then count for
            nothing. Default: from their times and, before any, from this machine's matrix products.
        on_gpu: Whether the workers have GPUs; before any was timed their speed is assumed.
    """

    def __init__(
        self,
        storage: Storage,
        jobs: Mapping[str, Job],
        sizes: Mapping[tuple[str, str], int],
        num_workers: int = 1,
        speed: float | None = None,
        on_gpu: bool = False,
    ) -> None:
        self._on_gpu = on_gpu
        self._path = storage.root / _SPEEDS
        self._jobs = jobs
        self._sizes = sizes
        self._num_workers = num_workers
        self._ratios: defaultdict[str, list[float]] = defaultdict(list)
        self._under_way: dict[str, float] = {}
        self._rate = speed
        if speed is None:
            with contextlib.suppress(OSError, ValueError, LookupError):  # estimates start from counted operations again
                learnt = json.loads(self._path.read_text(encoding="utf-8"))
                self._rate = learnt["flops_per_second"]
                self._ratios.update(learnt["ratios"])

    def seconds(self, job: Job) -> float:
        """Estimated seconds of one job, with all its workers."""
        workers = self.workers(job)
        seconds = self.counted(job) * self.correction(job.kind)
        return seconds / workers + (WORKERS_SECONDS if workers > 1 else 0.0)

    def correction(self, kind: str) -> float:
        """Real over counted seconds of the last jobs of a kind; before one has ended, of one that runs; else 1."""
        ratios = self._ratios[kind]
        return statistics.median(ratios) if ratios else self._under_way.get(kind, 1.0)

    def has_timed(self, kind: str) -> bool:
        """Whether jobs of this kind have run over this storage."""
        return bool(self._ratios[kind])

    def slot_seconds(self, job: Job) -> float:
        """Estimated seconds that one job takes of all slots together: what adds up over jobs that run side by side."""
        return self.seconds(job) * self.workers(job)

    def learn(self, job: Job, record: Mapping[str, Any]) -> None:
        """Take note of how long a job really took."""
        ratios = self._ratios[job.kind]
        ratios.append(record["seconds"] * record.get("workers", 1) / self.counted(job))
        del ratios[:-50]

    def glimpse(self, job: Job, seconds: float, share: float) -> None:
        """Take note of how long a share of a running job took; it counts until a job of its kind has ended."""
        if not self._ratios[job.kind] and seconds > GLIMPSE_SECONDS and share > 0:
            self._under_way[job.kind] = seconds * self.workers(job) / (share * self.counted(job))

    def save(self) -> None:
        """Keep what was learnt for the next sweep."""
        with atomic_path(self._path) as temporary:
            learnt = {"flops_per_second": self._rate, "ratios": self._ratios}
            temporary.write_text(json.dumps(learnt), encoding="utf-8")

    def workers(self, job: Job) -> int:
        """How many workers a job has, each in a slot of its own."""
        return self._num_workers if job.kind == "pretrain" else 1

    def counted(self, job: Job) -> float:
        """Seconds of one worker, by count."""
        if isinstance(job.config, PretrainJob):
            config = job.config
            begun = config.pretrain.changes[-1].step if config.pretrain.changes else 0
            tokens = config.pretrain.batch_size * config.pretrain.sequence_length
            work = tokens * training_flops(config) / self._flops_per_second()
            return (_last_step(config) - begun) * (work + _passes(config) / 3 * STEP_SECONDS)
        if isinstance(job.config, FinetuneJob):
            model = self._jobs[job.inputs[0]].config
            sizes, variant = (model.model, model.variant) if isinstance(model, PretrainJob) else (EXTERNAL, "external")
            sentences = self._sizes[job.config.task, job.config.train_language]
            sentences = min(sentences, job.config.max_examples or sentences)
            length = SENTENCE_TOKENS if job.config.task in ("ner", "pos") else min(TEXT_TOKENS, job.config.max_length)
            forward = length * _forward_flops(sizes, variant, length)
            epoch = (
                3.5 * sentences * forward / self._flops_per_second() + sentences / job.config.batch_size * STEP_SECONDS
            )
            return job.config.epochs * epoch
        if isinstance(job.config, ProbeJob):
            probed = self._jobs[job.inputs[0]].config
            assert isinstance(probed, PretrainJob)
            tokens, length = job.config.sequences * job.config.sequence_length, job.config.sequence_length
            passes = 3.0 if job.config.probe == "gradients" else 2.2  # a mask needs no gradient of the weights
            return passes * tokens * _forward_flops(probed.model, probed.variant, length) / self._flops_per_second()
        return PREPARE_SECONDS

    def _flops_per_second(self) -> float:
        if self._rate is None and self._on_gpu:  # the driver's machine may have none
            self._rate = ASSUMED_TFLOPS * 1e12
        elif self._rate is None:
            import torch  # a second or two, of the first sweep over a storage alone

            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            matrix = torch.randn(512, 512)
            best = min(_timed(lambda: matrix @ matrix) for _ in range(10))
            torch.set_num_threads(threads)
            self._rate = EFFICIENCY * 2 * 512**3 / best
        return self._rate


class Remaining:
    """Estimated work of the jobs that have not ended: a sum that is kept, for there may be many thousands.

    Args:
        estimator: Knows each job's work, and what it has come to.
    """

    def __init__(self, estimator: Estimator) -> None:
        self._estimator = estimator
        self._jobs: dict[str, tuple[str, float, float]] = {}
        self._counted: defaultdict[str, float] = defaultdict(float)
        self._fixed = 0.0

    def add(self, job: Job) -> None:
        """A job is to be done."""
        workers = self._estimator.workers(job)
        fixed = WORKERS_SECONDS * workers if workers > 1 else 0.0
        self._jobs[job.key] = (job.kind, self._estimator.counted(job), fixed)
        self._take(self._jobs[job.key], 1.0)

    def remove(self, key: str) -> None:
        """A job has ended; one that was not to be done counts for nothing."""
        if key in self._jobs:
            self._take(self._jobs.pop(key), -1.0)

    def slot_seconds(self, under_way: Mapping[str, float]) -> float:
        """Estimated seconds of all slots together.

        Args:
            under_way: The share that is done of the jobs that run, by key.
        """
        counted = dict(self._counted)
        fixed = self._fixed
        for key, share in under_way.items():
            if key in self._jobs:
                kind, work, own = self._jobs[key]
                counted[kind] -= share * work
                fixed -= share * own
        return max(0.0, fixed + sum(self._estimator.correction(kind) * work for kind, work in counted.items()))

    def _take(self, entry: tuple[str, float, float], sign: float) -> None:
        kind, work, fixed = entry
        self._counted[kind] += sign * work
        self._fixed += sign * fixed


def training_flops(job: PretrainJob) -> float:
    """Operations that pretraining takes for each token of a batch, all passes of a step together.

    Matrix products of the layers, without the output projection.
    """
    return _passes(job) * _forward_flops(job.model, job.variant, job.pretrain.sequence_length)


def _last_step(job: PretrainJob) -> int:
    return job.pretrain.until or job.pretrain.steps


def _passes(job: PretrainJob) -> float:
    """Forward passes over a batch that cost as much as one step does, a backward pass counted as two.

    Gradient surgery passes over a share of each language: as much as over one batch.
    """
    plain = 3.0
    meta = job.meta
    if meta is None:
        return plain
    validated = len(job.languages) - (meta.validate_on == "others")
    share = (meta.batch_size or job.pretrain.batch_size) / job.pretrain.batch_size
    product = 2.0 if meta.method == "forward_difference" else 4.0  # of H and v
    return plain + (plain + product + 3.0 * validated * share) / meta.meta_every


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _forward_flops(model: ModelConfig, variant: str, length: int) -> float:
    """Operations of one token's forward pass, without the output projection."""
    head_dim = model.head_dim or model.dim // model.num_heads
    attention = 4 * model.dim * model.num_heads * head_dim + 2 * length * model.num_heads * head_dim
    adapters = 4 * model.dim * model.adapter_dim if variant in ADAPTER_VARIANTS else 0
    return float(2 * model.num_layers * (attention + 2 * model.dim * model.ffn_dim + adapters))
