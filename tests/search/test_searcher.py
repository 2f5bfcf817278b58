"""The stream of jobs that Tune is given: every job once, and no more workers than there are slots."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from raylab.config import ModelConfig, PrepareJob, PretrainConfig, PretrainJob, ScalingConfig
from raylab.data.source import Source
from raylab.search.graph import ENDED, JobGraph, State
from raylab.search.plan import Job, Plan
from raylab.search.searcher import JobSearcher, worker_settings
from raylab.search.storage import Storage

_PREPARE = PrepareJob(languages=("aa",), vocab_size=1, subsample={}, meta_fraction=0.0, invalid_utf8="stop")
_PRETRAIN = PretrainJob(
    languages=("aa",), variant="mono", seed=0, model=ModelConfig(), pretrain=PretrainConfig(), meta=None
)


def _small(key: str, *inputs: str) -> Job:
    return Job("prepare", key, _PREPARE, inputs)


def _large(key: str, *inputs: str) -> Job:
    return Job("pretrain", key, _PRETRAIN, inputs)


class _Tune:
    """Asks for jobs and ends them, as Tune does: it asks again until it holds `ahead` jobs more than run."""

    def __init__(self, jobs: list[Job], storage: Storage, workers: int, slots: int) -> None:
        self.graph = JobGraph(storage.is_finished, lambda job: -float(job.key))
        scaling = worker_settings(storage, Source(storage.root), ScalingConfig(num_workers=workers))
        self.searcher = JobSearcher(self.graph, storage, scaling, [])
        self.searcher.slots = slots
        self.searcher.begin(Plan({job.key: job for job in jobs}))
        self.storage = storage
        self.out: dict[str, dict[str, Any]] = {}
        self.finished = False
        self._asked = 0

    def ask(self) -> Job | None:
        self._asked += 1
        given = self.searcher.suggest(str(self._asked))
        if given is None or given == Searcher.FINISHED:
            self.finished = given == Searcher.FINISHED
            return None
        assert isinstance(given, dict)
        self.out[str(self._asked)] = given
        return given["job"]  # type: ignore[no-any-return]

    def end(self, trial: str, failed: bool = False) -> None:
        job = self.out.pop(trial)["job"]
        if not failed:
            self.storage.write_record(job.key, {"result": {}})
        result = {"done": True, "fresh": [], "progress": 1.0}
        self.searcher.on_trial_complete(trial, result | ({"error": "x", "bad_input": False} if failed else {}))

    def workers(self) -> list[int]:
        return [given["workers"] for given in self.out.values()]

    def trial_of(self, key: str) -> str:
        return next(trial for trial, given in self.out.items() if given["job"].key == key)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


def test_jobs_of_one_worker_are_handed_out_ahead_of_the_slots(storage: Storage) -> None:
    tune = _Tune([_small(str(n)) for n in range(6)] + [_large("6")], storage, workers=1, slots=2)
    assert [job.key for job in iter(tune.ask, None)] == ["0", "1", "2", "3", "4", "5", "6"]


def test_a_large_job_waits_for_its_slots_and_is_not_overtaken(storage: Storage) -> None:
    tune = _Tune([_small("0"), _small("1"), _large("2"), _small("3"), _small("4")], storage, workers=2, slots=3)
    assert [job.key for job in iter(tune.ask, None)] == ["0", "1"]  # two of three slots are taken, and it needs two
    tune.end(tune.trial_of("0"))
    assert [job.key for job in iter(tune.ask, None)] == ["2"]  # and none beside it: all slots are taken
    assert sorted(tune.workers()) == [1, 2]
    tune.end(tune.trial_of("1"))
    assert [job.key for job in iter(tune.ask, None)] == ["3"]
    tune.end(tune.trial_of("2"))
    assert [job.key for job in iter(tune.ask, None)] == ["4"]


def test_a_job_that_takes_all_slots_runs_alone(storage: Storage) -> None:
    tune = _Tune([_large("0"), _large("1"), _small("2")], storage, workers=4, slots=4)
    for key in ("0", "1"):
        assert [job.key for job in iter(tune.ask, None)] == [key]
        assert not tune.finished
        tune.end(tune.trial_of(key))
    assert [job.key for job in iter(tune.ask, None)] == ["2"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    large=st.lists(st.booleans(), min_size=1, max_size=15),
    workers=st.integers(1, 4),
    spare=st.integers(0, 3),
    failing=st.sets(st.integers(0, 14)),
    seed=st.integers(0, 1000),
)
def test_every_job_ends_and_large_jobs_always_have_their_slots(
    tmp_path_factory: pytest.TempPathFactory,
    large: list[bool],
    workers: int,
    spare: int,
    failing: set[int],
    seed: int,
) -> None:
    chance = random.Random(seed)
    inputs = [chance.sample(range(n), min(n, chance.randint(0, 2))) for n in range(len(large))]
    jobs = [(_large if large[n] else _small)(str(n), *map(str, inputs[n])) for n in range(len(large))]
    slots = workers + spare
    tune = _Tune(jobs, Storage.open(str(tmp_path_factory.mktemp("runs"))), workers, slots)
    while not tune.finished:
        while len(tune.out) < 2 * slots and (job := tune.ask()) is not None:
            if max(tune.workers()) > 1:
                assert sum(tune.workers()) <= slots
            assert tune.out[tune.trial_of(job.key)]["workers"] == (workers if job.kind == "pretrain" else 1)
        if tune.out:
            trial = chance.choice(list(tune.out))
            tune.end(trial, failed=int(tune.out[trial]["job"].key) in failing)
    assert tune.graph.ended([job.key for job in jobs])
    assert tune.graph.count(*ENDED) == len(jobs)
    assert tune.graph.count(State.FAILED, State.SKIPPED) == 0 or failing
