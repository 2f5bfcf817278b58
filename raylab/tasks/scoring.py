"""Scores in percent, equal to those of the official scripts: seqeval's for tags, SQuAD v1.1's for answers.

seqeval imports scikit-learn, which takes seconds: the functions import it, so that only who scores waits for it.
"""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def chunk_f1(gold: list[list[str]], predicted: list[list[str]]) -> float:
    """Micro-averaged F1 of chunks.

    Args:
        gold: Right tags of each sentence, none of them empty.
        predicted: As many tags.

    Returns:
        F1 from 0 to 100; 0 where neither side has a chunk.
    """
    from seqeval.metrics import f1_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on tags that are not IOB, and on F1 without any chunk
        return 100.0 * float(f1_score(gold, predicted))


def accuracy(gold: list[list[str]], predicted: list[list[str]]) -> float:
    """Share of words whose tag is right, from 0 to 100.

    Args:
        gold: Right tags of each sentence; at least one tag in all.
        predicted: As many tags.
    """
    from seqeval.metrics import accuracy_score

    return 100.0 * float(accuracy_score(gold, predicted))


def share_correct(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of examples whose label is right, from 0 to 100.

    Args:
        gold: Right label of each example, at least one.
        predicted: As many labels.
    """
    return 100.0 * (sum(right == given for right, given in zip(gold, predicted, strict=True)) / len(gold))


def exact_match(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> float:
    """Share of answers that are, normalised, one of the right ones, from 0 to 100: SQuAD v1.1's exact match.

    Args:
        gold: Right answers to each question; at least one question, and one answer to each.
        predicted: The answer given to each.
    """
    return _mean(answers_scored(gold, predicted)[1])


def answer_f1(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> float:
    """Mean F1 of the words of each answer, against the right one that suits it best, from 0 to 100: SQuAD v1.1's.

    Args:
        gold: Right answers to each question; at least one question, and one answer to each.
        predicted: The answer given to each.
    """
    return _mean(answers_scored(gold, predicted)[0])


def answers_scored(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> tuple[list[float], list[float]]:
    """F1 of the words and exact match of each answer, from 0 to 1: what `answer_f1` and `exact_match` are means of.

    Args:
        gold: Right answers to each question; at least one answer to each.
        predicted: The answer given to each.
    """
    f1, exact = [], []
    for answers, answer in zip(gold, predicted, strict=True):
        given, right = normalized_answer(answer), [normalized_answer(text) for text in answers]
        f1.append(max(_word_f1(text, given) for text in right))
        exact.append(float(given in right))
    return f1, exact


@lru_cache(maxsize=2**16)  # the right answers are the same for every model
def normalized_answer(text: str) -> str:
    """An answer as SQuAD v1.1's script compares it: lower case, no ASCII punctuation, no `a`, `an`, `the`.

    TyDiQA-GoldP (gold_passage_baseline/eval_gold_passage_baseline.sh of google-research-datasets/tydiqa) and XTREME's
    TyDiQA and XQuAD (evaluate.py) run that script on every language, so English articles go in all of them.
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def _word_f1(right: str, given: str) -> float:
    if right == given:
        return float(bool(right))
    words, given_words = right.split(), given.split()
    if set(words).isdisjoint(given_words):
        return 0.0
    shared = (Counter(words) & Counter(given_words)).total()
    precision, recall = shared / len(given_words), shared / len(words)
    return (2 * precision * recall) / (precision + recall)


def _mean(values: Sequence[float]) -> float:
    """100 times the mean, added up from the first to the last, as the script does."""
    total = 0.0
    for value in values:
        total += value
    return 100.0 * total / len(values)
