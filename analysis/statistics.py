"""Means over seeds, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


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
    if not 0.0 < level < 1.0:
        raise ValueError(f"a confidence level lies between 0 and 1, for example 0.95; found {level}")
    count = len(values)
    if count == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(np.mean(values))
    if count == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    standard_error = float(np.std(values, ddof=1)) / count**0.5
    margin = float(stdtrit(count - 1, (1.0 + level) / 2.0)) * standard_error
    return Interval(mean, mean - margin, mean + margin, count)


def excludes_zero(low: float, high: float) -> bool:
    """Whether zero lies outside an interval; never outside an unknown one (NaN)."""
    return low > 0.0 or high < 0.0
