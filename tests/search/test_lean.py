"""The driver's memory does not grow with the number of jobs that have ended."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
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


@pytest.mark.slow
def test_ended_trials_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raylab.search.cluster import connect
    from raylab.search.searcher import JobSearcher, worker_settings
    from raylab.search.tuner import run_jobs

    monkeypatch.setenv(HOOK, "stand_in_jobs.do_no_work")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    storage = Storage.open(str(tmp_path / "runs"))
    counts = _Counts()
    graph = JobGraph(storage.is_finished, lambda job: 0.0)
    scaling = ScalingConfig()
    searcher = JobSearcher(graph, storage, worker_settings(storage, Source(tmp_path), scaling), [counts])  # type: ignore[list-item]
    jobs = [Job("prepare", f"{number:020d}", _CONFIG, labels={"languages": "aa"}) for number in range(64)]
    searcher.begin(Plan({job.key: job for job in jobs}))
    with connect("local", scaling) as slots:
        run_jobs(searcher, scaling, slots, threading.Event())
    assert graph.count(State.DONE) == counts.ended == 64
    assert 0 < counts.held < 10 + 6 * slots
