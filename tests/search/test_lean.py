"""The driver's memory does not grow with the number of jobs that have ended."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stand_in_jobs import HOOK

from raylab.config import PrepareJob, ScalingConfig
from raylab.data.source import Source
from raylab.search.graph import JobGraph, State
from raylab.search.plan import Job, Plan
from raylab.search.storage import Storage

_CONFIG = PrepareJob(languages=("aa",), vocab_size=1, subsample={}, meta_fraction=0.0, invalid_utf8="stop")


class _Counts:
    """A listener that counts what Tune still holds of its trials."""

    def __init__(self) -> None:
        self.ended = 0
        self.held = 0

    def done(self, job: Job, record: Mapping[str, Any], *, found: bool) -> None:
        from ray.air.execution._internal.tracked_actor import TrackedActor
        from ray.tune.experiment import Trial

        self.ended += 1
        if self.ended == 60:
            gc.collect()
            self.held = sum(type(known) in (Trial, TrackedActor) for known in gc.get_objects())

    def started(self, *event: Any) -> None: ...
    def measured(self, *event: Any) -> None: ...
    def failed(self, *event: Any) -> None: ...


@dataclass(frozen=True)
class _Ran:
    """Sixty-four jobs that ran, and what was seen of them."""

    graph: JobGraph
    counts: _Counts
    slots: int
    ready: set[int]
    processes: set[int]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> _Ran:
    from raylab.search.cluster import connect
    from raylab.search.searcher import JobSearcher, worker_settings
    from raylab.search.tuner import run_jobs

    folder = tmp_path_factory.mktemp("lean")
    storage = Storage.open(str(folder / "runs"))
    counts = _Counts()
    graph = JobGraph(storage.is_finished, lambda job: 0.0)
    scaling = ScalingConfig()
    searcher = JobSearcher(graph, storage, worker_settings(storage, Source(folder), scaling), [counts])  # type: ignore[list-item]
    jobs = [Job("prepare", f"{number:020d}", _CONFIG, labels={"languages": "aa"}) for number in range(64)]
    searcher.begin(Plan({job.key: job for job in jobs}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOOK, "stand_in_jobs.do_no_work")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        with connect("local", scaling) as slots:
            ready = {int(path.name) for path in Path("/proc").glob("[0-9]*")}
            run_jobs(searcher, scaling, slots, threading.Event())
    processes = {storage.read_record(job.key)["process"] for job in jobs}
    return _Ran(graph, counts, slots, ready, processes)


@pytest.mark.slow
def test_ended_trials_are_forgotten(ran: _Ran) -> None:
    assert ran.graph.count(State.DONE) == ran.counts.ended == 64
    assert 0 < ran.counts.held < 10 + 6 * ran.slots


@pytest.mark.slow
def test_jobs_run_in_the_processes_that_ray_has_ready(ran: _Ran) -> None:
    assert ran.processes <= ran.ready
