"""Which job may run now: the state of all jobs of a sweep, without Ray."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum

from raylab.search.plan import Job


class State(Enum):
    """Where a job stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"


LOST = frozenset({State.FAILED, State.STOPPED, State.SKIPPED})
"""Ended without a result: what needs one of these is skipped."""

ENDED = LOST | {State.DONE}

Watcher = Callable[[Job, State | None, State], None]
"""Told of a job that comes into a state: the job, the state before (None: the job is new) and the new one."""

LOOKAHEAD = 200
"""Ready jobs among which one is sought that fills a gap."""


class JobGraph:
    """Jobs and their dependencies; jobs may be added while others run.

    Args:
        is_finished: Tells whether a job's result is there already; such a job never runs.
        priority: The larger, the earlier among the ready jobs.
        has_files: Tells whether what a finished job left is there still; else it runs again where another needs it.
    """

    def __init__(
        self,
        is_finished: Callable[[str], bool],
        priority: Callable[[Job], float],
        has_files: Callable[[str], bool] = lambda key: True,
    ) -> None:
        self.jobs: dict[str, Job] = {}
        self.states: dict[str, State] = {}
        self._is_finished = is_finished
        self._priority = priority
        self._has_files = has_files
        self._whole: set[str] = set()  # finished jobs that are known to have their files
        self._dependents: dict[str, list[str]] = {}
        self._missing: dict[str, int] = {}
        self._ready: list[tuple[float, int, str]] = []
        self._turn: str | None = None  # taken from those that are ready, and still without room
        self._order = itertools.count()
        self._counts: Counter[State] = Counter()
        self._watchers: list[Watcher] = []

    def watch(self, watcher: Watcher) -> None:
        """Have `watcher` told of every change of a job's state, those so far included."""
        for key, job in self.jobs.items():
            watcher(job, None, self.states[key])
        self._watchers.append(watcher)

    def add(self, jobs: Iterable[Job]) -> list[Job]:
        """Add jobs, inputs before the jobs that read them.

        Returns:
            The jobs that are new to the graph, have their result already and need not run again.
        """
        found = []
        for job in jobs:
            if self.states.get(job.key) not in (None, State.STOPPED, State.SKIPPED):  # those may be wanted again
                continue
            self.jobs[job.key] = job
            if self._is_finished(job.key):
                self._set(job.key, State.DONE)
                found.append(job)
            else:
                self._wait(job)
        return [job for job in found if self.states[job.key] is State.DONE]

    def _wait(self, job: Job) -> None:
        """The job has to run when its inputs are there, of which those run again whose files were deleted."""
        for key in job.inputs:
            if self.states[key] is State.DONE and key not in self._whole:
                if self._has_files(key):
                    self._whole.add(key)
                else:
                    self._wait(self.jobs[key])
        inputs = [self.states[key] for key in job.inputs]
        if any(state in LOST for state in inputs):
            self._set(job.key, State.SKIPPED)
            return
        self._set(job.key, State.WAITING)
        self._missing[job.key] = sum(state is not State.DONE for state in inputs)
        for key in job.inputs:
            if self.states[key] is not State.DONE:
                self._dependents.setdefault(key, []).append(job.key)
        self._release(job.key)

    def take(self, fits: Callable[[Job], bool] | None = None, fills: Callable[[Job], bool] | None = None) -> Job | None:
        """The ready job of the highest priority, now running.

        Args:
            fits: Whether there is room for it.
            fills: Where there is none: whether another may run before it, in the gap until there is.

        Returns:
            None where no job is ready, or where the next one does not fit and none fills the gap. The next one keeps
            its turn until it fits, so that a large job is never overtaken by what would make it wait longer.
        """
        if self._turn is None:
            if not self._ready:
                return None
            self._turn = heapq.heappop(self._ready)[2]
        key: str | None = self._turn
        assert key is not None
        if fits is None or fits(self.jobs[key]):
            self._turn = None
        elif fills is None or (key := self._filler(fills)) is None:
            return None
        self._set(key, State.RUNNING)
        return self.jobs[key]

    def _filler(self, fills: Callable[[Job], bool]) -> str | None:
        for entry in heapq.nsmallest(LOOKAHEAD, self._ready):
            if fills(self.jobs[entry[2]]):
                self._ready.remove(entry)
                heapq.heapify(self._ready)
                return entry[2]
        return None

    def done(self, key: str) -> None:
        """The job has its result: its dependents may become ready."""
        self._whole.add(key)
        self._set(key, State.DONE)
        for dependent in self._dependents.pop(key, ()):
            self._missing[dependent] -= 1
            self._release(dependent)

    def failed(self, key: str) -> list[Job]:
        """The job failed for good.

        Returns:
            The jobs that can no longer run: all that need it, at any distance.
        """
        return self._lose(key, State.FAILED)

    def stopped(self, key: str) -> list[Job]:
        """The job was stopped early, and nobody wants its result any more.

        Returns:
            The jobs that can no longer run, as `failed` does.
        """
        return self._lose(key, State.STOPPED)

    def _lose(self, key: str, state: State) -> list[Job]:
        self._set(key, state)
        skipped = []
        pending = list(self._dependents.pop(key, ()))
        while pending:
            dependent = pending.pop()
            if self.states[dependent] is State.WAITING:
                self._set(dependent, State.SKIPPED)
                skipped.append(self.jobs[dependent])
                pending += self._dependents.pop(dependent, ())
        return skipped

    @property
    def has_ready(self) -> bool:
        """Whether `take` would give a job, if there is room."""
        return self._turn is not None or bool(self._ready)

    def ended(self, keys: Iterable[str]) -> bool:
        """Whether all these jobs are done, failed, stopped or skipped."""
        return all(self.states[key] in ENDED for key in keys)

    def count(self, *states: State) -> int:
        """How many jobs are in one of these states."""
        return sum(self._counts[state] for state in states)

    def _set(self, key: str, state: State) -> None:
        before = self.states.get(key)
        if before is not None:
            self._counts[before] -= 1
        self.states[key] = state
        self._counts[state] += 1
        for watcher in self._watchers:
            watcher(self.jobs[key], before, state)

    def _release(self, key: str) -> None:
        if self._missing[key] == 0 and self.states[key] is State.WAITING:
            self._set(key, State.READY)
            heapq.heappush(self._ready, (-self._priority(self.jobs[key]), next(self._order), key))
