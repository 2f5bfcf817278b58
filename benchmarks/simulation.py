"""Jobs that do no work and leave results of the right shape: what a sweep of ten thousand jobs costs without them.

`simulate_jobs` is a setup hook of Ray's worker processes: in them every kind of job becomes a `StandIn`. The driver,
its Tuner, actors, records and MLflow are the real ones.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from raylab.config import FinetuneJob, PretrainJob
from raylab.search.plan import Job
from raylab.train.run import Measurement

HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Environment variable of the Ray that is started, from which its workers take the hook's name."""

SECONDS = "RAYLAB_SIMULATED_SECONDS"
"""Environment variable: how long a job pretends to work."""


class StandIn:
    """A `Run` without work: it measures as often as a small job of its kind does.

    Args:
        job: The job it stands for.
        seconds: How long it takes.
    """

    def __init__(self, job: Job, seconds: float = 0.0) -> None:
        self._job = job
        self._left = self._seconds = seconds
        self._random = random.Random(job.key)

    @property
    def finished(self) -> bool:
        return self._left < 0.0

    @property
    def progress(self) -> float:
        return 1.0 if self.finished or not self._seconds else 1.0 - self._left / self._seconds

    def advance(self, seconds: float) -> list[Measurement]:
        import time

        work = min(seconds, self._left)
        time.sleep(work)
        self._left = self._left - work or -1.0
        if not self.finished:
            return [Measurement("train/loss", self._value(), round(1000 * self.progress))]
        config = self._job.config
        if isinstance(config, PretrainJob):
            return [
                *(Measurement("train/loss", self._value(), step) for step in range(10, 710, 10)),
                *(
                    Measurement(f"valid/perplexity/{language}", self._value(), step)
                    for step in range(100, 800, 100)
                    for language in config.languages
                ),
            ]
        if isinstance(config, FinetuneJob):
            names = ("train/loss", "epoch/dev/f1", "epoch/dev/accuracy")
            return [Measurement(name, self._value(), epoch) for epoch in range(1, config.epochs + 1) for name in names]
        return []

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass

    def finish(self, folder: Path) -> dict[str, Any]:
        config = self._job.config
        if isinstance(config, PretrainJob):
            perplexity = {language: self._value() for language in config.languages}
            return {"valid_perplexity": perplexity, "steps": config.pretrain.steps, "parameters": 1}
        if isinstance(config, FinetuneJob):
            scores = {
                split: {
                    language: {"f1": self._value(), "accuracy": self._value()} for language in config.eval_languages
                }
                for split in ("dev", "test")
            }
            selection = scores["dev"][config.eval_languages[0]]["f1"]
            return {"chosen_epoch": config.epochs, "selection": selection, "scores": scores}
        return {"vocab_size": 1000}

    def _value(self) -> float:
        return 100 * self._random.random()


def simulate_jobs() -> None:
    """Let this process pretend to run the jobs that it is given."""
    import raylab.search.execution as execution

    seconds = float(os.environ.get(SECONDS, "0"))
    execution.start = lambda job, *arguments, **options: StandIn(job, seconds)  # type: ignore[assignment]
