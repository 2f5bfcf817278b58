from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis.chunks import TagRules, count_chunks
from raylab.tasks.pos import UNIVERSAL_TAGS
from raylab.tasks.scoring import chunk_f1

ENTITY_TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-PER", "I-", "."]
Sentences = list[list[tuple[str, str]]]


def sentences(tags: list[str]) -> st.SearchStrategy[Sentences]:
    tag = st.sampled_from(tags)
    pair = st.one_of(tag.map(lambda one: (one, one)), st.tuples(tag, tag))
    return st.lists(st.lists(pair, min_size=1, max_size=6), min_size=1, max_size=6)


def f1_of_counts(text: Sentences) -> float:
    """seqeval's F1, from counts that are added up over sentences."""
    rules = TagRules([tag for sentence in text for pair in sentence for tag in pair])
    gold, predicted = (
        np.array([rules.names.index(pair[side]) for sentence in text for pair in sentence]) for side in (0, 1)
    )
    counts = count_chunks(gold, predicted, np.array([len(sentence) for sentence in text]), rules)
    assert all(len(count) == len(text) for count in counts)
    right, given_, there = (int(count.sum()) for count in counts)
    precision, recall = right / given_ if given_ else 0.0, right / there if there else 0.0
    return 100.0 * (2.0 * precision * recall / (precision + recall or 1.0))


@settings(deadline=None)  # the first to score imports seqeval
@given(sentences(ENTITY_TAGS))
@example([[("B-PER", "B-PER"), ("I-LOC", "I-PER")]])
def test_entities_are_counted_as_seqeval_does(text: Sentences) -> None:
    gold, predicted = ([[pair[side] for pair in sentence] for sentence in text] for side in (0, 1))
    assert f1_of_counts(text) == chunk_f1(gold, predicted)


@settings(deadline=None)
@given(sentences(sorted(UNIVERSAL_TAGS)))
@example([[("NOUN", "NOUN")], [("X", "X"), ("VERB", "VERB")]])  # X's chunk begins in the sentence before
@example([[("NOUN", "VERB"), ("X", "X")]])  # X's chunk never ends
@example([[("SCONJ", "CCONJ")]])  # one type
def test_parts_of_speech_are_counted_as_seqeval_does(text: Sentences) -> None:
    gold, predicted = ([[pair[side] for pair in sentence] for sentence in text] for side in (0, 1))
    assert f1_of_counts(text) == chunk_f1(gold, predicted)


def test_counts_are_of_the_sentence_in_which_a_chunk_ends() -> None:
    rules = TagRules(["O", "B-A", "I-A"])
    gold = np.array([1, 2, 0, 1])
    predicted = np.array([1, 0, 1, 1])
    right, given_, there = count_chunks(gold, predicted, np.array([3, 1]), rules)
    assert (right.tolist(), given_.tolist(), there.tolist()) == ([0, 1], [2, 1], [1, 1])


@pytest.mark.parametrize("tags", [["B-A"], []])
def test_outside_is_always_a_tag(tags: list[str]) -> None:
    assert TagRules(tags).names[0] == "O"
