"""The Tune searcher that turns a graph of jobs, and a search over trials, into one flat stream of Tune trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from raylab.config import ScalingConfig
from raylab.data.source import Source
from raylab.errors import InputError
from raylab.search.graph import JobGraph, State
from raylab.search.plan import Job, Plan
from raylab.search.storage import Storage
from raylab.search.trials import TrialSearch, objectives

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

    def failed(self, job: Job, error: str, skipped: list[Job]) -> None:
        """A job failed for good, and these others cannot run without it."""

    def trial(self, number: int, values: Mapping[str, Any], scores: Mapping[str, float] | None, *, found: bool) -> None:
        """A trial of the search ended; no scores: a job of it failed; `found`: it ended before this sweep."""


class JobSearcher(Searcher):
    """Hands out ready jobs; asks for the next trial of a search when no job is ready.

    Args:
        graph: The jobs.
        storage: Where results lie.
        settings: What every worker is told besides its job.
        listeners: Who hears of it.
        search: The search, if the study has one.
        plan_trial: The jobs of a trial with these values.

    Attributes:
        slots: How many jobs of one worker the cluster runs at once; None: not known, and not watched.
        results: Results of the jobs that are done, by key.
        errors: Of the jobs that failed, by key: why, and whether the user's input was at fault.
    """

    def __init__(
        self,
        graph: JobGraph,
        storage: Storage,
        settings: Mapping[str, Any],
        listeners: list[Listener],
        search: TrialSearch | None = None,
        plan_trial: Callable[[Mapping[str, Any]], Plan] | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self._storage = storage
        self._settings = dict(settings)
        self._listeners = listeners
        self._search = search
        self._plan_trial = plan_trial
        self._running: dict[str, Job] = {}
        self._trials: dict[int, tuple[Mapping[str, Any], list[Job]]] = {}
        self._exhausted = search is None or search.exhausted
        self.slots: int | None = None
        self.results: dict[str, Mapping[str, Any]] = {}
        self.errors: dict[str, tuple[str, bool]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher to restore a Tuner; a sweep goes on from the storage instead

    @property
    def has_work(self) -> bool:
        """Whether anything is left to run, or to ask for."""
        return bool(self.graph.count(State.READY, State.WAITING)) or not self._exhausted

    def begin(self, plan: Plan) -> None:
        """Take the study's own jobs, and the trials that an interrupted sweep left."""
        self._add(plan)
        if self._search is not None:
            for number, values in self._search.under_way().items():
                self._add_trial(number, values)
            for number, (values, scores) in self._search.complete().items():
                self._add(self._plan(values))
                for listener in self._listeners:
                    listener.trial(number, values, scores, found=True)
        self._tell_ended()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job for Tune; None while all that could run waits for others."""
        while not self.graph.has_ready and self._ask():
            pass
        while (job := self.graph.take(self._fits)) is not None:
            if self._storage.is_finished(job.key):  # by a sweep of another study, meanwhile
                self.graph.done(job.key)
                self._done(job, self._storage.read_record(job.key), found=True)
                self._tell_ended()
                continue
            self._running[trial_id] = job
            return {**self._settings, "job": job, "workers": self._workers(job)}
        if self._exhausted and not self.graph.count(State.WAITING, State.READY, State.RUNNING):
            return str(Searcher.FINISHED)
        return None

    def on_trial_start(self, trial_id: str) -> None:
        """An actor took the job."""
        job = self._running.get(trial_id)
        if job is not None:
            for listener in self._listeners:
                listener.started(job)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A running job reported."""
        job = self._running[trial_id]
        for listener in self._listeners:
            listener.measured(job, result["fresh"], result["progress"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A job ended: done, failed by itself, or lost with its actor too often."""
        job = self._running.pop(trial_id)
        if error:
            self._fail(job, "its process died more often than is retried; the node's logs say why")
        elif result and result.get("error"):
            self._fail(job, result["error"], bad_input=result["bad_input"])
        elif result and result.get("done"):
            for listener in self._listeners:
                listener.measured(job, result["fresh"], 1.0)
            self.graph.done(job.key)
            self._done(job, self._storage.read_record(job.key), found=False)
            self._tell_ended()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the storage holds all there is to know, and a new sweep reads it there."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def _workers(self, job: Job) -> int:
        """How many workers run a job, each in one slot."""
        return int(self._settings["num_workers"]) if job.kind == "pretrain" else 1

    def _fits(self, job: Job) -> bool:
        """Whether a job may be handed out now.

        Tune asks for a few more jobs than run, so that none of its actors waits. With a job of several workers among
        them these could take the places that it was given out for; then no more are handed out than there are slots.
        """
        running = [self._workers(other) for other in self._running.values()]
        needed = self._workers(job)
        if self.slots is None or max(running, default=1) == needed == 1:
            return True
        return sum(running) + needed <= self.slots

    def _add(self, plan: Plan) -> None:
        for job in self.graph.add(plan.jobs.values()):
            self._done(job, self._storage.read_record(job.key), found=True)

    def _done(self, job: Job, record: Mapping[str, Any], *, found: bool) -> None:
        self.results[job.key] = record["result"]
        for listener in self._listeners:
            listener.done(job, record, found=found)

    def _fail(self, job: Job, error: str, *, bad_input: bool = False) -> None:
        self.errors[job.key] = error, bad_input
        skipped = self.graph.failed(job.key)
        for listener in self._listeners:
            listener.failed(job, error, skipped)
        self._tell_ended()

    def _ask(self) -> bool:
        """Ask for one more trial; whether there was one."""
        if self._search is None or self._exhausted:
            return False
        limit = self._search.config.concurrency
        if limit is not None and len(self._trials) >= limit:
            return False
        asked = self._search.ask()
        if asked is None:
            self._exhausted = True
            return False
        self._add_trial(*asked)
        self._tell_ended()
        return True

    def _add_trial(self, number: int, values: Mapping[str, Any]) -> None:
        assert self._search is not None
        try:
            plan = self._plan(values)
        except InputError:  # values that each field takes, but not together
            self._search.tell(number, None)
            for listener in self._listeners:
                listener.trial(number, values, None, found=False)
            return
        self._add(plan)
        self._trials[number] = (values, list(plan.jobs.values()))

    def _plan(self, values: Mapping[str, Any]) -> Plan:
        assert self._plan_trial is not None
        return self._plan_trial(values)

    def _tell_ended(self) -> None:
        for number, (values, jobs) in list(self._trials.items()):
            if not self.graph.ended(job.key for job in jobs):
                continue
            assert self._search is not None
            del self._trials[number]
            failed = any(self.graph.states[job.key] is not State.DONE for job in jobs)
            results = [(job, self.results[job.key]) for job in jobs if job.kind == "finetune" and not failed]
            scores = None if failed else objectives(self._search.config.objective, results)
            self._search.tell(number, scores)
            for listener in self._listeners:
                listener.trial(number, values, scores, found=False)


def worker_settings(storage: Storage, source: Source, scaling: ScalingConfig) -> dict[str, Any]:
    """What every worker is told besides its job: the configuration that `JobWorker` reads."""
    return {
        "storage": str(storage.root),
        "source": source,
        "threads": scaling.cpus_per_worker,
        "device": "cuda" if scaling.use_gpu else "cpu",
        "checkpoint_seconds": scaling.checkpoint_seconds,
        "num_workers": scaling.num_workers,
        "accumulation": scaling.accumulation,
        "compile": scaling.compile,
    }
