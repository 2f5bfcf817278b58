"""Part-of-speech tagging: CoNLL-U's universal tags, scored as XTREME does."""

from __future__ import annotations

import re
from pathlib import Path

from raylab.data.labelled import Labelled
from raylab.errors import InputError
from raylab.tasks.columns import Lines, read_line_blocks, require_columns
from raylab.tasks.scoring import accuracy, chunk_f1
from raylab.tasks.token_classification import Sentence, TokenClassification

UNIVERSAL_TAGS = frozenset(
    "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()  # noqa: SIM905
)
_NOT_A_WORD = re.compile(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+")  # the range of a multiword token, or an empty node


def read_conllu(dataset: Path | Labelled) -> list[Sentence]:
    """Read words (column 2) and universal tags (column 4) of a CoNLL-U file, or XTREME's `word TAB tag`.

    Comments, multiword tokens (`1-2`) and empty nodes (`1.1`) are left out: their words have lines of their own. A file
    whose first word has two columns is taken for XTREME's.

    Args:
        dataset: The file.

    Raises:
        InputError: The file is missing, empty or not UTF-8; a line has a column too many or too few, an id out of
            order, no word or a tag that is not universal.
    """
    lines = Lines(Labelled.of(dataset))
    sentences: list[Sentence] = []
    paired = False
    for block in read_line_blocks(lines):
        words: list[str] = []
        tags: list[str] = []
        for number, line in block:
            columns = line.split("\t")
            if not sentences and not words:  # a `#` may be a word: a comment has no tag behind a tab
                paired |= len(columns) == 2 and (line[0] != "#" or columns[1] in UNIVERSAL_TAGS)
            if paired:
                word, tag = require_columns(lines.path, number, columns, 2, "word and tag, separated by a tab")
            elif line.startswith("#") or _NOT_A_WORD.fullmatch(columns[0]):
                continue
            else:
                word, tag = _word_and_tag(lines.path, number, columns, len(words) + 1)
            if tag not in UNIVERSAL_TAGS:
                column = 2 if paired else 4
                raise InputError.at(
                    lines.path, number, f"bad tag {tag!r} in column {column}; one of {' '.join(sorted(UNIVERSAL_TAGS))}"
                )
            words.append(word)
            tags.append(tag)
        if words:
            sentences.append(Sentence(tuple(words), tuple(tags)))
    if not sentences:
        raise InputError.at(lines.path, None, "holds no sentence; it should hold CoNLL-U lines of ten columns")
    return sentences


def _word_and_tag(path: Path, number: int, columns: list[str], identifier: int) -> tuple[str, str]:
    require_columns(path, number, columns, 10, "CoNLL-U, separated by tabs")
    if columns[0] != str(identifier):
        raise InputError.at(path, number, f"word id {columns[0]!r}; the next word should be {identifier}")
    if not columns[1]:
        raise InputError.at(path, number, "the word in column 2 is empty")
    return columns[1], columns[3]


def score(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """XTREME's F1, and the share of words tagged right, in percent.

    XTREME gives the raw tags to seqeval, which takes a tag's first letter for its place in a chunk and the rest for the
    chunk's type. So a run of equal tags is one chunk, all of which must be right, and the F1 is below the accuracy.
    """
    return {"f1": chunk_f1(gold, predicted), "accuracy": accuracy(gold, predicted)}


POS = TokenClassification(name="pos", metrics=("f1", "accuracy"), reader=read_conllu, scorer=score)
