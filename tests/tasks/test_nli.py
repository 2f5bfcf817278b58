from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.tasks import TASKS
from raylab.tasks.pairs import LABELS, Pair

NLI = TASKS["nli"]
with_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
SIDE = st.one_of(st.text("abcde ", max_size=30), st.just("\u200b"))
PAIRS = st.lists(st.builds(Pair, SIDE, SIDE, st.sampled_from(LABELS), st.integers(0, 2)), min_size=1, max_size=5)


def cut_longest_first(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


def test_sequences_stand_between_the_tokenizers_own_tokens(framing_tokenizer: Tokenizer) -> None:
    features = NLI.features([Pair("abc", "de", "neutral")], framing_tokenizer, 7, 0)
    assert features.tokens.values.tolist() == [2, 7, 8, 3, 4, 10, 5]


@given(PAIRS, st.integers(5, 40))
@example([Pair("abcdeabcdeabcdeabcde", "edcbaedcbaedcbaedcba", "neutral")], 10)
@with_tokenizer
def test_sequences_are_pairs_with_the_longer_side_cut(tokenizer: Tokenizer, pairs: list[Pair], max_length: int) -> None:
    features = NLI.features(pairs, tokenizer, max_length, 0)
    cut = empty = 0
    end = tokenizer.eos_id
    for row, pair in enumerate(pairs):
        sides = [tokenizer.encode(pair.premise), tokenizer.encode(pair.hypothesis)]
        premise, hypothesis = cut_longest_first(*sides, max_length - 3)
        sequence = features.tokens.values[features.tokens.offsets[row] : features.tokens.offsets[row + 1]].tolist()
        assert sequence == [end, *premise, end, *hypothesis, end]
        cut += [premise, hypothesis] != sides
        empty += sides.count([])
    assert NLI.counts(features, NLI.labels(features)) == {
        "pairs": len(pairs),
        "cut_pairs": cut,
        "empty_sides": empty,
        "left_out_pairs": sum(pair.left_out for pair in pairs),
    }


@given(PAIRS, st.randoms())
@with_tokenizer
def test_targets_and_right_outputs_are_the_labels(tokenizer: Tokenizer, pairs: list[Pair], random: object) -> None:
    features = NLI.features(pairs, tokenizer, 32, 0)
    labels = NLI.labels(features)
    targets = NLI.targets(features, labels)
    assert labels.names == LABELS
    assert [labels.names[target] for target in targets.values] == features.gold == [pair.label for pair in pairs]
    rows = np.arange(len(pairs))[::-1]
    logits = torch.nn.functional.one_hot(torch.from_numpy(targets.padded(rows, -100))[:, 0], 3).float()
    assert NLI.predict([(rows, logits)], features, labels) == features.gold


def test_head_reads_the_first_token_alone(tokenizer: Tokenizer) -> None:
    labels = NLI.labels(NLI.features([Pair("a", "b", "neutral")], tokenizer, 16, 0))
    head = NLI.head(8, labels, dropout=0.0)
    hidden = torch.randn(2, 5, 8)
    logits = head(hidden)
    assert logits.shape == (2, 3)
    hidden[:, 1:] = 0
    torch.testing.assert_close(head(hidden), logits)


def test_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[2], [0], [1]])
    expected = -logits.log_softmax(-1)[torch.arange(3), targets[:, 0]].mean()
    torch.testing.assert_close(NLI.loss(logits, targets, torch.ones(3, 5, dtype=torch.bool)), expected)


def test_length_without_room_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"finetune\.max_length: 4 leaves no room .* at least 5 would"):
        NLI.features([Pair("a", "b", "neutral")], tokenizer, 4, 0)
