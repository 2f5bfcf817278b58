"""What a person sees while a sweep runs: a line for each job that ends and, on a terminal, how all of it stands."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live

from raylab.board import Board
from raylab.search.cost import Estimator
from raylab.search.plan import KINDS, Job
from raylab.view import clock, draw, shown_values

HEARTBEAT_SECONDS = 30.0
"""Where there is no terminal: most time without a line while jobs run."""

LINES, LINES_SECONDS = 20, 10.0
"""So many lines in so many seconds at most; what is beyond comes as one line, later."""

_REFRESHES_PER_SECOND = 2


class ProgressLines:
    """Prints what happens to jobs; a listener of the sweep, after the board.

    Args:
        board: How the sweep stands.
        console: Where to print.
    """

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._console = console
        self._terminal = console.is_terminal
        self._shares: dict[str, tuple[Job, float]] = {}
        self._last_line = time.monotonic()
        self._window = self._last_line
        self._lines = 0
        self._untold: Counter[str] = Counter()
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )

    def __enter__(self) -> ProgressLines:
        if self._terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._tell_untold()
        if self._terminal:
            self._live.stop()

    def started(self, job: Job) -> None:
        """Note that a job runs."""
        self._shares[job.key] = (job, 0.0)

    def measured(self, job: Job, fresh: object, progress: float) -> None:
        """Note how far a job is; without a terminal, say so now and then."""
        self._shares[job.key] = (job, progress)
        self._tell_untold_in_time()
        if not self._terminal and time.monotonic() - self._last_line > HEARTBEAT_SECONDS:
            shown = [f"{other.name} {share:.0%}" for other, share in list(self._shares.values())[:8]]
            more = f" and {len(self._shares) - 8} more" if len(self._shares) > 8 else ""
            self._print(f"running: {', '.join(shown)}{more}")

    def done(self, job: Job, record: Mapping[str, Any], *, found: bool) -> None:
        """Say that a job is done, with its main result."""
        self._shares.pop(job.key, None)
        if not found:
            line = f"{job.name}: {outcome(job, record['result'])} ({clock(record['seconds'])})"
            self._say(line, f"{job.kind} done")

    def interrupted(self, job: Job, reason: str) -> None:
        """Say that a job lost its process."""
        self._say(f"{job.name}: {reason}; it is started again", f"{job.kind} started again", style="yellow")

    def failed(self, job: Job, error: str, skipped: list[Job]) -> None:
        """Say that a job failed, what cannot run without it, and how to see why."""
        self._shares.pop(job.key, None)
        without = f"; {len(skipped)} jobs that need it are left out" if skipped else ""
        self._say(
            f"FAILED {job.name}: {error}{without}\n       {self._board.logs(job)}", f"{job.kind} failed", style="red"
        )

    def pruned(self, job: Job, reason: str) -> None:
        """Say that a job was stopped early."""
        self._shares.pop(job.key, None)
        self._say(f"stopped {job.name}: {reason}", f"{job.kind} stopped")

    def trial(self, number: int, values: Mapping[str, Any], scores: Mapping[str, float] | None, *, found: bool) -> None:
        """Say how good a trial of the search was."""
        if not found:
            good = "failed" if scores is None else "stopped early"
            if scores:
                good = ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
            self._say(f"trial {number} ({shown_values(values)}): {good}", "trials ended")

    def _say(self, text: str, kind: str, style: str | None = None) -> None:
        """Print a line, or count it where too many come at once."""
        self._tell_untold_in_time()
        if self._lines >= LINES:
            self._untold[kind] += 1
            return
        self._lines += 1
        self._print(text, style)

    def _tell_untold_in_time(self) -> None:
        if time.monotonic() - self._window > LINES_SECONDS:
            self._tell_untold()

    def _tell_untold(self) -> None:
        if self._untold:
            many = self._untold.total() >= LINES  # so go on in summaries while it is like this
            self._print("and " + ", ".join(f"{count} {kind}" for kind, count in self._untold.items()))
            self._untold.clear()
            self._lines = LINES if many else 0
        else:
            self._lines = 0
        self._window = time.monotonic()

    def _print(self, text: str, style: str | None = None) -> None:
        self._last_line = time.monotonic()
        self._board.note(text.partition("\n")[0])
        total, left = self._board.total, self._board.seconds_left()
        about = f", {clock(left)} left" if left is not None else ""
        place = f"[{self._board.ended:>{len(str(total))}}/{total}{about}]"
        self._console.print(f"{place} {text}", style=style, markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> RenderableType:
        return draw(self._board.snapshot(), self._console.width, self._console.height)


def summary_of_plan(
    jobs: Mapping[str, Job], is_finished: Callable[[str], bool], estimator: Estimator, slots: int
) -> str:
    """One line: how many jobs of each kind, how many are done, how long the others take."""
    missing = [job for key, job in jobs.items() if not is_finished(key)]
    kinds = Counter(job.kind for job in jobs.values())
    counted = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
    seconds = sum(estimator.slot_seconds(job) for job in missing) / slots
    return f"{len(jobs)} jobs ({counted}), {len(jobs) - len(missing)} done already" + (
        f", about {clock(seconds)} for the others" if missing else ""
    )


def outcome(job: Job, result: Mapping[str, Any]) -> str:
    """A job's main result in a few words."""
    if job.kind == "pretrain":
        return "perplexity " + ", ".join(
            f"{language} {value:.1f}" for language, value in result["valid_perplexity"].items()
        )
    if job.kind == "finetune":
        scores = {name: next(iter(metrics.values())) for name, metrics in result["scores"]["dev"].items()}
        return "dev " + ", ".join(f"{language} {value:.1f}" for language, value in scores.items())
    if job.kind == "import":
        return f"{result['parameters']:,} parameters"
    return "tokenizer and token store" if job.kind == "prepare" else "done"
