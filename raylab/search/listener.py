"""Who hears what happens to the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from raylab.search.plan import Job

Fresh = list[tuple[str, float, int, int]]
"""Measurements: name, value, step, milliseconds since the epoch."""


class Listener(Protocol):
    """Hears what happens to jobs: the progress lines, and tracking."""

    def started(self, job: Job) -> None:
        """A job began, or goes on in a new process."""

    def measured(self, job: Job, fresh: Fresh, progress: float) -> None:
        """A running job measured something."""

    def done(self, job: Job, record: Mapping[str, Any], *, found: bool) -> None:
        """A job has its result; `found`: it had it before this sweep."""

    def interrupted(self, job: Job, reason: str) -> None:
        """A running job lost its process; it goes on in another one."""

    def failed(self, job: Job, error: str, skipped: list[Job]) -> None:
        """A job failed for good, and these others cannot run without it."""

    def pruned(self, job: Job, reason: str) -> None:
        """A running job was stopped early, with the trial that it was for."""

    def trial(self, number: int, values: Mapping[str, Any], scores: Mapping[str, float] | None, *, found: bool) -> None:
        """A trial of the search ended; no scores: a job of it failed; empty ones: it was stopped early.

        `found`: it ended before this sweep.
        """
