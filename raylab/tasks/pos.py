"""Part-of-speech tagging: CoNLL-U's universal tags, scored as XTREME does."""

from __future__ import annotations

import re
from pathlib import Path

from raylab.errors import InputError
from raylab.tasks.columns import read_line_blocks, split_columns
from raylab.tasks.scoring import accuracy, chunk_f1
from raylab.tasks.token_classification import Sentence, TokenClassification

UNIVERSAL_TAGS = frozenset(
    "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()  # noqa: SIM905
)
_NOT_A_WORD = re.compile(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+")  # the range of a multiword token, or an empty node


def read_conllu(path: Path) -> list[Sentence]:
    """Read words (column 2) and universal tags (column 4) of a CoNLL-U file.

    Comments, multiword tokens (`1-2`) and empty nodes (`1.1`) are left out: their words have lines of their own.

    Args:
        path: The file.

    Raises:
        InputError: The file is missing, empty or not UTF-8; a line has not ten columns, has an id out of order, no word
            or a tag that is not universal.
    """
    sentences = []
    for block in read_line_blocks(path):
        words: list[str] = []
        tags: list[str] = []
        for number, line in block:
            if line.startswith("#"):
                continue
            columns = split_columns(path, number, line, 10, "CoNLL-U")
            if _NOT_A_WORD.fullmatch(columns[0]):
                continue
            if columns[0] != str(len(words) + 1):
                raise InputError.at(path, number, f"word id {columns[0]!r}; the next word should be {len(words) + 1}")
            if not columns[1]:
                raise InputError.at(path, number, "the word in column 2 is empty")
            if columns[3] not in UNIVERSAL_TAGS:
                raise InputError.at(
                    path, number, f"bad tag {columns[3]!r} in column 4; one of {' '.join(sorted(UNIVERSAL_TAGS))}"
                )
            words.append(columns[1])
            tags.append(columns[3])
        if words:
            sentences.append(Sentence(tuple(words), tuple(tags)))
    if not sentences:
        raise InputError.at(path, None, "holds no sentence; it should hold CoNLL-U lines of ten columns")
    return sentences


def score(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """XTREME's F1, and the share of words tagged right, in percent.

    XTREME gives the raw tags to seqeval, which takes a tag's first letter for its place in a chunk and the rest for the
    chunk's type. So a run of equal tags is one chunk, all of which must be right, and the F1 is below the accuracy.
    """
    return {"f1": chunk_f1(gold, predicted), "accuracy": accuracy(gold, predicted)}


POS = TokenClassification(name="pos", metrics=("f1", "accuracy"), read=read_conllu, score=score)
