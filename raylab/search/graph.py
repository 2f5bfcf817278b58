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
    SKIPPED = "skipped"


ENDED = frozenset({State.DONE, State.FAILED, State.SKIPPED})


class JobGraph:
    """Jobs and their dependencies; jobs may be added while others run.

    Args:
        is_finished: Tells whether a job's result is there already; such a job never runs.
        priority: The larger, the earlier among the ready jobs.
    """

    def __init__(self, is_finished: Callable[[str], bool], priority: Callable[[Job], float]) -> None:
        self.jobs: dict[str, Job] = {}
        self.states: dict[str, State] = {}
        self._is_finished = is_finished
        self._priority = priority
        self._dependents: dict[str, list[str]] = {}
        self._missing: dict[str, int] = {}
        self._ready: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._counts: Counter[State] = Counter()

    def add(self, jobs: Iterable[Job]) -> list[Job]:
        """Add jobs, inputs before the jobs that read them.

        Returns:
            The jobs that are new to the graph and have their result already.
        """
        found = []
        for job in jobs:
            if job.key in self.jobs:
                continue
            self.jobs[job.key] = job
            if self._is_finished(job.key):
                self._set(job.key, State.DONE)
                found.append(job)
                continue
            inputs = [self.states[key] for key in job.inputs]
            if any(state in (State.FAILED, State.SKIPPED) for state in inputs):
                self._set(job.key, State.SKIPPED)
                continue
            self._set(job.key, State.WAITING)
            self._missing[job.key] = sum(state is not State.DONE for state in inputs)
            for key in job.inputs:
                if self.states[key] is not State.DONE:
                    self._dependents.setdefault(key, []).append(job.key)
            self._release(job.key)
        return found

    def take(self, fits: Callable[[Job], bool] | None = None) -> Job | None:
        """The ready job of the highest priority, now running.

        Args:
            fits: Whether there is room for it.

        Returns:
            None where no job is ready, or where the next one does not fit; a job behind it never overtakes it, so that
            a large one gets its turn.
        """
        if not self._ready or not (fits is None or fits(self.jobs[self._ready[0][2]])):
            return None
        key = heapq.heappop(self._ready)[2]
        self._set(key, State.RUNNING)
        return self.jobs[key]

    def done(self, key: str) -> None:
        """The job has its result: its dependents may become ready."""
        self._set(key, State.DONE)
        for dependent in self._dependents.pop(key, ()):
            self._missing[dependent] -= 1
            self._release(dependent)

    def failed(self, key: str) -> list[Job]:
        """The job failed for good.

        Returns:
            The jobs that can no longer run: all that need it, at any distance.
        """
        self._set(key, State.FAILED)
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
        return bool(self._ready)

    def ended(self, keys: Iterable[str]) -> bool:
        """Whether all these jobs are done, failed or skipped."""
        return all(self.states[key] in ENDED for key in keys)

    def count(self, *states: State) -> int:
        """How many jobs are in one of these states."""
        return sum(self._counts[state] for state in states)

    def _set(self, key: str, state: State) -> None:
        if key in self.states:
            self._counts[self.states[key]] -= 1
        self.states[key] = state
        self._counts[state] += 1

    def _release(self, key: str) -> None:
        if self._missing[key] == 0 and self.states[key] is State.WAITING:
            self._set(key, State.READY)
            heapq.heappush(self._ready, (-self._priority(self.jobs[key]), next(self._order), key))
