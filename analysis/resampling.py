"""Resampling test examples: the paired bootstrap and the approximate randomisation test, on sums over examples.

Every score here is 100 times a ratio of two sums over the examples of a test set: F1 of entities is
2 * right / (given + gold), counted in each sentence; accuracy is right words over words; F1 and exact match of answers
are their sum over questions. So a resample of the examples is a product of a matrix of counts with the examples'
numerators and denominators, and thousands of resamples of dozens of models are a few matrix products.

All models that are tested on the same examples are resampled together: draw r of each is on the same resampled test
set, so any difference of them is paired (Koehn 2004; Berg-Kirkpatrick et al. 2012).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

_BLOCK_ENTRIES = 2**20
"""Entries of the matrix of counts that are held at once: 4 MiB in float32, whatever the number of resamples."""


def bootstrap_scores(
    numerators: np.ndarray, denominators: np.ndarray, resamples: int, random: np.random.Generator
) -> np.ndarray:
    """Scores on test sets that are drawn, with replacement, from the examples of one (Efron and Tibshirani 1993).

    Args:
        numerators: Each example's part of the score's numerator, a column a model. [examples, models]
        denominators: Likewise. [examples, models]
        resamples: How many test sets are drawn, each of as many examples.
        random: Where chance comes from.

    Returns:
        Each model's score on each drawn test set, in percent; 0 where the denominator is. [models, resamples] float32
    """
    examples, models = numerators.shape
    columns, place = _distinct_columns(np.concatenate([numerators, denominators], axis=1))
    scores = np.empty((models, resamples), dtype=np.float32)
    for rows in _blocks(resamples, examples):
        sums = (_resample_counts(rows.stop - rows.start, examples, random) @ columns)[:, place]  # [rows, 2 models]
        scores[:, rows] = _percent(sums[:, :models], sums[:, models:]).T
    return scores


def randomisation_p_values(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    groups: np.ndarray,
    resamples: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Approximate randomisation (Noreen 1989; Yeh 2000): could the two models of a pair just as well be swapped?

    The hypothesis is that on every example the outcomes of both models could have come from either. So in each
    resample a coin decides for each example whether they are swapped, in all pairs of a group alike, and the p-value is
    the share of resamples with a mean difference over the group as large as that found, the found one among them.

    Args:
        first: Numerators and denominators of the first model of each pair. [examples, pairs] both
        second: Of the second model. [examples, pairs] both
        groups: Which group a pair is of, from 0; a group is one comparison, its pairs are its seeds. [pairs]
        resamples: How many times coins are thrown.
        random: Where chance comes from.

    Returns:
        Two-sided p-values, at least 1 / (resamples + 1). [groups]
    """
    examples = len(first[0])
    change = np.concatenate([second[0] - first[0], second[1] - first[1]], axis=1).astype(np.float32)
    sums = [np.concatenate([side[0].sum(0), side[1].sum(0)]).astype(np.float32) for side in (first, second)]
    pairs = len(groups)
    mean_of_group = np.zeros((pairs, groups.max(initial=-1) + 1), dtype=np.float32)
    mean_of_group[np.arange(pairs), groups] = 1.0 / np.bincount(groups)[groups]

    def differences(moved: np.ndarray) -> np.ndarray:
        """From what goes over to the first models' sums, [rows, 2 pairs], to mean differences, [rows, groups]."""
        one, other = sums[0] + moved, sums[1] - moved
        by_pair = _percent(one[:, :pairs], one[:, pairs:]) - _percent(other[:, :pairs], other[:, pairs:])
        return by_pair @ mean_of_group

    found = np.abs(differences(np.zeros((1, 2 * pairs), dtype=np.float32)))
    threshold = found - 1e-4  # percentage points: the float32 of one sum added up in two orders
    as_large = np.zeros(mean_of_group.shape[1], dtype=np.int64)
    for rows in _blocks(resamples, examples):
        moved = _coins(rows.stop - rows.start, examples, random) @ change
        as_large += (np.abs(differences(moved)) >= threshold).sum(axis=0)
    return (1 + as_large) / (1 + resamples)


def _distinct_columns(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each column once, as float32, and where each one went: many models have one denominator in common."""
    places: dict[bytes, int] = {}
    place = np.array([places.setdefault(column.tobytes(), len(places)) for column in columns.T])
    _, first = np.unique(place, return_index=True)
    return columns[:, first].astype(np.float32), place


def _blocks(resamples: int, examples: int) -> Iterator[slice]:
    size = max(1, _BLOCK_ENTRIES // max(1, examples))
    for start in range(0, resamples, size):
        yield slice(start, min(resamples, start + size))


def _resample_counts(rows: int, examples: int, random: np.random.Generator) -> np.ndarray:
    """How often each example is in each resample: multinomial counts. [rows, examples] float32

    Counts that are independently Poisson are multinomial given their sum. So most of a resample is Poisson, of a rate
    such that its sum hardly ever goes beyond, by a table with one entry for each value of 16 random bits (probabilities
    to within 2^-17); what is then missing of the sum is drawn one by one. Four times as fast as drawing all one by one.
    """
    if examples < _FEW_EXAMPLES:
        drawn = random.integers(0, examples, (rows, examples)) + (np.arange(rows) * examples)[:, None]
        return np.bincount(drawn.ravel(), minlength=rows * examples).reshape(rows, examples).astype(np.float32)
    bits = np.frombuffer(random.bytes(2 * rows * examples), dtype=np.uint16).reshape(rows, examples)
    counts = _poisson_table(1.0 - _MARGIN / examples**0.5)[bits]
    missing = examples - counts.sum(axis=1).astype(np.int64)
    beyond = missing < 0
    if beyond.any():
        counts[beyond] = _resample_counts(int(beyond.sum()), examples, random)
        missing[beyond] = 0
    places = random.integers(0, examples, int(missing.sum())) + np.repeat(np.arange(rows) * examples, missing)
    np.add.at(counts.reshape(-1), places, np.float32(1.0))
    return counts


_FEW_EXAMPLES = 256
_MARGIN = 4.0  # standard deviations of the sum


@lru_cache(maxsize=8)
def _poisson_table(rate: float) -> np.ndarray:
    """The count for each value of 16 random bits. [65536] float32"""
    upper = np.cumsum(np.exp(-rate) * np.cumprod(np.concatenate([[1.0], rate / np.arange(1, 20)])))
    return np.searchsorted(upper * 2**16, np.arange(2**16) + 0.5).astype(np.float32)


def _coins(rows: int, examples: int, random: np.random.Generator) -> np.ndarray:
    """Zeros and ones. [rows, examples] float32"""
    count = rows * examples
    bits = np.unpackbits(np.frombuffer(random.bytes(-(-count // 8)), dtype=np.uint8), count=count)
    return bits.reshape(rows, examples).astype(np.float32)


def _percent(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    return 100.0 * numerators / np.where(denominators > 0, denominators, 1.0)
