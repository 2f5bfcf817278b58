"""How long jobs take, before they run: in proportion to what they compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylab.config import MetaConfig, ModelConfig, PretrainConfig, PretrainJob, Variant
from raylab.search.cost import ASSUMED_TFLOPS, WORKERS_SECONDS, Estimator, Remaining
from raylab.search.plan import Job
from raylab.search.storage import Storage

# So many operations that nothing else counts.
_MODEL = ModelConfig(num_layers=24, dim=1024, num_heads=16, ffn_dim=4096, adapter_ratio=1e-3)
_PRETRAIN = PretrainConfig(steps=1000, batch_size=256, sequence_length=128)


def _job(variant: Variant = "adapter", languages: tuple[str, ...] = ("aa", "bb"), **meta: Any) -> Job:
    config = PretrainJob(
        languages=languages,
        variant=variant,
        seed=0,
        model=_MODEL,
        pretrain=_PRETRAIN,
        meta=MetaConfig(**meta) if variant == "meta_adapter" else None,
    )
    return Job("pretrain", "key", config)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


@pytest.mark.parametrize(
    ("job", "passes"),
    [
        (_job("joint"), 3),
        (_job("pcgrad"), 3),
        (_job("gradvac", ("aa", "bb", "cc")), 3),
        (_job("meta_adapter"), 16),
        (_job("meta_adapter", ("aa", "bb", "cc")), 19),
        (_job("meta_adapter", method="forward_difference"), 14),
        (_job("meta_adapter", validate_on="others"), 13),
        (_job("meta_adapter", batch_size=64), 11.5),
        (_job("meta_adapter", meta_every=2), 9.5),
    ],
)
def test_time_follows_the_passes_of_a_step(storage: Storage, job: Job, passes: float) -> None:
    estimator = Estimator(storage, {}, {})
    assert estimator.seconds(job) / estimator.seconds(_job("adapter")) == pytest.approx(passes / 3, rel=0.01)


def test_workers_share_the_work_and_take_a_slot_each(storage: Storage) -> None:
    alone, four = Estimator(storage, {}, {}), Estimator(storage, {}, {}, num_workers=4)
    for estimator in (alone, four):  # what is learnt is of the work, whoever shared it
        estimator.learn(_job(), {"seconds": 1000.0, "workers": 1})
        estimator.learn(_job(), {"seconds": 250.0, "workers": 4})
    assert alone.seconds(_job()) == alone.slot_seconds(_job()) == pytest.approx(1000.0)
    assert four.seconds(_job()) == pytest.approx(250.0 + WORKERS_SECONDS)
    assert four.slot_seconds(_job()) == pytest.approx(4 * (250.0 + WORKERS_SECONDS))


def test_a_gpu_is_not_taken_for_the_cpu_of_the_driver(storage: Storage) -> None:
    on_gpu = Estimator(storage, {}, {}, on_gpu=True)
    assert on_gpu.seconds(_job()) == Estimator(storage, {}, {}, speed=ASSUMED_TFLOPS * 1e12).seconds(_job())


def test_a_running_job_tells_of_its_kind_until_one_has_ended(storage: Storage) -> None:
    estimator = Estimator(storage, {}, {}, num_workers=2)
    before = estimator.seconds(_job())
    estimator.glimpse(_job(), 1.0, 0.5)  # too short to tell
    assert estimator.seconds(_job()) == before
    estimator.glimpse(_job(), 3600.0, 0.01)
    assert estimator.seconds(_job()) == pytest.approx(360_000 + WORKERS_SECONDS)
    estimator.learn(_job(), {"seconds": 1000.0, "workers": 2})
    estimator.glimpse(_job(), 3600.0, 0.01)
    assert estimator.seconds(_job()) == pytest.approx(1000 + WORKERS_SECONDS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    variants=st.lists(st.sampled_from(["joint", "adapter", "meta_adapter"]), max_size=12),
    ended=st.sets(st.integers(0, 11)),
    shares=st.lists(st.floats(0, 1), min_size=12, max_size=12),
    workers=st.sampled_from([1, 3]),
    seconds=st.floats(1, 1e4),
)
def test_the_remaining_work_is_that_of_the_jobs_that_have_not_ended(
    storage: Storage, variants: list[Variant], ended: set[int], shares: list[float], workers: int, seconds: float
) -> None:
    estimator = Estimator(storage, {}, {}, workers)
    jobs = [replace(_job(variant), key=str(number)) for number, variant in enumerate(variants)]
    remaining = Remaining(estimator)
    for job in jobs:
        remaining.add(job)
    estimator.learn(_job(), {"seconds": seconds, "workers": 1})  # what is learnt counts for those that are there too
    for number in ended:
        remaining.remove(str(number))
    left = [job for number, job in enumerate(jobs) if number not in ended]
    under_way = {job.key: shares[int(job.key)] for job in left}
    expected = sum(estimator.slot_seconds(job) * (1 - under_way[job.key]) for job in left)
    assert remaining.slot_seconds(under_way) == pytest.approx(expected, rel=1e-6, abs=1e-6)
