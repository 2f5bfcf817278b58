"""How a sweep stands, drawn for a terminal: the live view of a sweep, and what `python -m raylab.status` shows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

STATES = ("waiting", "ready", "running", "done", "failed", "stopped", "skipped")

_STYLES = {"done": "green", "running": "cyan", "failed": "bold red", "stopped": "yellow", "skipped": "yellow"}

_KEY = 6
"""Digits of a job's key that are shown: two jobs of one study hardly ever share them."""

_WIDE = 110
"""Columns from which on a running job's host, step and speed have room."""


def draw(
    status: Mapping[str, Any],
    width: int = 80,
    height: int | None = None,
    *,
    recent: bool = False,
    now: float | None = None,
) -> RenderableType:
    """The view of a snapshot.

    Args:
        status: What `raylab.board.Board.snapshot` returned.
        width: Columns of the terminal.
        height: Lines of the terminal, where all of it shall be seen at once.
        recent: Whether to show the last events.
        now: Seconds since the epoch; default: the time.
    """
    now = time.time() if now is None else now
    status = settled(status)
    parts: list[RenderableType] = [_headline(status, now), _bar(status, width), _counts(status)]
    front, failures, events = (
        list(_front(status)),
        list(_failures(status, height)),
        list(_recent(status)) if recent else [],
    )
    tail = [*front, *failures, *events]
    taken = 4 + len(status["jobs"]) + len(tail) + (1 if status["unlogged"] > 100 else 0)
    rows = len(status["running"]) if height is None else max(3, height - taken - 4)
    if status["state"] == "running" and status["slots"] and not status["running"]:
        parts += [Text(), Text("processes start", style="dim")]
    if status["running"]:
        parts += [Text(), _running(status["running"], rows, width, now)]
    parts += tail
    if status["unlogged"] > 100:
        parts.append(Text(f"MLflow is {status['unlogged']} events behind", style="yellow"))
    return Group(*parts)


def settled(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """The snapshot, without the jobs that ran where the sweep has ended: they wait for the next one."""
    if status["state"] == "running":
        return status
    jobs = {
        kind: {**counts, "waiting": counts.get("waiting", 0) + counts.get("running", 0)}
        for kind, counts in status["jobs"].items()
    }
    return {
        **status,
        "running": [],
        "seconds_left": None,
        "jobs": {kind: {**counts, "running": 0} for kind, counts in jobs.items()},
    }


def total_of(status: Mapping[str, Any], *states: str) -> int:
    """How many jobs are in one of these states; without any, all jobs."""
    return sum(
        count for counts in status["jobs"].values() for state, count in counts.items() if not states or state in states
    )


def one_line(status: Mapping[str, Any], state: str, now: float) -> str:
    """A study in one line; `state` is what is known of its driver."""
    status = settled({**status, "state": state})
    ended = total_of(status, "done", "failed", "stopped", "skipped")
    words = [f"{ended} of {total_of(status)} jobs"]
    words += [
        f"{count} {name}" for name in ("running", "failed", "stopped", "skipped") if (count := total_of(status, name))
    ]
    if state == "running" and status["seconds_left"] is not None:
        words.append(f"about {clock(status['seconds_left'])} left")
    if state != "running":
        words.append(f"{clock(now - status['updated'])} ago")
    return f"{state}: {', '.join(words)}"


def clock(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _headline(status: Mapping[str, Any], now: float) -> Text:
    until = now if status["state"] == "running" else status["updated"]
    words = [clock(until - status["started"])]
    if status["seconds_left"] is not None:
        words.append(f"about {clock(status['seconds_left'])} left")
    if status["slots"]:
        words.append(f"{status['slots']} at a time")
    line = Text.assemble((f"study {status['study']}", "bold"), "  ")
    line.append(status["state"], style=_STYLES.get(status["state"], "yellow"))
    return _cut(line.append(f" {', '.join(words)}"))


def _bar(status: Mapping[str, Any], width: int) -> Table:
    total, ended = total_of(status), total_of(status, "done", "failed", "stopped", "skipped")
    row = Table.grid(padding=(0, 1))
    found = f", {status['found']} of them before" if status["found"] else ""
    row.add_row(
        ProgressBar(total=max(total, 1), completed=ended, width=max(10, min(40, width - 40))),
        Text(f"{ended} of {total} jobs{found}"),
    )
    return row


def _counts(status: Mapping[str, Any]) -> Table:
    states = [state for state in STATES if state in ("waiting", "running", "done") or total_of(status, state)]
    if "ready" in states:  # one column for what does not run yet: why it does not is the scheduler's affair
        states.remove("ready")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for state in states:
        table.add_column(state, justify="right")
    for kind, counts in status["jobs"].items():
        numbers = {**counts, "waiting": counts.get("waiting", 0) + counts.get("ready", 0)}
        table.add_row(
            kind,
            *(Text(str(numbers.get(s, 0)), style=_STYLES.get(s, "") if numbers.get(s, 0) else "dim") for s in states),
        )
    return table


def _running(jobs: Sequence[Mapping[str, Any]], rows: int, width: int, now: float) -> Table:
    wide = width >= _WIDE
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", expand=True)
    table.add_column("", style="dim", no_wrap=True)  # the beginning of its key, for --logs
    table.add_column("running", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("")
    table.add_column("done", justify="right")
    table.add_column("now at", justify="right", no_wrap=True)
    if wide:
        table.add_column("tokens/s", justify="right")
        table.add_column("host", no_wrap=True, max_width=16, overflow="ellipsis")
    table.add_column("for", justify="right", no_wrap=True)
    shown = jobs if len(jobs) <= rows else jobs[: rows - 1]
    for job in shown:
        speed = job["measured"].get("train/tokens_per_second")
        extra = [f"{speed:,.0f}" if speed else "", job["host"] or ""] if wide else []
        table.add_row(
            job["key"][:_KEY],
            job["name"],
            ProgressBar(total=1.0, completed=job["progress"], width=16 if wide else 8),
            f"{job['progress']:.0%}",
            _latest(job),
            *extra,
            clock(max(0.0, now - job["since"])),
        )
    if len(jobs) > len(shown):
        table.add_row("", Text(f"and {len(jobs) - len(shown)} more", style="dim"))
    return table


def _latest(job: Mapping[str, Any]) -> str:
    """What says most of how a job does, of what it measured last."""
    measured = job["measured"]
    perplexities = [value for name, value in measured.items() if name.startswith("valid/perplexity/")]
    scores = [value for name, value in measured.items() if name.startswith("epoch/dev/")]
    if perplexities:
        return f"ppl {sum(perplexities) / len(perplexities):.1f}"
    if scores:
        return f"dev {scores[0]:.1f}"
    return f"loss {measured['train/loss']:.2f}" if "train/loss" in measured else ""


def _front(status: Mapping[str, Any]) -> Iterator[RenderableType]:
    if status["front"]:
        several = len(status["objective"]) > 1
        yield Text()
        yield Text(
            "best trials so far: no other beats one on all (dev)" if several else "best trial so far (dev)", style="dim"
        )
        for entry in status["front"][-5:]:
            scores = ", ".join(f"{name} {score:.2f}" for name, score in entry["scores"].items())
            yield _cut(Text(f"  trial {entry['trial']}: {scores}  ({shown_values(entry['values'])})"))
    elif status["best"]:
        yield Text()
        yield Text("best dev score so far", style="dim")
        for task, best in status["best"].items():
            yield _cut(Text(f"  {task} {best['score']:.1f}  {best['name']}"))


def shown_values(values: Mapping[str, Any]) -> str:
    """A trial's values in one line."""
    return ", ".join(
        f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}" for path, value in values.items()
    )


def _failures(status: Mapping[str, Any], height: int | None) -> Iterator[RenderableType]:
    shown = status["failures"][-20 if height is None else -3 :]
    if shown:
        yield Text()
        for failure in shown:
            reason = Text(f"FAILED {failure['name']}: {failure['error']}", style="red")
            yield reason if height is None else _cut(reason)
            yield Text(f"       {failure['logs']}")
        if total_of(status, "failed") > len(shown):
            yield Text(f"and {total_of(status, 'failed') - len(shown)} more failed", style="red")


def _recent(status: Mapping[str, Any]) -> Iterator[RenderableType]:
    if status["recent"]:
        yield Text()
        for event in status["recent"][-8:]:
            yield _cut(Text(f"{time.strftime('%H:%M:%S', time.localtime(event['time']))} {event['text']}"))


def _cut(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text
