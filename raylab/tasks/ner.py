"""Named entity recognition: CoNLL columns or WikiANN's, scored by the F1 of whole entities."""

from __future__ import annotations

import re
from pathlib import Path

from raylab.errors import InputError
from raylab.tasks.columns import read_line_blocks, split_columns
from raylab.tasks.scoring import chunk_f1
from raylab.tasks.token_classification import Sentence, TokenClassification

_TAG = re.compile(r"O|[BI]-\S+")
_LANGUAGE_PREFIX = re.compile(r"[a-z]{2,}(?:-[a-z]+)*:")


def read_conll(path: Path) -> list[Sentence]:
    """Read `token TAB tag` lines with IOB tags, and an empty line between sentences.

    WikiANN's `lang:token` loses its prefix if every token of the file has the same one. An `I-` tag that continues no
    entity of its type begins one, as seqeval reads it; it is repaired to `B-` and counted.

    Args:
        path: The file.

    Raises:
        InputError: The file is missing, empty, not UTF-8 or cut off; a line has not two columns, no token or a bad tag.
    """
    sentences: list[tuple[list[str], list[str]]] = []
    number = 0
    for block in read_line_blocks(path):
        words, tags = [], []
        for number, line in block:
            word, tag = split_columns(path, number, line, 2, "token and tag")
            if not word:
                raise InputError.at(path, number, "the token is empty; each line should be a token, a tab and a tag")
            if not _TAG.fullmatch(tag):
                raise InputError.at(path, number, f"bad tag {tag!r}; a tag is O, B-TYPE or I-TYPE")
            words.append(word)
            tags.append(tag)
        sentences.append((words, tags))
    if not sentences:
        raise InputError.at(path, None, "holds no sentence; it should hold lines of a token, a tab and a tag")
    _refuse_cut_tag(path, number, [tag for _, tags in sentences for tag in tags])
    prefix = _common_prefix([word for words, _ in sentences for word in words])
    return [_repaired([word[len(prefix) :] for word in words], tags) for words, tags in sentences]


def _refuse_cut_tag(path: Path, number: int, tags: list[str]) -> None:
    """Raise if the file ends inside a tag: with no line end, in a type that begins another type of the file."""
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        if stream.read() == b"\n":
            return
    last = tags[-1][2:]
    longer = sorted({tag[2:] for tag in tags if tag[2:] != last and tag[2:].startswith(last)})
    if last and longer:
        raise InputError.at(path, number, f"the file ends in the tag {tags[-1]!r}, cut off from {longer[0]!r}?")


def _common_prefix(words: list[str]) -> str:
    """WikiANN's `lang:` if all words have it, else nothing."""
    match = _LANGUAGE_PREFIX.match(words[0])
    return match[0] if match and all(word.startswith(match[0]) for word in words) else ""


def _repaired(words: list[str], tags: list[str]) -> Sentence:
    repaired = []
    before = "O"
    for tag in tags:
        starts = tag[0] == "I" and (before == "O" or before[2:] != tag[2:])
        repaired.append(f"B-{tag[2:]}" if starts else tag)
        before = tag
    return Sentence(tuple(words), tuple(repaired), sum(old != new for old, new in zip(tags, repaired, strict=True)))


def score(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """F1 of entities, in percent: seqeval's, which is conlleval's."""
    return {"f1": chunk_f1(gold, predicted)}


NER = TokenClassification(name="ner", metrics=("f1",), read=read_conll, score=score, outside="O")
