"""How a sweep stands, kept up to date by what its jobs tell: what the live view, the status file and the lines show."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raylab.atomic import atomic_path
from raylab.config import SearchConfig
from raylab.search.cost import Estimator, Remaining
from raylab.search.graph import ENDED, JobGraph, State
from raylab.search.plan import Job

FORMAT = 1
"""Of the snapshot: raised when a reader of an older one would misread it."""

STATUS_FILE = "status.json"
"""In the study's folder: the last snapshot."""

STATUS_SECONDS = 1.0
"""Between two of them, also where nothing happens: a driver that writes none is dead, or cannot write."""

RECENT_EVENTS = 12
KEPT_FAILURES = 100
KEPT_BEST = 10


@dataclass
class _Running:
    """A job that runs: since when, where, how far, and what it measured last."""

    job: Job
    since: float
    first: tuple[float, float] | None = None  # when it was heard of first, and how far it was: it may go on from there
    share: float = 0.0
    step: int = 0
    measured: dict[str, float] = field(default_factory=dict)


class Board:
    """The state of a sweep; a listener of it. Each event costs the same, however many jobs there are.

    Args:
        study: The study's name.
        graph: The jobs.
        estimator: Estimates the time left, and learns from every job.
        search: The study's search, if it has one.
        trial: The jobs of one of its trials.
        storage: Where results lie, as the user named it.
        command: What goes on with the sweep where it was interrupted.

    Attributes:
        slots: How many workers run at once; None: no job is to run, or Ray is not up yet.
        hosts: Where jobs run, by key; the searcher tells.
        behind: How many events MLflow is behind.
        unasked: How many trials the search has still to ask for.
    """

    def __init__(
        self,
        study: str,
        graph: JobGraph,
        estimator: Estimator,
        *,
        search: SearchConfig | None = None,
        trial: Iterable[Job] = (),
        storage: str = "runs",
        command: list[str] | None = None,
    ) -> None:
        self._study = study
        self._graph = graph
        self._estimator = estimator
        self._objective = dict(search.objective) if search else {}
        self._limits = dict(search.constraints) if search else {}
        self._storage = storage
        self._command = shlex.join(command) if command else f"python -m raylab.sweep {shlex.quote(study)}"
        self.slots: int | None = None
        self.hosts: Mapping[str, str] = {}
        self.behind: Callable[[], int] = lambda: 0
        self.unasked: Callable[[], int] = lambda: 0
        self._state = "running"
        self._started = time.time()
        self._lock = threading.RLock()  # the view and the status file are made by threads of their own
        self._remaining = Remaining(estimator)
        self._trial = Remaining(estimator)
        for job in trial:
            if job.kind != "prepare":  # most trials find it done
                self._trial.add(job)
        # The trials of a member of a population are parts of one training.
        self._part = search.population.size / search.num_samples if search and search.population else 1.0
        self._counts: dict[str, Counter[State]] = {}
        self._running: dict[str, _Running] = {}
        self._found = 0
        self._failures: deque[dict[str, Any]] = deque(maxlen=KEPT_FAILURES)
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT_EVENTS)
        self._front: list[dict[str, Any]] = []
        self._best: dict[str, dict[str, Any]] = {}
        graph.watch(self._moved)

    # What a listener hears.

    def started(self, job: Job) -> None:
        """Note that a job runs."""
        with self._lock:
            self._running[job.key] = _Running(job, time.time())

    def measured(self, job: Job, fresh: list[tuple[str, float, int, int]], progress: float) -> None:
        """Note how far a job is, and what it measured last."""
        running = self._running.get(job.key)
        if running is not None:
            with self._lock:
                running.share = progress
                running.first = running.first or (time.time(), progress)
                since, share = running.first
                self._estimator.glimpse(job, time.time() - since, progress - share)
                for name, value, step, _ in fresh[-50:]:
                    running.measured[name] = value
                    running.step = max(step, running.step)

    def done(self, job: Job, record: Mapping[str, Any], *, found: bool) -> None:
        """Note that a job is done, and learn how long such jobs take."""
        with self._lock:
            self._found += found
            if not found:
                self._estimator.learn(job, record)
            if job.kind == "finetune":
                self._note_best(job, record["result"])

    def interrupted(self, job: Job, reason: str) -> None:
        """A job lost its process: `started` follows when it has another one."""

    def failed(self, job: Job, error: str, skipped: list[Job]) -> None:
        """Note that a job failed."""
        with self._lock:
            self._failures.append(
                {"key": job.key, "name": job.name, "error": error, "skipped": len(skipped), "logs": self.logs(job)}
            )

    def pruned(self, job: Job, reason: str) -> None:
        """A job was stopped early: its state says so already."""

    def trial(self, number: int, values: Mapping[str, Any], scores: Mapping[str, float] | None, *, found: bool) -> None:
        """Note how good a trial of the search was, if it keeps to the constraints and no other is better."""
        if not scores or any(name not in scores for name in self._objective):
            return  # it failed, was stopped early, or is of a population's generation before the last
        if not all(limit.allows(scores[name]) for name, limit in self._limits.items()):
            return
        entry = {"trial": number, "values": dict(values), "scores": dict(scores)}
        with self._lock:
            if any(self._dominates(other["scores"], scores) for other in self._front):
                return
            self._front = [other for other in self._front if not self._dominates(scores, other["scores"])]
            self._front.append(entry)

    # What others ask and tell.

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return len(self._graph.jobs)

    @property
    def ended(self) -> int:
        """How many of them have ended."""
        return self._graph.count(*ENDED)

    def note(self, text: str) -> None:
        """Note a line that was printed."""
        with self._lock:
            self._recent.append({"time": time.time(), "text": text})

    def finish(self, state: str) -> None:
        """Say how the sweep ended: `done`, `failed` (some jobs) or `interrupted`."""
        self._state = state

    def finish_unless_told(self, state: str) -> None:
        """Say how the sweep ended, where nobody has."""
        if self._state == "running":
            self._state = state

    def logs(self, job: Job) -> str:
        """The command that prints what a job left."""
        where = "" if self._storage == "runs" else f" --storage {shlex.quote(self._storage)}"
        return f"python -m raylab.status {shlex.quote(self._study)}{where} --logs {job.key[:10]}"

    def seconds_left(self) -> float | None:
        """Estimated seconds until all jobs have ended, and those of the trials to come; None where it is not known."""
        if self.slots is None:
            return None
        with self._lock:
            shares = {key: running.share for key, running in self._running.items()}
            to_come = self.unasked() * self._part * self._trial.slot_seconds({})
            return (self._remaining.slot_seconds(shares) + to_come) / self.slots

    def snapshot(self) -> dict[str, Any]:
        """How the sweep stands, fit for JSON: the contents of the status file, whatever shows them."""
        now = time.time()
        with self._lock:
            left = self.seconds_left() if self._state == "running" else None
            return {
                "format": FORMAT,
                "study": self._study,
                "state": self._state,
                "started": self._started,
                "updated": now,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "command": self._command,
                "folder": os.getcwd(),  # noqa: PTH109
                "storage": self._storage,
                "slots": self.slots,
                "seconds_left": left,
                "found": self._found,
                "unlogged": self.behind(),
                "jobs": self._counted(),
                "running": [self._described(running) for running in self._running.values()],
                "front": self._front[-KEPT_BEST:],
                "objective": self._objective,
                "best": dict(self._best),
                "failures": list(self._failures),
                "recent": list(self._recent),
            }

    def _counted(self) -> dict[str, dict[str, int]]:
        """Jobs by kind and state. What was handed to Tune and has no process yet is ready still."""
        at_work = Counter[str](running.job.kind for running in self._running.values())
        counted = {}
        for kind, counts in self._counts.items():
            numbers = {state.value: count for state, count in counts.items()}
            numbers["ready"] = numbers.get("ready", 0) + numbers.get("running", 0) - at_work[kind]
            numbers["running"] = at_work[kind]
            counted[kind] = {state: count for state, count in numbers.items() if count}
        return counted

    def _described(self, running: _Running) -> dict[str, Any]:
        return {
            "key": running.job.key,
            "name": running.job.name,
            "kind": running.job.kind,
            "since": running.since,
            "host": self.hosts.get(running.job.key),
            "progress": running.share,
            "step": running.step,
            "measured": dict(running.measured),
        }

    def _moved(self, job: Job, before: State | None, after: State) -> None:
        with self._lock:
            counts = self._counts.setdefault(job.kind, Counter())
            counts[after] += 1
            if before is not None:
                counts[before] -= 1
            if after in ENDED:
                self._running.pop(job.key, None)
                self._remaining.remove(job.key)
            elif before is None or before in ENDED:  # it is new, or is to run again
                self._remaining.add(job)

    def _note_best(self, job: Job, result: Mapping[str, Any]) -> None:
        score, task = result["selection"], job.labels["task"]
        if task not in self._best or score > self._best[task]["score"]:
            self._best[task] = {"score": score, "name": job.name, "key": job.key}

    def _dominates(self, one: Mapping[str, float], other: Mapping[str, float]) -> bool:
        signs = {name: -1.0 if goal == "min" else 1.0 for name, goal in self._objective.items()}
        gains = [sign * (one[name] - other[name]) for name, sign in signs.items()]
        return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


class StatusFile:
    """Writes snapshots of a board while a sweep runs, from a thread of its own, for `python -m raylab.status`.

    Args:
        board: The board.
        folder: The study's folder.
    """

    def __init__(self, board: Board, folder: Path) -> None:
        self._board = board
        self._path = folder / STATUS_FILE
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def __enter__(self) -> StatusFile:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Write the last snapshot; a sweep that nobody said how it ended was interrupted."""
        self._ended.set()
        self._thread.join()
        self._board.finish_unless_told("interrupted")
        self._write()

    def _run(self) -> None:
        while not self._ended.wait(STATUS_SECONDS):
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError), atomic_path(self._path) as temporary:  # a full disk is told elsewhere
            temporary.write_text(json.dumps(self._board.snapshot()), encoding="utf-8")
