"""Rows of unequal length in one flat array, and batches cut from it without a Python loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """N rows of integers, one after another.

    Attributes:
        values: All rows, flat. [total] int64
        offsets: Row i is `values[offsets[i]:offsets[i + 1]]`. [N + 1] int64, from 0

    Example:
        >>> rows = Ragged(np.array([7, 8, 9]), np.array([0, 1, 3]))
        >>> rows.padded(np.array([1, 0]), fill=-1).tolist()
        [[8, 9], [7, -1]]
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each row. [N] int64"""
        return np.diff(self.offsets)

    def positions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the given rows lie in `values`, padded to the longest of them.

        Args:
            rows: Row numbers. [B]

        Returns:
            positions: Indices into `values`; beyond a row's end they mean nothing. [B, longest]
            inside: Where a row has a value. [B, longest] bool
        """
        columns = np.arange(self.lengths[rows].max(initial=0))  # [longest]
        inside = columns < self.lengths[rows][:, None]  # [B, longest]
        return self.offsets[rows][:, None] + columns, inside

    def padded(self, rows: np.ndarray, fill: int) -> np.ndarray:
        """The given rows as one array, filled with `fill` behind each row's end.

        Args:
            rows: Row numbers. [B]
            fill: What to fill with.

        Returns:
            The rows. [B, longest] int64
        """
        positions, inside = self.positions(rows)
        batch = np.full(inside.shape, fill, dtype=np.int64)  # [B, longest]
        batch[inside] = self.values[positions[inside]]
        return batch


def split_by_offsets(flat: list[str], offsets: np.ndarray) -> list[list[str]]:
    """Cut one flat list into rows; row i is `flat[offsets[i]:offsets[i + 1]]`."""
    return [flat[start:end] for start, end in pairwise(offsets.tolist())]


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where each of some consecutive rows begins, and where the last one ends. [N + 1] int64"""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def ragged_of(rows: Sequence[Sequence[int]]) -> Ragged:
    """Rows of integers as one array."""
    offsets = offsets_of(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)))
    return Ragged(np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(offsets[-1])), offsets)


class Stretches(NamedTuple):
    """A stretch of some values for each of N rows; stretches may overlap.

    Attributes:
        values: What they are stretches of. [V]
        starts: Where each begins. [N]
        lengths: How long each is. [N]
    """

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def positions(self) -> np.ndarray:
        """Where in `values` each value of the stretches is, one stretch after another. [sum of lengths]"""
        return np.repeat(self.starts, self.lengths) + within(self.lengths)


def within(lengths: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each of some consecutive rows. [sum of lengths]"""
    return np.arange(lengths.sum()) - np.repeat(offsets_of(lengths)[:-1], lengths)


def join(*parts: tuple[int, ...] | Stretches) -> tuple[Ragged, list[np.ndarray]]:
    """Join parts to one sequence a row.

    Args:
        parts: Tokens that are the same in each row, or a stretch for each of N rows; at least one of the latter.

    Returns:
        The sequences, and where in their values each stretch begins: [N] for each of the parts that are stretches.

    Example:
        >>> text = Stretches(np.array([7, 8, 9]), starts=np.array([0, 2]), lengths=np.array([2, 1]))
        >>> sequences, begins = join((1,), text, (2, 2))
        >>> sequences.values.tolist(), sequences.offsets.tolist(), begins[0].tolist()
        ([1, 7, 8, 2, 2, 1, 9, 2, 2], [0, 5, 9], [1, 6])
    """
    stretches = [part for part in parts if isinstance(part, Stretches)]
    fixed = sum(len(part) for part in parts if not isinstance(part, Stretches))
    offsets = offsets_of(np.sum([part.lengths for part in stretches], axis=0) + fixed)
    values = np.empty(offsets[-1], dtype=np.int64)
    place = offsets[:-1].copy()  # [N] of the next value
    begins = []
    for part in parts:
        if isinstance(part, Stretches):
            begins.append(place.copy())
            values[Stretches(values, place, part.lengths).positions()] = part.values[part.positions()]
            place += part.lengths
        else:
            for token in part:
                values[place] = token
                place += 1
    return Ragged(values, offsets), begins
