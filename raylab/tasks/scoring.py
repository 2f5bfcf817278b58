"""Scores of tag sequences in percent, computed by seqeval.

seqeval imports scikit-learn, which takes seconds: the functions import it, so that only who scores waits for it.
"""

from __future__ import annotations

import warnings


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
