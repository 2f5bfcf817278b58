"""How far a difference between two models can be trusted: another seed, another test set, or both.

A contrast is a difference of scores of two models on one test set (or a mean of such differences), known for one or
more seeds. Three intervals of it answer three questions; docs/statistics.md says which, and how each behaves.

- seeds: had both models been trained with other seeds? Student's t, or the bootstrap, over paired differences.
- examples: had these very models been tested on other sentences? Paired bootstrap over test examples.
- total: both at once, and the p-value that a verdict is built on. With d_s the difference for seed s of S, D its mean,
  v its moderated variance over seeds with f degrees of freedom (`analysis.statistics.moderated_variances`), and D*,
  d*_s the same on a resampled test set:

      total* = D + k (D* - D) + t_f sqrt(v / S)          k^2 = c / var(D*)
      c      = max( (S var(D*) - mean_s var(d*_s)) / (S - 1),  var(D*) - v / S,  0 )

  c is that part of the examples' variance that all seeds have in common: the rest, an example on which one seed happens
  to do better, is in v already, as every seed was tested on the same examples (the analysis of variance of crossed
  random effects; Owen 2007 shows that resampling both plainly counts it twice). The interval is of percentiles of
  total*; the p-value is Student's, of D over sqrt(v / S + c), with Satterthwaite's degrees of freedom, as the tails of
  ten thousand resamples end before a correction for hundreds of comparisons begins.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtr, stdtrit

from analysis.examples import Examples, Outcomes
from analysis.resampling import bootstrap_scores, randomisation_p_values
from analysis.statistics import bootstrap_over_seeds, moderated_variances, percentile_interval

RESAMPLES = 10_000
NAN = float("nan")


class Uncertainty(NamedTuple):
    """What is known of the chance in a contrast; NaN where it is not.

    Attributes:
        seeds_low: Lower end of the bootstrap interval over seeds; from two seeds.
        seeds_high: Its upper end.
        examples: Test examples that both models were tested on; 0 where their predictions are not at hand.
        examples_low: Lower end of the paired bootstrap interval over test examples.
        examples_high: Its upper end.
        examples_p: P-value of the approximate randomisation test over test examples.
        total_low: Lower end of the interval from all sources at hand.
        total_high: Its upper end.
        p: P-value from all sources at hand, two-sided.
        basis: What these sources are.
        reason: Why there is no p-value, or why examples are none of its sources; empty if neither.
    """

    seeds_low: float = NAN
    seeds_high: float = NAN
    examples: int = 0
    examples_low: float = NAN
    examples_high: float = NAN
    examples_p: float = NAN
    total_low: float = NAN
    total_high: float = NAN
    p: float = NAN
    basis: str = ""
    reason: str = ""


class Scored(NamedTuple):
    """A score of one model, as far as it can be found again: the job that gave it, the test language, the metric."""

    key: str
    language: str
    metric: str


@dataclass(frozen=True)
class Contrast:
    """A mean of differences between pairs of models, by seed.

    Attributes:
        differences: First minus second, the mean over the pairs, for each seed that all pairs have; percentage points.
        pairs: For each seed, as above, the pairs.
        alike: Contrasts of whose variances over seeds something may be learned from each other have equal ones.
    """

    differences: Mapping[int, float]
    pairs: Mapping[int, Sequence[tuple[Scored, Scored]]]
    alike: Hashable = None

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN without any."""
        return float(np.mean(list(self.differences.values()))) if self.differences else NAN

    @property
    def variance(self) -> float:
        """Sample variance over seeds; NaN with fewer than two."""
        return float(np.var(list(self.differences.values()), ddof=1)) if len(self.differences) > 1 else NAN


def average(contrasts: Sequence[Contrast], alike: Hashable = None) -> Contrast:
    """The mean of contrasts, over the seeds that all of them have."""
    seeds = sorted(set.intersection(*(set(contrast.differences) for contrast in contrasts))) if contrasts else []
    return Contrast(
        {seed: float(np.mean([contrast.differences[seed] for contrast in contrasts])) for seed in seeds},
        {seed: [pair for contrast in contrasts for pair in contrast.pairs[seed]] for seed in seeds},
        alike,
    )


@dataclass(frozen=True, eq=False)
class ScoreDraws:
    """Scores of models on resampled test sets: draw r of all models that share a test set is on the same resample.

    Drawn when first asked for, all at once. Each test set's chance depends on `seed`, its task, its language and its
    size alone, so a study that grows keeps its draws. Takes 4 * resamples bytes a score.

    Attributes:
        examples: The models' outcomes.
        resamples: How many test sets are drawn.
        seed: Seeds all chance.
    """

    examples: Examples = field(default_factory=Examples)
    resamples: int = RESAMPLES
    seed: int = 0

    def pairs(self, contrast: Contrast) -> list[list[tuple[Outcomes, Outcomes]]] | str:
        """The outcomes of a contrast's pairs, [seeds][pairs], or why they cannot be had."""
        found: list[list[tuple[Outcomes, Outcomes]]] = []
        for pairs in contrast.pairs.values():
            found.append([])
            for pair in pairs:
                first, second = (self.examples.get(*tested) for tested in pair)
                for tested, outcomes in zip(pair, (first, second), strict=True):
                    if outcomes is None:
                        return self.examples.reason(*tested)
                assert first is not None
                assert second is not None
                if first.test_set != second.test_set:
                    return f"the two models were tested on different examples of {pair[0].language}"
                found[-1].append((first, second))
            if [first.test_set for first, _ in found[-1]] != [first.test_set for first, _ in found[0]]:
                return "the seeds were tested on different examples"
        return found

    def differences(self, pairs: Sequence[Sequence[tuple[Outcomes, Outcomes]]]) -> np.ndarray:
        """Mean difference over the pairs of each seed, on every resample. [seeds, resamples]"""
        return np.stack(
            [
                sum(self._drawn[id(first)] - self._drawn[id(second)] for first, second in of_seed) / len(of_seed)
                for of_seed in pairs
            ]
        )

    def randomisation(self, comparisons: Sequence[Sequence[tuple[Outcomes, Outcomes]]]) -> np.ndarray:
        """P-values of approximate randomisation, for comparisons of one pair a seed. [comparisons]"""
        p_values = np.full(len(comparisons), NAN)
        for test_set, members in _by_test_set(comparisons).items():
            pairs = [pair for member in members for pair in comparisons[member]]
            groups = np.repeat(np.arange(len(members)), [len(comparisons[member]) for member in members])
            first, second = (
                (np.stack([o.numerators for o in side], axis=1), np.stack([o.denominators for o in side], axis=1))
                for side in zip(*pairs, strict=True)
            )
            random = self._random(test_set, "randomisation")
            p_values[members] = randomisation_p_values(first, second, groups, self.resamples, random)
        return p_values

    @cached_property
    def _drawn(self) -> dict[int, np.ndarray]:
        by_test_set: dict[tuple[str, str, int], list[Outcomes]] = {}
        for outcomes in self.examples.all():
            by_test_set.setdefault(outcomes.test_set, []).append(outcomes)
        drawn: dict[int, np.ndarray] = {}
        for test_set, members in by_test_set.items():
            numerators = np.stack([outcomes.numerators for outcomes in members], axis=1)
            denominators = np.stack([outcomes.denominators for outcomes in members], axis=1)
            random = self._random(test_set, "bootstrap")
            scores = bootstrap_scores(numerators, denominators, self.resamples, random)
            drawn.update((id(outcomes), row) for outcomes, row in zip(members, scores, strict=True))
        return drawn

    def _random(self, test_set: tuple[str, str, int], purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32("/".join((*test_set[:2], purpose)).encode())])

    def over_seeds(self, purpose: str) -> np.random.Generator:
        """Chance that has nothing to do with any test set's."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])


def measure(contrasts: Sequence[Contrast], draws: ScoreDraws, level: float = 0.95) -> list[Uncertainty]:
    """The uncertainty of contrasts, which learn from each other how much scores vary over seeds.

    Args:
        contrasts: Those of a study, or of a table.
        draws: Of their models; of no models, seeds are the only source.
        level: Coverage of all intervals.

    Raises:
        ValueError: If `level` is not between 0 and 1.
    """
    variances, degrees = moderate(contrasts)
    outcomes = [draws.pairs(contrast) if contrast.pairs else "" for contrast in contrasts]
    single = {
        place: [pair for (pair,) in pairs]
        for place, pairs in enumerate(outcomes)
        if not isinstance(pairs, str) and all(len(of_seed) == 1 for of_seed in pairs)
    }
    tested = np.full(len(contrasts), NAN)
    tested[list(single)] = draws.randomisation(list(single.values()))
    chance = _StudentDraws(draws)
    measured = []
    for contrast, pairs, variance, freedom, p_value in zip(
        contrasts, outcomes, variances, degrees, tested, strict=True
    ):
        differences = list(contrast.differences.values())
        low, high = bootstrap_over_seeds(differences, level)
        if isinstance(pairs, str):
            one = _of_seeds(contrast, variance, freedom, level, pairs)
        else:
            one = _of_examples(contrast, draws.differences(pairs), variance, freedom, level, p_value, chance)
            count = sum({first.test_set: len(first.numerators) for first, _ in pairs[0]}.values())
            one = one._replace(examples=count)
        measured.append(one._replace(seeds_low=low, seeds_high=high))
    return measured


def moderate(contrasts: Sequence[Contrast]) -> tuple[np.ndarray, np.ndarray]:
    """Moderated variances over seeds of contrasts, and their degrees of freedom. [contrasts] both"""
    variances = np.array([contrast.variance for contrast in contrasts], dtype=float)
    degrees = np.array([max(0, len(contrast.differences) - 1) for contrast in contrasts], dtype=float)
    kinds: dict[Hashable, list[int]] = {}
    for place, contrast in enumerate(contrasts):
        kinds.setdefault(contrast.alike, []).append(place)
    for places in kinds.values():
        variances[places], degrees[places] = moderated_variances(variances[places], degrees[places])
    return variances, degrees


class _StudentDraws:
    """Draws of Student's t, the same ones for the same degrees of freedom."""

    def __init__(self, draws: ScoreDraws) -> None:
        self._draws = draws
        self._known: dict[float, np.ndarray] = {}

    def __getitem__(self, degrees: float) -> np.ndarray:
        if degrees not in self._known:
            self._known[degrees] = self._draws.over_seeds("student").standard_t(degrees, self._draws.resamples)
        return self._known[degrees]


def _of_seeds(contrast: Contrast, variance: float, degrees: float, level: float, why: str) -> Uncertainty:
    """Without predictions: Student's t with the moderated variance."""
    seeds = len(contrast.differences)
    if seeds < 2:
        return Uncertainty(reason=f"one seed, and {why}" if seeds else "")
    if not variance > 0.0:
        return Uncertainty(reason=_NO_VARIANCE)
    error = math.sqrt(variance / seeds)
    margin = error * student_quantile(degrees, level)
    p = 2.0 * float(stdtr(degrees, -abs(contrast.mean) / error))
    return Uncertainty(
        total_low=contrast.mean - margin,
        total_high=contrast.mean + margin,
        p=p,
        basis=f"{seeds} seeds alone",
        reason=why,
    )


_NO_VARIANCE = "all seeds give the very same difference, so nothing is known of chance"


def _of_examples(
    contrast: Contrast,
    by_seed: np.ndarray,
    variance: float,
    degrees: float,
    level: float,
    randomisation: float,
    chance: _StudentDraws,
) -> Uncertainty:
    """With draws of each seed's difference, [seeds, resamples]."""
    seeds = len(by_seed)
    mean_draws = by_seed.mean(axis=0)
    of_mean, of_each = float(np.var(mean_draws)), float(np.mean(np.var(by_seed, axis=1)))
    (low,), (high,) = percentile_interval(mean_draws[None], level)
    if math.isnan(randomisation):  # a mean over test sets, each of which has coins of its own
        z = abs(contrast.mean) / math.sqrt(of_mean) if of_mean > 0.0 else math.inf * abs(contrast.mean)
        randomisation = 1.0 if math.isnan(z) else 2.0 * float(ndtr(-z))
    found = Uncertainty(examples_low=float(low), examples_high=float(high), examples_p=float(randomisation))
    if seeds == 1:
        return found._replace(
            total_low=float(low), total_high=float(high), p=float(randomisation), basis="examples alone (one seed)"
        )
    over_seeds = variance / seeds
    shared = max((seeds * of_mean - of_each) / (seeds - 1), of_mean - over_seeds, 0.0)
    error = math.sqrt(over_seeds + shared)
    if not error > 0.0:
        return found._replace(basis=f"{seeds} seeds and examples", reason=_NO_VARIANCE)
    kept = math.sqrt(shared / of_mean) if of_mean > 0.0 else 0.0
    total = contrast.mean + kept * (mean_draws - contrast.mean)
    if over_seeds > 0.0:
        total = total + chance[degrees] * math.sqrt(over_seeds)
    (low,), (high,) = percentile_interval(total[None], level)
    freedom = degrees * (error**2 / over_seeds) ** 2 if over_seeds > 0.0 else math.inf  # the examples' own are many
    p = float(
        stdtr(freedom, -abs(contrast.mean) / error) if math.isfinite(freedom) else ndtr(-abs(contrast.mean) / error)
    )
    return found._replace(total_low=float(low), total_high=float(high), p=2.0 * p, basis=f"{seeds} seeds and examples")


def student_quantile(degrees: float, level: float) -> float:
    """Half the width of Student's interval, in standard errors."""
    return float(stdtrit(degrees, (1.0 + level) / 2.0))


def _by_test_set(
    comparisons: Sequence[Sequence[tuple[Outcomes, Outcomes]]],
) -> dict[tuple[str, str, int], list[int]]:
    found: dict[tuple[str, str, int], list[int]] = {}
    for place, pairs in enumerate(comparisons):
        found.setdefault(pairs[0][0].test_set, []).append(place)
    return found
