from __future__ import annotations

import doctest
import math
from collections.abc import Collection

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylab.data import masking
from raylab.data.masking import mask_tokens

VOCAB = 12


def _within(count: int, total: int, rate: float) -> bool:
    """Whether a binomial count is less than 5 standard deviations from its mean."""
    return abs(count - rate * total) <= 5 * math.sqrt(total * rate * (1 - rate)) + 1e-9


def _mask(
    tokens: Tensor, special: Collection[int] = range(5), seed: int = 0, **options: float
) -> tuple[Tensor, Tensor]:
    return mask_tokens(
        tokens,
        mask_id=4,
        vocab_size=VOCAB,
        special_ids=special,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=6, max_size=6), min_size=1, max_size=6),
    special=st.sets(st.integers(0, VOCAB - 1), max_size=8),
    probability=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_labels_and_inputs_agree(rows: list[list[int]], special: set[int], probability: float, seed: int) -> None:
    tokens = torch.tensor(rows)
    before = tokens.clone()
    inputs, labels = _mask(tokens, special, seed, probability=probability)
    assert torch.equal(tokens, before)
    assert inputs.shape == labels.shape == tokens.shape
    assert inputs.dtype == labels.dtype == torch.int64
    predicted = labels != -100
    assert torch.equal(labels[predicted], tokens[predicted])
    assert torch.equal(inputs[~predicted], tokens[~predicted])
    assert not set(tokens[predicted].tolist()) & (special | {4})
    changed = inputs != tokens
    assert not set(inputs[changed].tolist()) & (special - {4})


@pytest.mark.parametrize("probability", [0.15, 0.4, 1.0])
def test_rates(probability: float) -> None:
    tokens = torch.arange(VOCAB).repeat(100, 20)  # [100, 240]
    inputs, labels = _mask(tokens, probability=probability)
    ordinary = tokens >= 5
    predicted = labels != -100
    assert not predicted[~ordinary].any()
    assert _within(int(predicted.sum()), int(ordinary.sum()), probability)
    num_predicted = int(predicted.sum())
    masked = predicted & (inputs == 4)
    replaced = predicted & ~masked & (inputs != tokens)
    num_ordinary = VOCAB - 5
    assert _within(int(masked.sum()), num_predicted, 0.8)
    assert _within(int(replaced.sum()), num_predicted, 0.1 * (1 - 1 / num_ordinary))  # one in 7 draws itself
    for identifier in range(5, VOCAB):  # each ordinary token is predicted, and drawn, equally often
        assert _within(int(predicted[tokens == identifier].sum()), int((tokens == identifier).sum()), probability)
        assert _within(int((inputs[replaced] == identifier).sum()), int(replaced.sum()), 1 / num_ordinary)


def test_replacements_are_uniform_around_scattered_special_ids() -> None:
    special = {0, 4, 5, 8, 11}
    tokens = torch.full((100, 1000), 7)
    inputs, labels = _mask(tokens, special, probability=1.0)
    assert (labels == 7).all()
    counts = torch.bincount(inputs.ravel(), minlength=VOCAB)
    assert counts[sorted(special - {4})].sum() == 0
    for identifier in (1, 2, 3, 6, 9, 10):
        assert _within(int(counts[identifier]), tokens.numel(), 0.1 / 7)


def test_positions_are_chosen_independently() -> None:
    tokens = torch.full((2000, 2), 7)
    _, labels = _mask(tokens, probability=0.5)
    both = (labels != -100).all(dim=1)
    assert _within(int(both.sum()), 2000, 0.25)


def test_the_generator_decides() -> None:
    tokens = torch.randint(5, VOCAB, (8, 64), generator=torch.Generator().manual_seed(0))
    first, again, other = (_mask(tokens, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        _mask(torch.tensor([[7]]), probability=probability)


def test_no_ordinary_token_is_refused() -> None:
    with pytest.raises(ValueError, match="none of 12 ids is ordinary"):
        _mask(torch.tensor([[7]]), range(VOCAB))


def test_examples() -> None:
    assert doctest.testmod(masking).failed == 0
    assert doctest.testmod(masking).attempted > 0
