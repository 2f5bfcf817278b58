from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylab.config import PretrainConfig
from raylab.train.schedule import cosine, inverse_sqrt, learning_rate, linear

peaks = st.floats(1e-5, 1.0)
warmups = st.integers(0, 10_000)
steps = st.integers(0, 1_000_000)


@given(step=steps, peak=peaks, warmup=warmups)
def test_between_initial_and_peak(step: int, peak: float, warmup: int) -> None:
    rate = inverse_sqrt(step, peak=peak, warmup_steps=warmup)
    assert 0 < rate <= peak
    if step <= warmup:
        assert rate >= 1e-7


@given(peak=peaks, warmup=warmups)
def test_highest_at_the_end_of_the_warmup(peak: float, warmup: int) -> None:
    assert inverse_sqrt(warmup, peak=peak, warmup_steps=warmup) == peak


@given(step=steps, peak=peaks, warmup=warmups)
def test_rises_then_falls(step: int, peak: float, warmup: int) -> None:
    here, there = (inverse_sqrt(n, peak=peak, warmup_steps=warmup) for n in (step, step + 1))
    assert there > here if step < warmup else there <= here


@given(step=st.integers(1, 100_000), peak=peaks, warmup=warmups)
def test_four_times_as_late_is_half_as_high(step: int, peak: float, warmup: int) -> None:
    late = max(step, warmup, 1)
    rates = [inverse_sqrt(n, peak=peak, warmup_steps=warmup) for n in (late, 4 * late)]
    assert rates[1] == pytest.approx(rates[0] / 2)


@given(peak=peaks, warmup=st.integers(1, 10_000), initial=st.floats(0, 1e-6))
def test_warmup_is_linear_from_initial(peak: float, warmup: int, initial: float) -> None:
    rates = [inverse_sqrt(n, peak=peak, warmup_steps=warmup, initial=initial) for n in range(0, warmup + 1, warmup)]
    middle = inverse_sqrt(warmup // 2, peak=peak, warmup_steps=warmup, initial=initial)
    assert rates == [initial, peak]
    assert middle == pytest.approx(initial + (peak - initial) * (warmup // 2) / warmup)


def test_without_warmup_starts_at_the_peak() -> None:
    assert [inverse_sqrt(n, peak=1.0, warmup_steps=0) for n in (0, 1, 4)] == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(("step", "warmup"), [(-1, 5), (1, -5)])
def test_negative_is_refused(step: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        inverse_sqrt(step, peak=1.0, warmup_steps=warmup)


@pytest.mark.parametrize("schedule", [linear, cosine])
@given(peak=peaks, warmup=st.integers(0, 50), after=st.integers(1, 50))
def test_falls_to_nothing_just_after_the_last_step(schedule: object, peak: float, warmup: int, after: int) -> None:
    assert callable(schedule)
    total = warmup + after
    rates = [schedule(step, peak=peak, warmup_steps=warmup, total_steps=total) for step in range(total + 3)]
    assert rates[warmup] == pytest.approx(peak)
    assert all(later > earlier for earlier, later in pairwise(rates[: warmup + 1]))
    assert all(later < earlier for earlier, later in pairwise(rates[warmup : total + 1]))
    assert rates[total] > 0
    assert rates[total + 1 :] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_half_way_both_are_at_half_the_peak() -> None:
    for schedule in (linear, cosine):
        assert schedule(6, peak=1.0, warmup_steps=2, total_steps=9) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_negative_steps_are_refused(schedule: object) -> None:
    assert callable(schedule)
    with pytest.raises(ValueError, match="negative"):
        schedule(-1, peak=1.0, warmup_steps=5, total_steps=9)


@pytest.mark.parametrize(("name", "rate"), [("inverse_sqrt", (2 / 4) ** 0.5), ("linear", 7 / 9), ("cosine", 0.883)])
def test_a_job_names_its_schedule(name: str, rate: float) -> None:
    config = PretrainConfig.model_validate({"schedule": name, "learning_rate": 0.1, "warmup_steps": 2, "steps": 10})
    assert learning_rate(config, 1) == pytest.approx(0.05, rel=1e-5)
    assert learning_rate(config, 4) == pytest.approx(0.1 * rate, rel=1e-3)
