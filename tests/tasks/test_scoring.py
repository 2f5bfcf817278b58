from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, f1_score

from raylab.tasks import TASKS
from raylab.tasks.pos import UNIVERSAL_TAGS

ENTITY_TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def tag_pairs(tags: list[str]) -> st.SearchStrategy[list[list[tuple[str, str]]]]:
    pair = st.tuples(st.sampled_from(tags), st.sampled_from(tags))
    return st.lists(st.lists(pair, min_size=1, max_size=8), min_size=1, max_size=6)


@pytest.mark.filterwarnings("ignore")
@given(tag_pairs(ENTITY_TAGS))
def test_ner_score_is_seqevals(sentences: list[list[tuple[str, str]]]) -> None:
    gold = [[a for a, _ in sentence] for sentence in sentences]
    predicted = [[b for _, b in sentence] for sentence in sentences]
    assert TASKS["ner"].score(gold, predicted) == {"f1": 100.0 * f1_score(gold, predicted)}


@pytest.mark.filterwarnings("ignore")
@given(tag_pairs(sorted(UNIVERSAL_TAGS)))
def test_pos_score_is_seqevals_on_the_raw_tags(sentences: list[list[tuple[str, str]]]) -> None:
    gold = [[a for a, _ in sentence] for sentence in sentences]
    predicted = [[b for _, b in sentence] for sentence in sentences]
    assert TASKS["pos"].score(gold, predicted) == {
        "f1": 100.0 * f1_score(gold, predicted),
        "accuracy": 100.0 * accuracy_score(gold, predicted),
    }


def test_ner_counts_whole_entities_by_hand() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"]]
    predicted = [["B-PER", "O", "O", "B-LOC"]]  # one of two right, of two predicted
    assert TASKS["ner"].score(gold, predicted) == {"f1": 50.0}


def test_pos_f1_takes_a_run_of_equal_tags_as_one_chunk_by_hand() -> None:
    # Three chunks on either side, INTJ INTJ | NOUN | VERB and INTJ | NOUN NOUN | VERB; the last one is right.
    scores = TASKS["pos"].score([["INTJ", "INTJ", "NOUN", "VERB"]], [["INTJ", "NOUN", "NOUN", "VERB"]])
    assert scores == {"f1": pytest.approx(100 / 3), "accuracy": 75.0}


def test_scores_are_silent_and_zero_without_chunks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TASKS["ner"].score([["O", "O"]], [["O", "O"]]) == {"f1": 0.0}
        assert TASKS["pos"].score([["NOUN"]], [["VERB"]])["accuracy"] == 0.0


@pytest.mark.parametrize(("task", "tag"), [("ner", "B-PER"), ("pos", "NOUN")])
def test_metrics_names_what_score_returns(task: str, tag: str) -> None:
    assert tuple(TASKS[task].score([[tag]], [[tag]])) == TASKS[task].metrics
