from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import statistics
from analysis.statistics import (
    ADJUSTMENTS,
    benjamini_hochberg,
    bootstrap_over_seeds,
    excludes_zero,
    holm,
    mean_interval,
    moderated_variances,
    percentile_interval,
)

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


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def test_bootstrap_over_seeds_agrees_with_scipys() -> None:
    values = [1.0, 2.5, 4.0, 4.5, 9.0, 3.0]
    low, high = bootstrap_over_seeds(values, 0.9, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, method="percentile", n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert (low, high) == pytest.approx(theirs, abs=0.1)


@settings(deadline=None)
@given(SCORES)
def test_bootstrap_over_seeds_stays_within_the_measurements(values: list[float]) -> None:
    low, high = bootstrap_over_seeds(values, resamples=200)
    assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6
    assert bootstrap_over_seeds([-value for value in values], resamples=200) == pytest.approx((-high, -low), abs=1e-6)


def test_bootstrap_over_one_seed_is_none() -> None:
    assert all(math.isnan(end) for end in bootstrap_over_seeds([1.0]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_over_seeds([1.0, 2.0], 95)


def test_percentile_interval() -> None:
    low, high = percentile_interval(np.array([np.arange(101.0), np.zeros(101)]), 0.9)
    assert [*low, *high] == pytest.approx([5.0, 0.0, 95.0, 0.0])


@settings(deadline=None)
@given(P_VALUES)
def test_corrected_p_values(p_values: list[float]) -> None:
    raw = np.array(p_values)
    order = np.argsort(raw, kind="stable")
    bonferroni = np.minimum(raw * len(raw), 1.0)
    for adjusted in (holm(raw), benjamini_hochberg(raw)):
        assert (adjusted >= raw).all()
        assert (adjusted <= bonferroni + 1e-12).all()
        assert (np.diff(adjusted[order]) >= 0.0).all()
        assert adjusted.max() <= 1.0
    assert (benjamini_hochberg(raw) <= holm(raw) + 1e-12).all()
    np.testing.assert_allclose(benjamini_hochberg(raw), stats.false_discovery_control(raw, method="bh"))


@settings(deadline=None)
@given(P_VALUES, st.integers(0, 11))
def test_cells_without_p_value_are_no_members_of_a_family(p_values: list[float], place: int) -> None:
    for correct in ADJUSTMENTS.values():
        adjusted = correct(np.insert(p_values, min(place, len(p_values)), math.nan))
        assert np.isnan(adjusted).sum() == 1
        np.testing.assert_array_equal(adjusted[~np.isnan(adjusted)], correct(p_values))


def test_holm_by_hand() -> None:
    # Holm 1979: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 no less than that.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


VARIANCES = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=20)


@settings(deadline=None)
@given(VARIANCES, st.integers(1, 5))
def test_moderated_variances_lie_between_their_own_and_the_common_one(variances: list[float], degrees: int) -> None:
    own, degrees_of = np.array(variances), np.full(len(variances), float(degrees))
    moderated, freedom = moderated_variances(own, degrees_of)
    assert (freedom >= degrees_of).all()
    assert (freedom <= degrees_of.sum() + 1e-9).all()
    order = np.argsort(own)
    assert (np.diff(moderated[order]) >= -1e-9 * own.max()).all()
    assert moderated.max() - moderated.min() <= (own.max() - own.min()) * (1 + 1e-9)
    scaled, _ = moderated_variances(own * 7.0, degrees_of)
    np.testing.assert_allclose(scaled, moderated * 7.0, rtol=1e-6)


def test_prior_of_known_variances_is_found() -> None:
    # Variances from a scaled inverse chi-squared distribution of 8 degrees of freedom around 2.
    random = np.random.default_rng(0)
    true = 2.0 * 8.0 / random.chisquare(8, 20_000)
    moderated, freedom = moderated_variances(true * random.chisquare(2, 20_000) / 2.0, np.full(20_000, 2.0))
    assert freedom[0] == pytest.approx(10.0, rel=0.1)
    assert moderated.min() == pytest.approx(2.0 * 8.0 / 10.0, rel=0.1)


def test_equal_variances_are_pooled() -> None:
    moderated, freedom = moderated_variances(np.array([1.0, 1.1, 0.9, 1.0]), np.full(4, 2.0))
    assert moderated == pytest.approx([1.0] * 4, abs=0.03)
    assert freedom.tolist() == [8.0] * 4


def test_nothing_is_learned_from_too_few_cells() -> None:
    for variances, degrees in (([1.0, 9.0], [2.0, 2.0]), ([0.0, 0.0, 0.0], [1.0] * 3), ([math.nan, 1.0], [0.0, 1.0])):
        moderated, freedom = moderated_variances(np.array(variances), np.array(degrees))
        np.testing.assert_array_equal(moderated, variances)
        assert freedom.tolist() == degrees


def test_moderated_t_of_three_seeds_errs_as_often_as_it_says_and_finds_more() -> None:
    random = np.random.default_rng(0)
    scale = np.sqrt(20.0 / random.chisquare(20, 4000))  # cells differ in how much seeds do
    for shift, least in ((0.0, 0.0), (2.5, 0.2)):
        values = random.normal(shift, 1.0, (4000, 3)) * scale[:, None]
        variances, degrees = moderated_variances(values.var(axis=1, ddof=1), np.full(4000, 2.0))
        moderated = stats.t.sf(np.abs(values.mean(1)) / np.sqrt(variances / 3), degrees) * 2 <= 0.05
        plain = stats.ttest_1samp(values, 0.0, axis=1).pvalue <= 0.05
        if shift:
            assert moderated.mean() > plain.mean() + least
        else:
            assert moderated.mean() == pytest.approx(0.05, abs=0.014)  # four standard errors
