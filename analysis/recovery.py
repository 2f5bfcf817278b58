"""How much of what joint training loses a variant brings back: recovery = (variant - joint) / (mono - joint)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from analysis.statistics import percentile_interval
from analysis.uncertainty import Contrast, ScoreDraws, moderate

TINY = 0.1
"""Percentage points; a share of less than the paper prints is no share of anything."""

_NAN = float("nan")


def recoveries(
    contrasts: Sequence[Contrast],
    variants: Sequence[str],
    cells: Sequence[Hashable],
    p_values: Sequence[float],
    draws: ScoreDraws,
    level: float = 0.95,
    baseline: str = "mono",
) -> pd.DataFrame:
    """Recovery of each variant in each cell, over the seeds that mono, joint and the variant have.

    1 is as good as mono, 0 no better than joint, below 0 worse. It is a ratio, and without meaning where mono minus
    joint may be zero: there it is NaN, with the reason.

    The interval is of percentiles of 1 - (mono - variant)* / (mono - joint)*, where both differences are drawn
    together: on the same resampled test set, and over seeds with the covariance that the two have over seeds, each
    one's moderated variance, and the tails of Student's t.

    Args:
        contrasts: Mono minus variant.
        variants: The variant of each.
        cells: What is equal for contrasts on the same language set, task, metric and language.
        p_values: Of the contrasts, not adjusted.
        draws: Of the models' scores.
        level: Coverage of the interval.
        baseline: What `contrasts` have in the place of mono; of another one there is no recovery.

    Returns:
        Columns recovery, recovery_low, recovery_high and recovery_reason, a row a contrast.
    """
    columns = ["recovery", "recovery_low", "recovery_high", "recovery_reason"]
    if baseline != "mono":
        reason = f"recovery is of what joint loses to mono, not to {baseline}"
        return pd.DataFrame([(_NAN, _NAN, _NAN, reason)] * len(contrasts), columns=columns)
    joint = {
        cell: place for place, (cell, variant) in enumerate(zip(cells, variants, strict=True)) if variant == "joint"
    }
    variances, degrees = moderate(contrasts)
    drawn: dict[int, np.ndarray | None] = {}

    def example_draws(place: int) -> np.ndarray | None:
        if place not in drawn:
            pairs = draws.pairs(contrasts[place]) if contrasts[place].pairs else ""
            drawn[place] = None if isinstance(pairs, str) else draws.differences(pairs)
        return drawn[place]

    rows = []
    for place, (cell, contrast) in enumerate(zip(cells, contrasts, strict=True)):
        whole = joint.get(cell)
        reason = _why_not(contrast, None if whole is None else contrasts[whole], level, p_values, whole)
        if reason:
            rows.append((_NAN, _NAN, _NAN, reason))
            continue
        assert whole is not None
        seeds = [seed for seed in contrast.differences if seed in contrasts[whole].differences]
        both = [_SeedPart(contrasts[one], seeds, float(variances[one])) for one in (place, whole)]
        loss, full = both[0].mean, both[1].mean
        note = "joint is above mono here: a share of what joint gains" if full < 0.0 else ""
        moved = _moved(both, [example_draws(one) for one in (place, whole)], float(degrees[whole]), draws)
        if moved is None:
            rows.append((1.0 - loss / full, _NAN, _NAN, note or "one seed, and no predictions: no interval"))
            continue
        endless = np.mean(moved[1] * np.sign(full) <= 0.0) > (1.0 - level) / 2.0
        with np.errstate(divide="ignore", invalid="ignore"):  # few examples: some draws are exactly zero
            shares = 1.0 - moved[0] / moved[1]
        (low,), (high,) = percentile_interval(np.where(np.isnan(shares), np.inf, shares)[None], level)
        if endless or not np.isfinite([low, high]).all():
            rows.append((1.0 - loss / full, _NAN, _NAN, "the interval has no end: mono - joint may be nearly zero"))
            continue
        rows.append((1.0 - loss / full, float(low), float(high), note))
    return pd.DataFrame(rows, columns=columns)


def _why_not(
    contrast: Contrast, whole: Contrast | None, level: float, p_values: Sequence[float], place: int | None
) -> str:
    """Why there is no recovery; empty if there is."""
    if whole is None or place is None or not whole.differences:
        return "mono - joint is not known here"
    if not contrast.differences.keys() & whole.differences.keys():
        return "mono, joint and the variant have no seed in common"
    if abs(whole.mean) < TINY:
        return f"mono - joint is {whole.mean:+.2f} points: too little to take a share of"
    p_value = p_values[place]
    if np.isnan(p_value):
        return "mono - joint may be chance: nothing is known of its uncertainty"
    if p_value > 1.0 - level:
        return f"mono - joint is not told from zero (p = {p_value:.2g})"
    return ""


class _SeedPart:
    """A contrast over some of its seeds: its mean, and each seed's deviation at the size of its moderated variance."""

    def __init__(self, contrast: Contrast, seeds: Sequence[int], variance: float) -> None:
        self.places = [place for place, seed in enumerate(contrast.differences) if seed in seeds]
        values = np.array([contrast.differences[seed] for seed in seeds])
        self.mean = float(values.mean())
        own = contrast.variance
        scale = np.sqrt(variance / own) if len(values) > 1 and own > 0.0 else 1.0
        self.deviations = (values - self.mean) * scale  # [seeds]


def _moved(
    parts: Sequence[_SeedPart], by_seed: Sequence[np.ndarray | None], degrees: float, draws: ScoreDraws
) -> list[np.ndarray] | None:
    """Draws of both differences, moved by seeds and by examples alike; None where neither source is there."""
    seeds = len(parts[0].deviations)
    found = [np.full(draws.resamples, part.mean) for part in parts]
    with_examples = all(draws_of_one is not None for draws_of_one in by_seed)
    if seeds < 2 and not with_examples:
        return None
    if seeds > 1:
        random = draws.over_seeds("recovery")
        weights = random.standard_normal((draws.resamples, seeds))
        weights *= np.sqrt(degrees / random.chisquare(degrees, draws.resamples))[:, None]
        weights /= np.sqrt(seeds * (seeds - 1))  # their sum with the deviations has the variance of the mean
        found = [moved + weights @ part.deviations for moved, part in zip(found, parts, strict=True)]
    if with_examples:
        for place, (part, of_one) in enumerate(zip(parts, by_seed, strict=True)):
            assert of_one is not None
            found[place] = found[place] + (of_one[part.places].mean(axis=0) - part.mean)
    return found
