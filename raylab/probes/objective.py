"""What probes read: a model, text, and the masked-language-model loss of the one on the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from raylab.config import PretrainConfig
from raylab.config.probes import ProbeJob
from raylab.data.masking import predicted
from raylab.data.prepare import Prepared
from raylab.errors import InputError
from raylab.model import Encoder
from raylab.train.masked_text import Batch, MaskedText
from raylab.train.precision import Precision


class Objective:
    """The loss of batches.

    Args:
        encoder: The model, on its device.
        precision: How it computes.
    """

    def __init__(self, encoder: Encoder, precision: Precision):
        self.encoder = encoder
        self._precision = precision
        self._device = encoder.tokens.weight.device

    def __call__(self, batch: Batch) -> tuple[Tensor, int]:
        """The cross-entropy in nats, summed over the predicted tokens, and how many they are."""
        positions, targets = predicted(batch.labels)
        inputs, positions, targets = (tensor.to(self._device) for tensor in (batch.inputs, positions, targets))
        with self._precision.autocast():
            return self.encoder.mlm_loss(inputs, positions, targets, batch.language), len(targets)

    @torch.no_grad()
    def perplexity(self, batches: Sequence[Batch]) -> float:
        """Of the predicted tokens of all batches."""
        total, count = 0.0, 0
        for batch in batches:
            loss, predictions = self(batch)
            total, count = total + loss.double().item(), count + predictions
        return math.exp(min(total / max(count, 1), 700.0))  # beyond, float64 overflows


def open_encoder(folder: Path, languages: Sequence[str]) -> Encoder:
    """Read a model that knows these languages, on the CPU and in evaluation mode.

    Raises:
        InputError: It does not, or the folder does not hold a model of raylab.
    """
    encoder = Encoder.from_pretrained(folder)
    if missing := [language for language in languages if language not in encoder.languages]:
        known = ", ".join(encoder.languages)
        raise InputError.at(folder, None, f"a model of {known}; one that knows {missing[0]} is to be probed")
    return encoder


def open_text(
    job: ProbeJob, prepared: Prepared, split: str, language: str, *, batch_size: int, seed: int
) -> MaskedText:
    """Text as pretraining reads it, in an order and with masks of this seed."""
    config = PretrainConfig(
        batch_size=batch_size, sequence_length=job.sequence_length, mask_probability=job.mask_probability
    )
    return MaskedText(prepared, split, language, config, seed=seed)
