"""Rows of unequal length in one flat array, and batches cut from it without a Python loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

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
