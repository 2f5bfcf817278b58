"""Which sequences go into which batch."""

from __future__ import annotations

import numpy as np
import torch

_LENGTH_NOISE = 0.2  # a training batch mixes lengths about this far apart, so that no two epochs have the same batches


def training_batches(lengths: np.ndarray, batch_size: int, generator: torch.Generator) -> list[np.ndarray]:
    """One epoch in random order, with sequences of like length together, so that little is padded.

    Args:
        lengths: Length of each sequence. [N]
        batch_size: Sequences in a batch; the shortest batch of the epoch has what is left over.
        generator: The epoch's random stream.

    Returns:
        The numbers of the sequences of each batch; every sequence once.
    """
    noise = 1 + _LENGTH_NOISE * torch.rand(len(lengths), generator=generator, dtype=torch.float64).numpy()
    order = np.argsort(lengths * noise, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def evaluation_batches(lengths: np.ndarray, most_tokens: int) -> list[np.ndarray]:
    """All sequences once, in the order of their lengths, in batches of equal work.

    Args:
        lengths: Length of each sequence. [N]
        most_tokens: Most tokens in a batch, padding included; a sequence longer than that is a batch by itself.

    Returns:
        The numbers of the sequences of each batch.
    """
    order = np.argsort(lengths, kind="stable")
    longest = lengths[order]  # a batch is as long as its last sequence
    batches, start = [], 0
    while start < len(order):
        candidates = longest[start : start + most_tokens]  # no batch has more, as no sequence is empty
        padded = candidates * np.arange(1, len(candidates) + 1)  # tokens of a batch that ends at each candidate
        end = start + max(1, int(np.searchsorted(padded, most_tokens, side="right")))
        batches.append(order[start:end])
        start = end
    return batches
