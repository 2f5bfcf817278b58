"""Named entity recognition: CoNLL columns or WikiANN's, scored by the F1 of whole entities."""

from __future__ import annotations

import re
from pathlib import Path

from raylab.data.labelled import Labelled
from raylab.errors import InputError
from raylab.tasks.columns import Lines, read_line_blocks, require_columns
from raylab.tasks.scoring import chunk_f1
from raylab.tasks.token_classification import Sentence, TokenClassification

_TAG = re.compile(r"O|[BI]-\S+")
_SPACES = re.compile(" +")
_DOCUMENT_START = "-DOCSTART-"
_LANGUAGE_PREFIX = re.compile(r"[a-z]{2,}(?:-[a-z]+)*:")


def read_conll(dataset: Path | Labelled) -> list[Sentence]:
    """Read lines of a token and its IOB tag, with an empty line between sentences.

    Columns are `token TAB tag`; or, where the first line has no tab, separated by spaces, as many in each line, the
    token first and the tag last (CoNLL-2003, MasakhaNER). Lines `-DOCSTART-` are left out. WikiANN's `lang:token` loses
    its prefix if every token of the file has the same one. An `I-` tag that continues no entity of its type begins one,
    as seqeval reads it; it is repaired to `B-` and counted.

    Args:
        dataset: The file.

    Raises:
        InputError: The file is missing, empty, not UTF-8 or cut off; a line has a column too many or too few, or a bad
            tag.
    """
    lines = Lines(Labelled.of(dataset))
    sentences: list[tuple[list[str], list[str]]] = []
    number, spaced = 0, 0
    for block in read_line_blocks(lines):
        words: list[str] = []
        tags: list[str] = []
        for number, line in block:
            if line.startswith(_DOCUMENT_START):
                continue
            if not sentences and not words and "\t" not in line:
                spaced = max(2, len(_SPACES.split(line.strip(" "))))
            if spaced:
                columns = require_columns(
                    lines.path, number, _SPACES.split(line.strip(" ")), spaced, "as in the first line, by spaces"
                )
            else:
                columns = require_columns(lines.path, number, line.split("\t"), 2, "token and tag, separated by a tab")
            if not _TAG.fullmatch(columns[-1]):
                raise InputError.at(lines.path, number, f"bad tag {columns[-1]!r}; a tag is O, B-TYPE or I-TYPE")
            words.append(columns[0])
            tags.append(columns[-1])
        if words:
            sentences.append((words, tags))
    if not sentences:
        raise InputError.at(lines.path, None, "holds no sentence; it should hold lines of a token, a tab and a tag")
    if not lines.whole:
        _refuse_cut_tag(lines.path, number, [tag for _, tags in sentences for tag in tags])
    prefix = _common_prefix([word for words, _ in sentences for word in words])
    return [_repaired([word[len(prefix) :] for word in words], tags) for words, tags in sentences]


def _refuse_cut_tag(path: Path, number: int, tags: list[str]) -> None:
    """Raise if the last tag's type begins another type of the file, which has no line end behind it."""
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


NER = TokenClassification(name="ner", metrics=("f1",), reader=read_conll, scorer=score, outside="O")
