"""Which examples go into which batch."""

from __future__ import annotations

import numpy as np
import torch

_LENGTH_NOISE = 0.2  # a training batch mixes lengths about this far apart, so that no two epochs have the same batches


def training_batches(lengths: np.ndarray, batch_size: int, generator: torch.Generator) -> list[np.ndarray]:
    """One epoch in random order, with sequences of like length together, so that little is padded.

    Args:
        lengths: Length of each example. [N]
        batch_size: Examples in a batch; the shortest batch of the epoch has what is left over.
        generator: The epoch's random stream.

    Returns:
        The numbers of the examples of each batch; every example once.
    """
    noise = 1 + _LENGTH_NOISE * torch.rand(len(lengths), generator=generator, dtype=torch.float64).numpy()
    batches = _in_order_of(lengths * noise, batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """All examples once, in the order of their lengths.

    Args:
        lengths: Length of each example. [N]
        batch_size: Most examples in a batch.
    """
    return _in_order_of(lengths, batch_size)


def _in_order_of(key: np.ndarray, batch_size: int) -> list[np.ndarray]:
    order = np.argsort(key, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
