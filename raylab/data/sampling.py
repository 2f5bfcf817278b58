"""Which language a training step reads."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from raylab.errors import InputError
from raylab.seeding import generator


def language_probabilities(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Temperature sampling, P_i ~ (L_i / sum_j L_j)^(1/T) (Wang, Lipton and Tsvetkov 2020, section 3.2).

    Args:
        sizes: L_i, each language's number of training sentences.
        temperature: T; 1 samples in proportion to size, infinity samples every language alike.

    Returns:
        The probability of each language, in the order of `sizes`; they sum to 1.

    Raises:
        InputError: No language, a size or temperature that is not positive.

    Example:
        >>> language_probabilities({"en": 400, "sw": 100}, temperature=1.0)
        {'en': 0.8, 'sw': 0.2}
        >>> language_probabilities({"en": 900, "sw": 100}, temperature=2.0)
        {'en': 0.75, 'sw': 0.25}
    """
    if not sizes:
        raise InputError("no language to sample: at least one is needed")
    if not temperature > 0:
        raise InputError(f"pretrain.temperature: {temperature} is not positive; 1 samples in proportion to size")
    for language, size in sizes.items():
        if not 0 < size < math.inf:
            raise InputError(f"language {language!r} has size {size}; a positive number of sentences is needed")
    largest = max(sizes.values())
    weights = {language: (size / largest) ** (1 / temperature) for language, size in sizes.items()}
    total = math.fsum(weights.values())
    return {language: weight / total for language, weight in weights.items()}


def sample_language(probabilities: Mapping[str, float], seed: int, step: int) -> str:
    """The language of one step: a function of its arguments alone, whatever the order of `probabilities`.

    Args:
        probabilities: As `language_probabilities` gives them.
        seed: The job's seed.
        step: The optimizer step.
    """
    draw = torch.rand((), dtype=torch.float64, generator=generator(seed, "language", step)).item()
    *others, last = sorted(language for language, probability in probabilities.items() if probability > 0)
    for language in others:
        draw -= probabilities[language]
        if draw < 0:
            return language
    return last
