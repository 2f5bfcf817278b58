"""Small jobs fill the gaps before large ones, and never make them wait longer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from raylab.config import ModelConfig, PrepareJob, PretrainConfig, PretrainJob, ScalingConfig
from raylab.data.source import Source
from raylab.search.graph import JobGraph, State
from raylab.search.packing import gap_before
from raylab.search.plan import Job, Plan
from raylab.search.searcher import JobSearcher, worker_settings
from raylab.search.storage import Storage

_SMALL = PrepareJob(languages=("aa",), vocab_size=1, subsample={}, meta_fraction=0.0, invalid_utf8="stop")
_LARGE = PretrainJob(
    languages=("aa",), variant="mono", seed=0, model=ModelConfig(), pretrain=PretrainConfig(), meta=None
)


def test_the_gap_before_a_large_job() -> None:
    running = [(1, 10.0), (2, 30.0), (1, 20.0)]
    gap = gap_before(3, 6, running)  # 2 are free; the third after 10 s
    assert gap == (2, 10.0, 0)
    assert gap.takes(1, 10.0)
    assert not gap.takes(1, 11.0)
    assert not gap.takes(3, 1.0)
    assert gap_before(4, 6, [(2, 5.0), (1, 5.0), (2, 9.0)]) == (1, 5.0, 0)
    assert gap_before(2, 6, [(2, 5.0), (3, 5.0), (1, 9.0)]) == (0, 5.0, 3)
    assert gap_before(7, 6, running) == (2, math.inf, 0)
    assert gap_before(7, 6, running).takes(2, 1e9)  # the cluster is too small for it


class _Cluster:
    """Runs jobs for exactly as long as they are estimated to take."""

    def __init__(self, jobs: list[Job], seconds: dict[str, float], storage: Storage, workers: int, slots: int) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.graph = JobGraph(storage.is_finished, lambda job: -float(job.key))
        told = worker_settings(storage, Source(storage.root), ScalingConfig(num_workers=workers))
        self.searcher = JobSearcher(
            self.graph, storage, told, [], estimate=lambda job: seconds[job.key], clock=lambda: self.now
        )
        self.searcher.slots = slots
        self.searcher.begin(Plan({job.key: job for job in jobs}))
        self.storage, self.slots = storage, slots
        self.ends: dict[str, tuple[float, Job, int]] = {}
        self.begun: dict[str, float] = {}
        self._asked = 0

    def fill(self) -> bool:
        """Start all that the searcher hands out; whether the sweep goes on."""
        given: Any = None
        while sum(workers for _, _, workers in self.ends.values()) < self.slots:
            given = self.searcher.suggest(str(self._asked))
            if not isinstance(given, dict):
                break
            job: Job = given["job"]
            self.ends[str(self._asked)] = (self.now + self.seconds[job.key], job, given["workers"])
            self.begun[job.key] = self.now
            assert sum(workers for _, _, workers in self.ends.values()) <= self.slots
            self._asked += 1
        return given != Searcher.FINISHED

    def advance(self) -> None:
        """Go on to the next end of a job."""
        trial = min(self.ends, key=lambda one: self.ends[one][0])
        self.now, job, _ = self.ends.pop(trial)
        self.storage.write_record(job.key, {"result": {}})
        self.searcher.on_trial_complete(trial, {"done": True, "fresh": [], "progress": 1.0})


def _jobs(kinds: list[bool], inputs: dict[int, int] | None = None) -> list[Job]:
    return [
        Job(
            "pretrain" if large else "prepare",
            str(place),
            _LARGE if large else _SMALL,
            (str(inputs[place]),) if inputs and place in inputs else (),
        )
        for place, large in enumerate(kinds)
    ]


def test_small_jobs_fill_the_gap_and_longer_ones_wait(tmp_path: Path) -> None:
    kinds = [False, False, True, False, False]
    seconds = {"0": 10.0, "1": 4.0, "2": 5.0, "3": 20.0, "4": 6.0}
    cluster = _Cluster(_jobs(kinds), seconds, Storage.open(str(tmp_path)), workers=3, slots=3)
    while cluster.fill():
        cluster.advance()
    # 2 takes all slots once 0 ends; 4 ends before that and 3 does not.
    assert cluster.begun == {"0": 0.0, "1": 0.0, "4": 0.0, "2": 10.0, "3": 15.0}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.booleans(), min_size=1, max_size=14),
    seconds=st.lists(st.integers(1, 20), min_size=14, max_size=14),
    workers=st.integers(2, 4),
    spare=st.integers(0, 3),
    data=st.data(),
)
def test_a_large_job_is_never_delayed_beyond_its_reservation(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[bool],
    seconds: list[int],
    workers: int,
    spare: int,
    data: Any,
) -> None:
    inputs = {place: data.draw(st.integers(0, place - 1)) for place in range(1, len(kinds)) if data.draw(st.booleans())}
    cluster = _Cluster(
        _jobs(kinds, inputs),
        {str(place): float(length) for place, length in enumerate(seconds)},
        Storage.open(str(tmp_path_factory.mktemp("runs"))),
        workers,
        workers + spare,
    )
    reserved: dict[str, float] = {}
    while cluster.fill():
        turn = cluster.graph._turn  # who waits for room now
        if turn is not None:
            running = [(count, end - cluster.now) for end, _, count in cluster.ends.values()]
            start = cluster.now + gap_before(workers, cluster.slots, running).seconds
            assert start <= reserved.get(turn, math.inf) + 1e-9
            reserved.setdefault(turn, start)
        cluster.advance()
    assert cluster.graph.count(State.DONE) == len(kinds)  # nothing starves
    for key, start in reserved.items():
        assert cluster.begun[key] <= start + 1e-9
