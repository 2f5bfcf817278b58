"""What a person sees while a sweep runs: a line for each job that ends and, on a terminal, a bar with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from raylab.search.cost import Estimator
from raylab.search.graph import ENDED, JobGraph
from raylab.search.plan import Job

HEARTBEAT_SECONDS = 30.0
"""Where there is no terminal: most time without a line while jobs run."""


class ProgressLines:
    """Prints what happens to jobs; a listener of the sweep.

    Args:
        graph: The jobs.
        estimator: Estimates the time left, and learns from every job.
        console: Where to print.

    Attributes:
        slots: How many workers run at once.
    """

    def __init__(self, graph: JobGraph, estimator: Estimator, console: Console) -> None:
        self._graph = graph
        self._estimator = estimator
        self.slots = 1
        self._console = console
        self._running: dict[str, float] = {}
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            TextColumn("[dim]{task.fields[running]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("jobs", left="?", running="")

    def __enter__(self) -> ProgressLines:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def started(self, job: Job) -> None:
        """Note that a job runs."""
        self._running[job.key] = 0.0
        self._refresh()

    def measured(self, job: Job, fresh: object, progress: float) -> None:
        """Note how far a job is; without a terminal, say so now and then."""
        self._running[job.key] = progress
        self._refresh()
        if not self._console.is_terminal and time.monotonic() - self._last_line > HEARTBEAT_SECONDS:
            self._line(f"running: {self._running_text()}")

    def done(self, job: Job, record: Mapping[str, Any], *, found: bool) -> None:
        """Say that a job is done, with its main result."""
        if found:
            return
        self._running.pop(job.key, None)
        self._estimator.learn(job, record)
        self._line(f"{job.name}: {_outcome(job, record['result'])} ({_clock(record['seconds'])})")
        self._refresh()

    def failed(self, job: Job, error: str, skipped: list[Job]) -> None:
        """Say that a job failed, and what cannot run without it."""
        self._running.pop(job.key, None)
        without = f"; {len(skipped)} jobs that need it are left out" if skipped else ""
        self._line(f"FAILED {job.name}: {error}{without}", style="red")
        self._refresh()

    def trial(self, number: int, values: Mapping[str, Any], scores: Mapping[str, float] | None, *, found: bool) -> None:
        """Say how good a trial of the search was."""
        if found:
            return
        shown = ", ".join(
            f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}" for path, value in values.items()
        )
        good = ", ".join(f"{name} {score:.1f}" for name, score in scores.items()) if scores else "failed"
        self._line(f"trial {number} ({shown}): {good}")

    def _line(self, text: str, style: str | None = None) -> None:
        self._last_line = time.monotonic()
        ended = self._graph.count(*ENDED)
        total = len(self._graph.jobs)
        place = f"[{ended:>{len(str(total))}}/{total}, {self._left()} left]"
        self._console.print(f"{place} {text}", style=style, markup=False, highlight=False, soft_wrap=True)

    def _refresh(self) -> None:
        if self._console.is_terminal:
            self._bar.update(
                self._task,
                total=len(self._graph.jobs),
                completed=self._graph.count(*ENDED),
                left=self._left(),
                running=self._running_text(),
            )

    def _running_text(self) -> str:
        return ", ".join(f"{self._graph.jobs[key].name} {progress:.0%}" for key, progress in self._running.items())

    def _left(self) -> str:
        seconds = sum(
            self._estimator.slot_seconds(job) * (1 - self._running.get(key, 0.0))
            for key, job in self._graph.jobs.items()
            if self._graph.states[key] not in ENDED
        )
        return _clock(seconds / self.slots)


def summary_of_plan(
    jobs: Mapping[str, Job], is_finished: Callable[[str], bool], estimator: Estimator, slots: int
) -> str:
    """One line: how many jobs of each kind, how many are done, how long the others take."""
    missing = [job for key, job in jobs.items() if not is_finished(key)]
    kinds = {
        kind: sum(job.kind == kind for job in jobs.values()) for kind in ("prepare", "pretrain", "import", "finetune")
    }
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    seconds = sum(estimator.slot_seconds(job) for job in missing) / slots
    return f"{len(jobs)} jobs ({counted}), {len(jobs) - len(missing)} done already" + (
        f", about {_clock(seconds)} for the others" if missing else ""
    )


def _outcome(job: Job, result: Mapping[str, Any]) -> str:
    if job.kind == "pretrain":
        return "perplexity " + ", ".join(
            f"{language} {value:.1f}" for language, value in result["valid_perplexity"].items()
        )
    if job.kind == "finetune":
        scores = {name: next(iter(metrics.values())) for name, metrics in result["scores"]["dev"].items()}
        return "dev " + ", ".join(f"{language} {value:.1f}" for language, value in scores.items())
    if job.kind == "import":
        return f"{result['parameters']:,} parameters"
    return "tokenizer and token store"


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
