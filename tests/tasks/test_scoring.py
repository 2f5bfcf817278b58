from __future__ import annotations

import string
import warnings
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, f1_score
from sklearn.metrics import accuracy_score as sklearn_accuracy

from raylab.tasks import TASKS
from raylab.tasks.pairs import LABELS
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
    assert TASKS["ner"].score(gold, predicted, "en") == {"f1": 100.0 * f1_score(gold, predicted)}


@pytest.mark.filterwarnings("ignore")
@given(tag_pairs(sorted(UNIVERSAL_TAGS)))
def test_pos_score_is_seqevals_on_the_raw_tags(sentences: list[list[tuple[str, str]]]) -> None:
    gold = [[a for a, _ in sentence] for sentence in sentences]
    predicted = [[b for _, b in sentence] for sentence in sentences]
    assert TASKS["pos"].score(gold, predicted, "en") == {
        "f1": 100.0 * f1_score(gold, predicted),
        "accuracy": 100.0 * accuracy_score(gold, predicted),
    }


def test_ner_counts_whole_entities_by_hand() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"]]
    predicted = [["B-PER", "O", "O", "B-LOC"]]  # one of two right, of two predicted
    assert TASKS["ner"].score(gold, predicted, "en") == {"f1": 50.0}


def test_pos_f1_takes_a_run_of_equal_tags_as_one_chunk_by_hand() -> None:
    # Three chunks on either side, INTJ INTJ | NOUN | VERB and INTJ | NOUN NOUN | VERB; the last one is right.
    scores = TASKS["pos"].score([["INTJ", "INTJ", "NOUN", "VERB"]], [["INTJ", "NOUN", "NOUN", "VERB"]], "en")
    assert scores == {"f1": pytest.approx(100 / 3), "accuracy": 75.0}


def test_scores_are_silent_and_zero_without_chunks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TASKS["ner"].score([["O", "O"]], [["O", "O"]], "en") == {"f1": 0.0}
        assert TASKS["pos"].score([["NOUN"]], [["VERB"]], "en")["accuracy"] == 0.0


@pytest.mark.parametrize(
    ("task", "gold", "predicted"),
    [
        ("ner", ["B-PER"], ["B-PER"]),
        ("pos", ["NOUN"], ["NOUN"]),
        ("qa", ("a",), "a"),
        ("nli", "neutral", "neutral"),
    ],
)
def test_metrics_names_what_score_returns(task: str, gold: Any, predicted: Any) -> None:
    assert tuple(TASKS[task].score([gold], [predicted], "en")) == TASKS[task].metrics


def official_words(text: str) -> list[str]:
    """SQuAD v1.1's normalisation, character by character."""
    kept = "".join(" " if c.isspace() else c for c in text.lower() if c not in set(string.punctuation))
    words, word = [], ""
    for c in kept + " ":
        if c.isalnum() or c == "_":
            word += c
        else:
            words.append(" " if word in ("a", "an", "the") else word)
            words.append(c)
            word = ""
    return "".join(words).split()


def official_scores(gold: list[tuple[str, ...]], predicted: list[str]) -> dict[str, float]:
    """SQuAD v1.1's script by its rules: the best of each question's answers, for each metric by itself."""
    f1 = em = 0.0
    for answers, answer in zip(gold, predicted, strict=True):
        given = official_words(answer)
        best_f1 = best_em = 0.0
        for right in map(official_words, answers):
            remaining, same = list(right), 0
            for word in given:
                if word in remaining:
                    remaining.remove(word)
                    same += 1
            precision, recall = (same / len(given), same / len(right)) if same else (0.0, 0.0)
            best_f1 = max(best_f1, 2 * precision * recall / (precision + recall) if same else 0.0)
            best_em = max(best_em, float(right == given))
        f1 += best_f1
        em += best_em
    return {"f1": 100.0 * f1 / len(gold), "em": 100.0 * em / len(gold)}


ANSWER = st.one_of(
    st.text(max_size=12),
    st.lists(
        st.sampled_from(
            ["a", "An", "THE", "the-", "cat", "Cat", "d'a", "1,000", "\u00a0", "القط", "кот", ".", "", "a\u0301"]
        ),
        max_size=5,
    ).map(" ".join),
)


@given(st.lists(st.tuples(st.lists(ANSWER, min_size=1, max_size=3).map(tuple), ANSWER), min_size=1, max_size=6))
@settings(max_examples=500)
@example([(("İstanbul",), "i̇stanbul")])
@example([(("x a\u0301",), "x")])
def test_qa_scores_are_those_of_squads_script(pairs: list[tuple[tuple[str, ...], str]]) -> None:
    gold, predicted = [answers for answers, _ in pairs], [answer for _, answer in pairs]
    assert TASKS["qa"].score(gold, predicted, "te") == official_scores(gold, predicted)


def test_qa_scores_by_hand() -> None:
    gold = [("the Cat sat.", "a dog"), ("1,000",), ("القط الأسود",)]
    predicted = ["cat sat", "1000 an", "القط"]
    # Equal but for article, case and punctuation; twice; one of two words: 2 * 1 * 0.5 / 1.5.
    assert TASKS["qa"].score(gold, predicted, "ar") == {
        "f1": pytest.approx(100 * (1 + 1 + 2 / 3) / 3),
        "em": pytest.approx(200 / 3),
    }
    assert TASKS["qa"].score([("the",)], [""], "en") == {"f1": 0.0, "em": 100.0}


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30))
def test_nli_accuracy_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    assert TASKS["nli"].score(gold, predicted, "en") == {"accuracy": 100.0 * sklearn_accuracy(gold, predicted)}
