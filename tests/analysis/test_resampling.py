from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.resampling import bootstrap_scores, randomisation_p_values

SMALL, LARGE = 40, 600  # examples: drawn one by one, and by counts


def counts(examples: int, models: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators like those of F1."""
    random = np.random.default_rng(seed)
    things = random.integers(0, 5, (examples, models))
    right = random.binomial(things, 0.6)
    return 2.0 * right, (things + right + random.integers(0, 3, (examples, models))).astype(float)


def ratio(numerator: np.ndarray, denominator: np.ndarray, axis: int = -1) -> np.ndarray:
    return 100.0 * numerator.sum(axis=axis) / denominator.sum(axis=axis)


@pytest.mark.parametrize("examples", [SMALL, LARGE])
def test_bootstrap_agrees_with_scipys(examples: int) -> None:
    numerators, denominators = counts(examples)
    ours = bootstrap_scores(numerators, denominators, 20_000, np.random.default_rng(1))
    difference = ours[0] - ours[1]
    theirs = stats.bootstrap(
        (numerators[:, 0], denominators[:, 0], numerators[:, 1], denominators[:, 1]),
        lambda a, b, c, d, axis=-1: ratio(a, b, axis) - ratio(c, d, axis),
        n_resamples=5000,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    assert difference.std() == pytest.approx(theirs.standard_error, rel=0.05)
    ends = np.quantile(difference, [0.025, 0.975])
    assert ends == pytest.approx(list(theirs.confidence_interval), abs=0.15 * theirs.standard_error)


@pytest.mark.parametrize(("examples", "margin"), [(1, 4.0), (SMALL, 4.0), (LARGE, 4.0), (LARGE, 0.5)])
def test_each_resample_is_of_as_many_examples(examples: int, margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.resampling._MARGIN", margin)  # with a small one, many sums are beyond at first
    # A numerator of one on the first example alone: what is drawn is how often it is in a resample.
    numerators = np.eye(examples, 1)
    drawn = bootstrap_scores(numerators, np.ones((examples, 1)), 40_000, np.random.default_rng(0))[0]
    times = drawn * examples / 100.0
    np.testing.assert_allclose(times, np.round(times), atol=1e-3)
    expected = stats.binom(examples, 1 / examples)
    for count in range(4):
        assert np.mean(np.round(times) == count) == pytest.approx(expected.pmf(count), abs=0.01)
    whole = bootstrap_scores(np.ones((examples, 1)), np.ones((examples, 1)), 50, np.random.default_rng(0))
    assert (whole == 100.0).all()


@pytest.mark.parametrize("examples", [SMALL, LARGE])
def test_models_of_a_test_set_are_drawn_together(examples: int) -> None:
    numerators, denominators = counts(examples, 1)
    twice = bootstrap_scores(
        np.repeat(numerators, 2, axis=1), np.repeat(denominators, 2, axis=1), 100, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(twice[0], twice[1])
    assert twice[0].std() > 0.0
    again = bootstrap_scores(numerators, denominators, 100, np.random.default_rng(0))
    np.testing.assert_array_equal(again[0], twice[0])


def test_score_of_no_chunks_is_zero() -> None:
    assert (bootstrap_scores(np.zeros((5, 1)), np.zeros((5, 1)), 10, np.random.default_rng(0)) == 0.0).all()


def test_memory_does_not_grow_with_the_resamples() -> None:
    # 100,000 examples x 1,000 resamples would be 400 MB of counts at once.
    import tracemalloc

    numerators, denominators = counts(100_000, 1)
    tracemalloc.start()
    bootstrap_scores(numerators, denominators, 1000, np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def p_values(first: tuple, second: tuple, groups: list[int], resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    return randomisation_p_values(first, second, np.array(groups), resamples, np.random.default_rng(seed))


def test_randomisation_agrees_with_all_exchanges() -> None:
    numerators, denominators = counts(10, seed=3)
    found = abs(ratio(numerators[:, 0], denominators[:, 0]) - ratio(numerators[:, 1], denominators[:, 1]))
    as_large = []
    for swaps in itertools.product([False, True], repeat=10):
        swapped = np.array(swaps)[:, None]
        top, below = (np.where(swapped, part[:, ::-1], part) for part in (numerators, denominators))
        as_large.append(abs(ratio(top[:, 0], below[:, 0]) - ratio(top[:, 1], below[:, 1])) >= found - 1e-9)
    ours = p_values(*((numerators[:, [side]], denominators[:, [side]]) for side in (0, 1)), [0])
    assert ours[0] == pytest.approx(np.mean(as_large), abs=0.02)


def test_randomisation_agrees_with_scipys() -> None:
    random = np.random.default_rng(5)
    right = random.random((200, 2)) < (0.7, 0.62)
    ones = np.ones((200, 1))
    ours = p_values((right[:, :1].astype(float), ones), (right[:, 1:].astype(float), ones), [0])
    theirs = stats.permutation_test(
        (right[:, 0].astype(float), right[:, 1].astype(float)),
        lambda a, b, axis=-1: np.mean(a, axis=axis) - np.mean(b, axis=axis),
        permutation_type="samples",
        n_resamples=10_000,
        rng=np.random.default_rng(0),
    )
    assert ours[0] == pytest.approx(theirs.pvalue, abs=0.02)


def test_group_is_tested_by_its_mean() -> None:
    # Three seeds whose differences point one way are surer together than each alone.
    random = np.random.default_rng(1)
    ones = np.ones((300, 3))
    first, second = (random.random((300, 3)) < rate for rate in (0.70, 0.63))
    sides = (first.astype(float), ones), (second.astype(float), ones)
    alone = p_values(*sides, [0, 1, 2])
    together = p_values(*sides, [0, 0, 0])
    assert together.shape == (1,)
    assert together[0] < min(alone)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_randomisation_does_not_know_which_is_first(seed: int) -> None:
    numerators, denominators = counts(30, 4, seed)
    one, other = ((numerators[:, side], denominators[:, side]) for side in (slice(0, 2), slice(2, 4)))
    np.testing.assert_allclose(p_values(one, other, [0, 1], 500), p_values(other, one, [0, 1], 500), atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_order_of_the_examples_does_not_matter(seed: int) -> None:
    numerators, denominators = counts(50, 2, seed)
    order = np.random.default_rng(seed).permutation(50)
    spread, p = [], []
    for rows in (np.arange(50), order):
        top, below = numerators[rows], denominators[rows]
        drawn = bootstrap_scores(top, below, 4000, np.random.default_rng(0))
        spread.append((drawn[0] - drawn[1]).std())
        p.append(p_values((top[:, :1], below[:, :1]), (top[:, 1:], below[:, 1:]), [0], 4000)[0])
    assert spread[0] == pytest.approx(spread[1], rel=0.1)
    assert p[0] == pytest.approx(p[1], abs=0.05)


def test_equal_models_are_never_told_apart() -> None:
    numerators, denominators = counts(100, 1)
    assert p_values((numerators, denominators), (numerators, denominators), [0], 100)[0] == 1.0


def test_false_positives_are_as_many_as_promised() -> None:
    random = np.random.default_rng(0)
    pairs = 400
    right = (random.random((2, 150, pairs)) < 0.6).astype(float)  # both models are right as often
    ones = np.ones((150, pairs))
    p = p_values((right[0], ones), (right[1], ones), list(range(pairs)), 500)
    assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.035)  # three standard errors


def test_interval_over_examples_covers_the_truth() -> None:
    random = np.random.default_rng(1)
    pairs, examples = 400, 150
    right = (random.random((examples, 2 * pairs)) < 0.6).astype(float)
    drawn = bootstrap_scores(right, np.ones_like(right), 500, random)
    low, high = np.quantile(drawn[:pairs] - drawn[pairs:], [0.025, 0.975], axis=1)
    assert np.mean((low <= 0.0) & (high >= 0.0)) == pytest.approx(0.95, abs=0.035)
