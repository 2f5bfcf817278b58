"""What is heard of a job between two looks at MLflow, and what of it MLflow is given: parameters and metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run

from raylab.search.plan import Job

Fresh = Iterable[tuple[str, float, int, int]]
"""Measurements: name, value, step, milliseconds since the epoch."""


@dataclass
class News:
    """What was heard of one job.

    Attributes:
        job: The job.
        begun: When it began or, in a new process, began again: seconds since the epoch. What it measures from then on
            is all that it has measured.
        fresh: What it measured.
        record: Its record, where it is done.
        error: Why it failed, or was stopped.
        stopped: Whether it was stopped early.
        heard: How many events this is.
    """

    job: Job
    begun: float | None = None
    fresh: list[tuple[str, float, int, int]] = field(default_factory=list)
    record: Mapping[str, Any] | None = None
    error: str | None = None
    stopped: bool = False
    heard: int = 1

    def followed_by(self, later: News) -> News:
        """This and what was heard after it, as one."""
        later.heard += self.heard
        if later.begun is not None:
            return later
        self.fresh += later.fresh
        self.record, self.error, self.stopped, self.heard = later.record, later.error, later.stopped, later.heard
        return self


def parameters(job: Job) -> dict[str, str]:
    """The parameters of a job's run, by dotted name."""
    config = job.config.model_dump(mode="json")
    return dict(leaves({"finetune": config} if job.kind == "finetune" else {**config, **job.context}))


def final_metrics(kind: str, result: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that a job's result adds to its history.

    A finetune job gives `chosen_epoch`, `selection` and SPLIT/METRIC/LANGUAGE; any other its numbers by path.
    """
    if kind == "finetune":
        scores = {
            f"{split}/{metric}/{language}": value
            for split, languages in result["scores"].items()
            for language, metrics in languages.items()
            for metric, value in metrics.items()
        }
        return {"chosen_epoch": result["chosen_epoch"], "selection": result["selection"], **scores}
    return dict(_numbers(result))


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from _numbers(inside, f"{path}/{name}" if path else name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value of nested mappings by its dotted path, as text; None is left out."""
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from leaves(inside, f"{path}.{name}" if path else name)
    elif value is not None:
        yield path, ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def holds(run: Run, tags: Mapping[str, str], params: Mapping[str, Any], metrics: Mapping[str, float]) -> bool:
    """Whether a run is finished and has just these parameters and metrics, and these tags among others."""
    return (
        run.info.status == "FINISHED"
        and tags.items() <= run.data.tags.items()
        and dict(leaves(params)) == run.data.params
        and dict(metrics) == run.data.metrics
    )
