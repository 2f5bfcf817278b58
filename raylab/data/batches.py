"""Batches for pretraining: fixed windows of a token store, shuffled, without padding and without state."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylab.data.store import TokenStore
from raylab.errors import InputError
from raylab.seeding import generator


class Stream:
    """An endless shuffled pass over a token store, cut into batches.

    The store is read as a ring. Each epoch cuts it, from a random place on, into windows of `sequence_length` tokens
    and visits each once in random order; less than a window is left over, somewhere else every epoch. A batch takes
    the next `batch_size` windows, and goes on into the next epoch where one ends. A store that is shorter than a
    window is repeated within it.

    Args:
        store: One split of one language.
        batch_size: Windows B of a batch.
        sequence_length: Tokens T of a window.
        seed: The job's seed.
        name: What the stream is for ("train/en"): streams of different names are independent.

    Attributes:
        windows_per_epoch: Windows that an epoch visits.

    Raises:
        InputError: The store is empty.
    """

    def __init__(self, store: TokenStore, *, batch_size: int, sequence_length: int, seed: int, name: str) -> None:
        if len(store) == 0:
            raise InputError.at(
                store.path,
                None,
                f"no tokens for {name}; give more text, or for the meta split a larger data.meta_fraction",
            )
        self.windows_per_epoch = max(1, len(store) // sequence_length)
        self._store = store
        self._batch_size = batch_size
        self._sequence_length = sequence_length
        self._seed = seed
        self._name = name
        self._epoch = -1  # whose windows `_starts` has: only a cache, for what is read in order
        self._starts = np.empty(0, dtype=np.int64)

    def batch(self, index: int) -> Tensor:
        """The batch of this index, from 0: LongTensor [B, T], the same whatever was read before."""
        first, last = index * self._batch_size, (index + 1) * self._batch_size
        starts = []
        while first < last:
            epoch, place = divmod(first, self.windows_per_epoch)
            starts.append(self._epoch_starts(epoch)[place : place + last - first])
            first += len(starts[-1])
        return torch.from_numpy(self._store.windows(np.concatenate(starts), self._sequence_length))

    def in_order(self, max_batches: int) -> list[Tensor]:
        """Fixed batches for validation, in the order of the text: each window at most once, nothing repeated.

        Args:
            max_batches: Most batches to give. If the store has more, their windows are spread evenly over it.

        Returns:
            LongTensors [B, T], the last with fewer rows where the windows do not fill it. A store that is shorter than
            a window gives one batch [1, tokens in the store].
        """
        length = min(self._sequence_length, len(self._store))
        count = min(self.windows_per_epoch, max_batches * self._batch_size)
        starts = np.arange(count, dtype=np.int64) * self.windows_per_epoch // count * length
        return [
            torch.from_numpy(self._store.windows(starts[first : first + self._batch_size], length))
            for first in range(0, count, self._batch_size)
        ]

    def _epoch_starts(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            random = generator(self._seed, "windows", self._name, epoch)
            offset = torch.randint(len(self._store), (), generator=random)
            order = torch.randperm(self.windows_per_epoch, generator=random)
            self._starts = ((order * self._sequence_length + offset) % len(self._store)).numpy()
            self._epoch = epoch
        return self._starts
