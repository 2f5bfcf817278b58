"""A graph of jobs, and a search over trials, as one flat stream of Tune trials. It needs no Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from raylab.config import ScalingConfig
from raylab.data.source import Source
from raylab.errors import InputError
from raylab.search.graph import ENDED, JobGraph, State
from raylab.search.judge import Judge
from raylab.search.listener import Fresh, Listener
from raylab.search.packing import Gap, gap_before
from raylab.search.plan import Job, Plan
from raylab.search.storage import Storage
from raylab.search.trials import Search

FINISHED = "FINISHED"
"""What Tune wants to hear when there is nothing left to run."""


class JobSearcher:
    """Hands out ready jobs; asks for the next trial of a search when no job is ready.

    `suggest` and the methods on a Tune trial are those of a Tune searcher, which `raylab.search.tuner` makes of it.

    Args:
        graph: The jobs.
        storage: Where results lie.
        settings: What every worker is told besides its job.
        listeners: Who hears of it.
        search: The search, if the study has one.
        plan_trial: The jobs of a trial with these values.
        estimate: Seconds that a job takes; without it, no small job fills the gap before a large one.
        clock: Seconds that pass.

    Attributes:
        slots: How many jobs of one worker the cluster runs at once; None: not known, and not watched.
        stops_early: Whether the search stops jobs.
        given_up: Why a job's process died too often, by Tune trial; the controller tells.
        hosts: Where jobs run, by key.
        results: Results of the jobs that are done, by key.
        unasked: How many trials the search has still to give, at most.
        errors: Of the jobs that failed, by key: why, and whether the user's input was at fault.
    """

    def __init__(
        self,
        graph: JobGraph,
        storage: Storage,
        settings: Mapping[str, Any],
        listeners: list[Listener],
        search: Search | None = None,
        plan_trial: Callable[[Mapping[str, Any]], Plan] | None = None,
        estimate: Callable[[Job], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.graph = graph
        self._storage = storage
        self._settings = dict(settings)
        self._listeners = listeners
        self._search = search
        self._plan_trial = plan_trial
        self._estimate = estimate
        self._clock = clock
        self._running: dict[str, Job] = {}  # by Tune trial
        self._handed_out: dict[str, tuple[float, float]] = {}  # when, and the share that is done, by key
        self._own: set[str] = set()  # keys of the study's jobs, which it needs without a search
        self._trials: dict[int, tuple[Mapping[str, Any], list[Job]]] = {}
        self._left: dict[int, set[str]] = {}  # keys of a trial's jobs that have not ended
        self._wanted: dict[str, set[int]] = {}  # the trials under way that need a job, by key
        self._unwanted: dict[str, str] = {}  # why nobody needs a job any more, by key
        self._stopping: set[str] = set()
        self._nothing_to_ask = False
        self._no_filler = False
        self._judge = Judge.of(search, storage)
        self.unasked = 0 if search is None else search.unasked
        self.slots: int | None = None
        self.stops_early = self._judge is not None
        self.given_up: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        self.results: dict[str, Mapping[str, Any]] = {}
        self.errors: dict[str, tuple[str, bool]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles all that it knows to restore a Tuner; a sweep goes on from the storage instead

    @property
    def has_work(self) -> bool:
        """Whether anything is left to run, or to ask for."""
        return bool(self.graph.count(State.READY, State.WAITING)) or not self._all_asked

    def begin(self, plan: Plan) -> None:
        """Take the study's own jobs, and the trials that an interrupted sweep left."""
        self._own = set(plan.jobs)
        self._add(plan)
        if self._search is None:
            return
        complete = self._search.complete()
        for number, (values, scores) in complete.items():
            self._add(self._plan(values))
            for listener in self._listeners:
                listener.trial(number, values, scores, found=True)
        if self._judge is not None:
            for number, stopped in self._judge.recall(self._plan).items():
                for listener in self._listeners:
                    listener.trial(number, stopped, {}, found=True)
        for number, values in self._search.under_way().items():
            self._add_trial(number, values)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job for Tune; None while all that could run waits for others."""
        while not self.graph.has_ready and self._ask():
            pass
        while (job := self._take()) is not None:
            if job.key in self._unwanted:
                self.graph.stopped(job.key)
                continue
            if self._storage.has_files(job.key):  # by a sweep of another study, meanwhile
                self.graph.done(job.key)
                self._done(job, self._storage.read_record(job.key), found=True)
                continue
            self._running[trial_id] = job
            self._handed_out[job.key] = self._clock(), 0.0
            return {**self._settings, "job": job, "workers": self._workers(job)}
        if self._all_asked and not self.graph.count(State.WAITING, State.READY, State.RUNNING):
            return FINISHED
        return None

    def on_trial_start(self, trial_id: str) -> None:
        """An actor took the job."""
        job = self._running.get(trial_id)
        if job is not None:
            for listener in self._listeners:
                listener.started(job)

    def interrupted(self, trial_id: str, reason: str) -> None:
        """A running job lost its process; the controller starts it again."""
        job = self._running.get(trial_id)
        if job is not None:
            for listener in self._listeners:
                listener.interrupted(job, reason)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A running job reported."""
        job = self._running[trial_id]
        self._handed_out[job.key] = self._handed_out[job.key][0], result["progress"]
        self.hosts[job.key] = result.get("hostname", "")
        for listener in self._listeners:
            listener.measured(job, result["fresh"], result["progress"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A job ended: done, stopped early, failed by itself, or lost with its actor too often."""
        job = self._running.pop(trial_id)
        self.hosts.pop(job.key, None)
        del self._handed_out[job.key]
        self._no_filler = False
        if job.key in self._stopping:  # `done` is true then too: Tune makes it so
            self._stopped(job)
        elif error:
            self._fail(job, self.given_up.pop(trial_id, "its process died"))
        elif result and result.get("error"):
            self._fail(job, result["error"], bad_input=result["bad_input"])
        elif result and result.get("done"):
            for listener in self._listeners:
                listener.measured(job, result["fresh"], 1.0)
            self.graph.done(job.key)
            self._done(job, self._storage.read_record(job.key), found=False)

    def reported(self, trial_id: str, fresh: Fresh) -> bool:
        """Judge what a running job measured; whether it is to stop now."""
        job = self._running.get(trial_id)
        if job is None:
            return False
        self._take_in(job, fresh)
        if job.key in self._unwanted:
            self._stopping.add(job.key)
        return job.key in self._stopping

    @property
    def _all_asked(self) -> bool:
        return self._search is None or self._search.all_asked

    # Which job is next.

    def _workers(self, job: Job) -> int:
        """How many workers run a job, each in one slot."""
        return int(self._settings["num_workers"]) if job.kind == "pretrain" else 1

    def _take(self) -> Job | None:
        """The next job that has room.

        Tune asks for a few more jobs than run, so that none of its actors waits. With a job of several workers among
        them these could take the places that it was given out for; then no more are handed out than there are slots.
        """
        gap: Gap | None = None

        def fits(job: Job) -> bool:
            nonlocal gap
            running = [self._workers(other) for other in self._running.values()]
            needed = self._workers(job)
            if self.slots is None or max(running, default=1) == needed == 1 or sum(running) + needed <= self.slots:
                return True
            gap = gap_before(needed, self.slots, self._ends())
            return False

        def fills(job: Job) -> bool:
            assert gap is not None
            assert self._estimate is not None
            return gap.takes(self._workers(job), self._estimate(job))

        if self._estimate is None or self._no_filler:
            return self.graph.take(fits)
        job = self.graph.take(fits, fills)
        self._no_filler = job is None  # until something ends or is added
        return job

    def _ends(self) -> Iterable[tuple[int, float]]:
        """Workers of the running jobs, and the seconds that each has left."""
        for job in self._running.values():
            since, done = self._handed_out[job.key]
            seconds = self._estimate(job) if self._estimate is not None else 0.0
            left = seconds * (1 - done) if done > 0 else seconds - (self._clock() - since)
            yield self._workers(job), max(0.0, left)

    def _add(self, plan: Plan) -> None:
        self._no_filler = False
        found = self.graph.add(plan.jobs.values())
        self._storage.fetch_records(job.key for job in found)
        for job in found:
            self._done(job, self._storage.read_record(job.key), found=True)

    # What became of a job.

    def _done(self, job: Job, record: Mapping[str, Any], *, found: bool) -> None:
        self.results[job.key] = record["result"]
        for listener in self._listeners:
            listener.done(job, record, found=found)
        self._take_in(job, record["history"] if self._judge is not None and job.kind == "pretrain" else [])
        self._ended([job])

    def _fail(self, job: Job, error: str, *, bad_input: bool = False) -> None:
        self.errors[job.key] = error, bad_input
        skipped = self.graph.failed(job.key)
        for listener in self._listeners:
            listener.failed(job, error, skipped)
        self._ended([job, *skipped])

    def _stopped(self, job: Job) -> None:
        self._stopping.discard(job.key)
        self.graph.stopped(job.key)
        for listener in self._listeners:
            listener.pruned(job, self._unwanted.get(job.key, "nobody needed it for a while"))
        for number in self._wanted.get(job.key, ()):  # a trial that came while it stopped
            self.graph.add(self._trials[number][1])

    def _ended(self, jobs: Iterable[Job]) -> None:
        """Tell the search of the trials that have none left of these jobs."""
        for job in jobs:
            for number in list(self._wanted.get(job.key, ())):
                self._left[number].discard(job.key)
                self._conclude(number)

    # Trials.

    def _ask(self) -> bool:
        """Ask for one more trial; whether there was one."""
        if self._search is None or self._nothing_to_ask or self._all_asked:
            return False
        limit = self._search.config.concurrency
        if limit is not None and len(self._trials) >= limit:
            return False
        asked = self._search.ask()
        self.unasked = self._search.unasked
        if asked is None:
            assert self._trials or self._all_asked, "a search that waits for no trial has none to give"
            self._nothing_to_ask = True  # until a trial has ended
            return False
        self._add_trial(*asked)
        return True

    def _add_trial(self, number: int, values: Mapping[str, Any]) -> None:
        assert self._search is not None
        try:
            plan = self._plan(values)
        except InputError:  # values that each field takes, but not together
            self._search.tell(number, None)
            self._nothing_to_ask = False
            for listener in self._listeners:
                listener.trial(number, values, None, found=False)
            return
        self._add(plan)
        jobs = list(plan.jobs.values())
        self._trials[number] = (values, jobs)
        self._left[number] = {job.key for job in jobs if self.graph.states[job.key] not in ENDED}
        for job in jobs:
            self._wanted.setdefault(job.key, set()).add(number)
            self._unwanted.pop(job.key, None)
        if self._judge is not None:
            self._judge.watch(number, jobs)
            self._stop_if_behind(number)
        self._conclude(number)

    def _plan(self, values: Mapping[str, Any]) -> Plan:
        assert self._plan_trial is not None
        return self._plan_trial(values)

    def _conclude(self, number: int) -> None:
        """Tell the search how good a trial is, if it has no job left."""
        if number not in self._trials or self._left[number]:
            return
        assert self._search is not None
        values, jobs = self._leave(number)
        failed = any(job.key not in self.results for job in jobs)
        scores = None if failed else self._search.score([(job, self.results[job.key]) for job in jobs])
        self._search.tell(number, scores)
        for listener in self._listeners:
            listener.trial(number, values, scores, found=False)

    def _leave(self, number: int) -> tuple[Mapping[str, Any], list[Job]]:
        """The trial needs its jobs no longer."""
        values, jobs = self._trials.pop(number)
        del self._left[number]
        self._nothing_to_ask = False
        for job in jobs:
            self._wanted[job.key].discard(number)
            if not self._wanted[job.key]:
                del self._wanted[job.key]
        if self._judge is not None:
            self._judge.forget(number)
        return values, jobs

    # Early stopping.

    def _take_in(self, job: Job, fresh: Iterable[tuple[str, float, int, int]]) -> None:
        """Take in what a pretraining job measured, and judge the trials that it is for."""
        if self._judge is None or job.kind != "pretrain":
            return
        self._judge.measured(job, fresh)
        for number in list(self._wanted.get(job.key, ())):
            self._stop_if_behind(number)

    def _stop_if_behind(self, number: int) -> None:
        if self._judge is None or number not in self._trials:
            return
        mine = any(self._is_its_own(job, number) for job in self._trials[number][1] if job.key in self._left[number])
        reason = self._judge.verdict(number, may_stop=mine)
        if reason is not None:
            self._prune(number, reason)

    def _is_its_own(self, job: Job, number: int) -> bool:
        """Whether a job is pretraining that only this trial needs."""
        return job.kind == "pretrain" and job.key not in self._own and self._wanted[job.key] == {number}

    def _prune(self, number: int, reason: str) -> None:
        """Stop a trial: those of its jobs that nobody else needs."""
        assert self._search is not None
        values, jobs = self._leave(number)
        self._search.prune(number, reason)
        for job in jobs:
            # A preparation is short, and other trials are likely to need it.
            if job.key not in self._wanted and job.key not in self._own and job.kind != "prepare":
                self._unwanted[job.key] = f"trial {number} {reason}"
        for listener in self._listeners:
            listener.trial(number, values, {}, found=False)


def worker_settings(storage: Storage, source: Source, scaling: ScalingConfig) -> dict[str, Any]:
    """What every worker is told besides its job: the configuration that `JobWorker` reads."""
    return {
        "storage": storage,
        "source": source,
        "threads": scaling.cpus_per_worker,
        "device": "cuda" if scaling.use_gpu else "cpu",
        "checkpoint_seconds": scaling.checkpoint_seconds,
        "hang_seconds": scaling.hang_seconds,
        "num_workers": scaling.num_workers,
        "accumulation": scaling.accumulation,
        "compile": scaling.compile,
    }
