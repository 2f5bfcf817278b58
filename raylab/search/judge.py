"""Early stopping over the life of a search: what earlier sweeps saw is evidence, and what this one sees is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from raylab.search.plan import Job, Plan
from raylab.search.storage import Storage
from raylab.search.trials import Search, TrialSearch


class Judge:
    """Says which trials of a search are to stop, and keeps in the search what it saw of each.

    Args:
        search: A search with `early_stopping`.
        storage: Where results lie.
    """

    def __init__(self, search: TrialSearch, storage: Storage) -> None:
        from raylab.search.early_stopping import EarlyStopping  # and with it Ray's schedulers

        assert search.config.early_stopping is not None
        self._search = search
        self._storage = storage
        self._early = EarlyStopping(search.config.early_stopping)
        self._seen: dict[int, Mapping[float, float]] = {}

    @classmethod
    def of(cls, search: Search | None, storage: Storage) -> Judge | None:
        """The judge of a search; None where it stops no trial."""
        stops = isinstance(search, TrialSearch) and search.config.early_stopping is not None
        return cls(search, storage) if stops and isinstance(search, TrialSearch) else None

    def recall(self, plan: Callable[[Mapping[str, Any]], Plan]) -> dict[int, Mapping[str, Any]]:
        """Take what earlier sweeps saw as evidence.

        Args:
            plan: The jobs of a trial with these values.

        Returns:
            Values of the trials that were stopped early, by number.
        """
        under_way, pruned = self._search.under_way(), set(self._search.pruned())
        reported, complete = self._search.reported(), self._search.complete()
        stopped: dict[int, Mapping[str, Any]] = {}
        for number, (values, seen) in reported.items():
            if number in under_way:
                self._seen[number] = seen
                continue
            self._early.watch(number, plan(values).jobs.values(), seen)
            self._early.forget(number)
            if number in pruned:
                stopped[number] = values
        for number in complete.keys() - reported.keys():  # from before the search stopped any
            jobs = plan(complete[number][0]).jobs.values()
            self._early.watch(number, jobs, {})
            for job in jobs:
                if job.kind == "pretrain" and self._storage.is_finished(job.key):
                    self._early.measured(job, self._storage.read_record(job.key)["history"])
            self._early.verdicts(number, judge=False)
            self._early.forget(number)
        return stopped

    def watch(self, number: int, jobs: Iterable[Job]) -> None:
        """Begin to watch a trial with these jobs."""
        self._early.watch(number, jobs, self._seen.pop(number, {}))

    def measured(self, job: Job, fresh: Iterable[tuple[str, float, int, int]]) -> None:
        """Take in measurements of a pretraining job: name, value, step, time."""
        self._early.measured(job, fresh)

    def verdict(self, number: int, *, may_stop: bool) -> str | None:
        """Why a trial is to stop now; None: it goes on.

        Args:
            number: The trial.
            may_stop: Whether there is anything to stop; else it is evidence alone.
        """
        for verdict in self._early.verdicts(number, may_stop):
            self._search.report(number, verdict.share, verdict.value)
            if verdict.stop:
                return (
                    f"stopped early at {verdict.share:.0%} of its steps: perplexity {math.exp(verdict.value):.4g} is "
                    f"behind that of {verdict.compared} other trials"
                )
        return None

    def forget(self, number: int) -> None:
        """The trial has ended: what is known of it stays evidence."""
        self._early.forget(number)
