"""Means over seeds and how far they can be trusted, and corrections for many comparisons.

What each interval and p-value answers is in docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, polygamma, stdtrit


class Interval(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
        mean: Arithmetic mean; NaN of no values.
        low: Lower end of the interval; NaN with fewer than two values.
        high: Upper end of the interval; NaN with fewer than two values.
        size: Number of values.
    """

    mean: float
    low: float
    high: float
    size: int


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of a few measurements with Student's t interval, mean ± t(n - 1) · s / sqrt(n).

    Args:
        values: Measurements, independent and about normal; for us one for each seed. NaN is an error of the caller.
        level: Coverage of the interval, between 0 and 1.

    Raises:
        ValueError: If `level` is not between 0 and 1, both excluded.

    Example:
        >>> mean, low, high, count = mean_interval([1.0, 3.0])
        >>> print(f"{mean} from {low:.3f} to {high:.3f} over {count} seeds")
        2.0 from -10.706 to 14.706 over 2 seeds
    """
    check_level(level)
    count = len(values)
    if count == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(np.mean(values))
    if count == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    standard_error = float(np.std(values, ddof=1)) / count**0.5
    margin = float(stdtrit(count - 1, (1.0 + level) / 2.0)) * standard_error
    return Interval(mean, mean - margin, mean + margin, count)


def check_level(level: float) -> None:
    """Raise ValueError if a confidence level is not between 0 and 1, both excluded."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"a confidence level lies between 0 and 1, for example 0.95; found {level}")


def excludes_zero(low: float, high: float) -> bool:
    """Whether zero lies outside an interval; never outside an unknown one (NaN)."""
    return low > 0.0 or high < 0.0


def bootstrap_over_seeds(
    values: Sequence[float], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over seeds (Efron and Tibshirani 1993, chapter 13).

    With few seeds it is too narrow: it never leaves the range of the measurements, so of three seeds it covers the
    truth three times in four at best. Student's interval (`mean_interval`) pays for few seeds; this one is for who has
    ten or more, and doubts that they are normal.

    Args:
        values: One measurement a seed.
        level: Coverage of the interval, between 0 and 1.
        resamples: How many times the seeds are drawn, with replacement.
        seed: Seeds the draws.

    Returns:
        Both ends; NaN with fewer than two values.

    Raises:
        ValueError: If `level` is not between 0 and 1, both excluded.
    """
    check_level(level)
    if len(values) < 2:
        return float("nan"), float("nan")
    counts = _seed_counts(len(values), resamples, seed)
    low, high = percentile_interval((counts @ np.asarray(values, dtype=float))[None] / len(values), level)
    return float(low[0]), float(high[0])


@lru_cache(maxsize=8)
def _seed_counts(seeds: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of a few seeds is in each resample. [resamples, seeds]"""
    return np.random.default_rng(seed).multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)


def percentile_interval(draws: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of bootstrap draws.

    Not BCa: its correction needs the statistic without each example in turn, for every cell, and for differences of
    scores over hundreds of examples, which are about symmetric, it changes what the resamples' own chance does.

    Args:
        draws: Draws of some statistics. [statistics, resamples]
        level: Coverage of the interval, between 0 and 1.

    Returns:
        The lower and the upper end of each. [statistics] both

    Raises:
        ValueError: If `level` is not between 0 and 1, both excluded.
    """
    check_level(level)
    if not draws.size:
        return np.full(len(draws), np.nan), np.full(len(draws), np.nan)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail], axis=1)
    return low, high


def moderated_variances(variances: np.ndarray, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances of which each is known from a few seeds only, each drawn toward what they have in common.

    Two or three seeds tell a cell's variance so badly that Student's interval is many times too wide to see anything.
    A study has dozens of such cells, whose variances are alike: they are taken for draws from one scaled inverse
    chi-squared distribution, the distribution is estimated from all of them, and each cell's variance becomes the mean
    of its own and the common one, weighted by degrees of freedom (Smyth 2004, "Linear models and empirical Bayes
    methods for assessing differential expression", section 6.2: limma's moderated t). Where variances differ much the
    common one has little weight, and nothing is borrowed.

    Args:
        variances: Sample variances. [cells]
        degrees: Their degrees of freedom; 0 where a cell has no variance. [cells]

    Returns:
        The moderated variances, and their degrees of freedom, no more than all cells have together; unchanged where
        there are fewer than three variances to learn from, or all are zero. [cells] both
    """
    variances, degrees = np.asarray(variances, dtype=float), np.asarray(degrees, dtype=float)
    known = degrees > 0
    middle = np.median(variances[known]) if known.any() else 0.0
    if known.sum() < 3 or middle <= 0.0:
        return variances, degrees
    own = np.maximum(variances[known], 1e-5 * middle)  # as limma does: the logarithm of 0 would outweigh all others
    half = degrees[known] / 2.0
    logs = np.log(own) - digamma(half) + np.log(half)
    excess = float(np.var(logs, ddof=1) - np.mean(polygamma(1, half)))
    all_degrees = float(degrees[known].sum())
    if excess > 0.0:
        prior_half = _inverse_trigamma(excess)
        prior_degrees = 2.0 * prior_half
        prior = math.exp(float(np.mean(logs)) + float(digamma(prior_half)) - math.log(prior_half))
    else:  # they differ no more than so few seeds make equal ones differ
        prior_degrees, prior = all_degrees, float(np.average(variances[known], weights=degrees[known]))
    total = degrees + prior_degrees
    moderated = np.where(known, (prior_degrees * prior + degrees * np.where(known, variances, 0.0)) / total, variances)
    return moderated, np.where(known, np.minimum(total, all_degrees), degrees)


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value, by Newton's method (Smyth 2004, appendix)."""
    guess = 0.5 + 1.0 / value
    for _ in range(50):
        trigamma = float(polygamma(1, guess))
        step = trigamma * (1.0 - trigamma / value) / float(polygamma(2, guess))
        guess += step
        if -step / guess < 1e-10:
            break
    return guess


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values adjusted for many comparisons, so that all true ones at once are right (Holm 1979).

    The chance that any cell of the family with no real difference is told from zero is at most the level, whatever the
    dependence between cells.

    Args:
        p_values: Of one family; NaN is no member of it. [cells]

    Returns:
        The adjusted p-values; NaN where there was NaN. [cells]

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(values), np.nan)
    order = _known_order(values)
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def benjamini_hochberg(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values adjusted for many comparisons, so that few of those found are false (Benjamini and Hochberg 1995).

    Of the cells that are told from zero, the expected share without a real difference is at most the level, where
    cells are independent or positively dependent. Less strict than `holm`.

    Args:
        p_values: Of one family; NaN is no member of it. [cells]

    Returns:
        The adjusted p-values; NaN where there was NaN. [cells]

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.04, 0.04]
    """
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(values), np.nan)
    order = _known_order(values)
    steps = values[order] * (len(order) / np.arange(1, len(order) + 1))
    adjusted[order] = np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0)
    return adjusted


def _known_order(values: np.ndarray) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    return order[~np.isnan(values[order])]


ADJUSTMENTS: dict[str, Callable[[Sequence[float] | np.ndarray], np.ndarray]] = {
    "holm": holm,
    "benjamini_hochberg": benjamini_hochberg,
}
"""Corrections for many comparisons, by name."""
