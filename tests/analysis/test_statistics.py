from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import statistics
from analysis.statistics import excludes_zero, mean_interval

SCORES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)
LEVELS = st.floats(0.5, 0.999)


def test_two_seeds_by_hand() -> None:
    # t(1) at 0.975 is 12.7062; the standard error of 1 and 3 is 1.
    assert mean_interval([1.0, 3.0]) == pytest.approx((2.0, 2.0 - 12.7062, 2.0 + 12.7062, 2), abs=1e-4)


def test_one_seed_and_none() -> None:
    mean, low, high, size = mean_interval([4.0])
    assert (mean, size) == (4.0, 1)
    assert math.isnan(low)
    assert math.isnan(high)
    mean, low, high, size = mean_interval([])
    assert size == 0
    assert all(math.isnan(value) for value in (mean, low, high))


@given(SCORES, LEVELS)
def test_agrees_with_scipy(values: list[float], level: float) -> None:
    interval = mean_interval(values, level)
    scale = stats.sem(values)
    low, high = stats.t.interval(level, len(values) - 1, np.mean(values), scale) if scale else (interval.mean,) * 2
    assert interval == pytest.approx((np.mean(values), low, high, len(values)), rel=1e-6, abs=1e-6)


@given(SCORES, st.floats(-50, 50), LEVELS)
def test_moves_with_the_scores_and_ignores_their_order(values: list[float], shift: float, level: float) -> None:
    interval = mean_interval(values, level)
    moved = mean_interval([value + shift for value in reversed(values)], level)
    assert moved[:3] == pytest.approx([end + shift for end in interval[:3]], abs=1e-6)


@given(SCORES)
def test_widens_with_the_level(values: list[float]) -> None:
    narrow, wide = mean_interval(values, 0.8), mean_interval(values, 0.99)
    assert wide.low <= narrow.low <= narrow.mean <= narrow.high <= wide.high


def test_covers_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(4000):
        low, high = mean_interval(random.normal(3.0, 2.0, size=4).tolist(), 0.9)[1:3]
        covered += low <= 3.0 <= high
    assert covered / 4000 == pytest.approx(0.9, abs=0.02)  # four standard errors


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.5, float("nan")])
def test_level_that_is_none(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval([1.0, 2.0], level)


@pytest.mark.parametrize(
    ("low", "high", "outside"),
    [(0.1, 2.0, True), (-2.0, -0.1, True), (-1.0, 1.0, False), (0.0, 1.0, False), (math.nan, math.nan, False)],
)
def test_excludes_zero(low: float, high: float, outside: bool) -> None:
    assert excludes_zero(low, high) is outside


def test_example_in_the_docstring() -> None:
    outcome = doctest.testmod(statistics)
    assert outcome.attempted > 0
    assert outcome.failed == 0
