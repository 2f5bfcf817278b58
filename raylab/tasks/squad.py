"""SQuAD 1.1's JSON, which TyDiQA-GoldP and XQuAD share."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from raylab.data.labelled import TYDIQA_LANGUAGES, Labelled
from raylab.errors import InputError
from raylab.tasks.columns import unreadable

LARGEST_FILE = 1 << 28
"""Bytes, uncompressed; a larger file is refused, as it is read at once. SQuAD's training set has 30 million."""

_KINDS = {str: "a string", int: "a whole number", list: "a list", dict: "an object"}


class Answer(NamedTuple):
    """A right answer.

    Attributes:
        text: The answer, as it stands in the context.
        start: Its first character in the context.
    """

    text: str
    start: int


class Question(NamedTuple):
    """One question.

    Attributes:
        id: Its name in the dataset.
        question: The question.
        context: The paragraph that holds the answer.
        answers: The right answers; the first is trained on, and any of them scores.
        article: What the context is a part of: the article's title, or the context itself.
        repaired: How many of its answers stood elsewhere than the file says.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    article: str
    repaired: int = 0


def read_squad(dataset: Path | Labelled) -> list[Question]:
    """Read the questions of a file, or of one language of TyDiQA's file of all languages.

    An answer that does not stand at its `answer_start`, but once elsewhere in the context, is moved there and counted.

    Args:
        dataset: The file. With a language, only its questions, by the name that their ids begin with (`arabic-...`).

    Raises:
        InputError: The file is missing, cut off, not UTF-8, not such JSON, larger than `LARGEST_FILE` or without a
            question; two questions have one id; or a question has no answer, or one that is not in its context.
    """
    dataset = Labelled.of(dataset)
    path = dataset.path
    # XTREME cuts TyDiQA's training file by language, and an id down to its last part, which is not unique.
    ids_repeat = path.name.startswith("tydiqa.") and ".train." in path.name
    prefix = f"{TYDIQA_LANGUAGES.get(dataset.language, dataset.language)}-" if dataset.language else ""
    ids: set[str] = set()
    questions = []
    for article, paragraph, place in _paragraphs(path, _load(dataset)):
        context = _get(path, paragraph, "context", str, place)
        title = str(_get(path, article, "title", (str, int), place)) if article.get("title") else context
        for number, entry in enumerate(_get(path, paragraph, "qas", list, place)):
            where = f"{place}.qas[{number}]"
            name = str(_get(path, entry, "id", (str, int), where))
            if not name.startswith(prefix):
                continue
            if name in ids and not ids_repeat:
                raise InputError.at(
                    path, None, f"{where}: two questions have the id {name!r}; each should have its own"
                )
            ids.add(name)
            answers, repaired = _answers(path, entry, context, f"question {name!r}")
            questions.append(
                Question(name, _get(path, entry, "question", str, where), context, answers, title, repaired)
            )
    if not questions:
        kind = f" with an id that begins with {prefix!r}" if prefix else ""
        raise InputError.at(path, None, f"holds no question{kind}; SQuAD 1.1's format is expected")
    return questions


def _load(dataset: Labelled) -> Any:
    path = dataset.path
    try:
        with dataset.open() as stream:
            content = stream.read(LARGEST_FILE + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None
    if len(content) > LARGEST_FILE:
        raise InputError.at(path, None, f"is larger than {LARGEST_FILE} bytes, which are read at once; split it")
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError.at(path, line, f"byte 0x{content[error.start]:02x} is not UTF-8; convert the file") from None
    except json.JSONDecodeError as error:
        ends = "the file ends early" if error.pos >= len(error.doc.rstrip()) else f"column {error.colno}"
        raise InputError.at(path, error.lineno, f"not JSON: {error.msg}, {ends}; is it cut off?") from None
    except (ValueError, RecursionError) as error:  # a number of too many digits, lists in lists in lists
        raise InputError.at(path, None, f"not SQuAD 1.1's JSON ({' '.join(str(error).split())})") from None


def _paragraphs(path: Path, content: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """Each paragraph, its article, and where it is."""
    for number, article in enumerate(_get(path, content, "data", list, "the file")):
        for inner, paragraph in enumerate(_get(path, article, "paragraphs", list, f"data[{number}]")):
            yield article, paragraph, f"data[{number}].paragraphs[{inner}]"


def _answers(path: Path, entry: Any, context: str, where: str) -> tuple[tuple[Answer, ...], int]:
    """The answers to a question, and how many of them had to be moved."""
    found, repaired = [], 0
    for answer in _get(path, entry, "answers", list, where):
        text, start = _get(path, answer, "text", str, where), _get(path, answer, "answer_start", int, where)
        if not text.strip():
            raise InputError.at(path, None, f"{where}: an answer is empty; are the answers held back?")
        if start < 0 or not context.startswith(text, start):
            if context.count(text) != 1:
                raise InputError.at(
                    path,
                    None,
                    f"{where}: the answer {_short(text)} does not stand at {start} in the context, where there is "
                    f"{_short(context[max(start, 0) :][: len(text)])}, and {context.count(text)} times in all",
                )
            start, repaired = context.index(text), repaired + 1
        found.append(Answer(text, start))
    if not found:
        raise InputError.at(path, None, f"{where}: no answer; raylab has no questions without one (SQuAD 2.0)")
    return tuple(found), repaired


def _get(path: Path, value: Any, name: str, kind: Any, where: str) -> Any:
    """A field of a JSON object, or an InputError that says what is there instead."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(_KINDS[one] for one in kinds)
    if not isinstance(value, dict):
        raise InputError.at(path, None, f"{where} is {_short(value)}; an object with {name!r} is expected")
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, kinds):
        there = _short(found) if name in value else "missing"
        raise InputError.at(path, None, f"{where}: {name!r} is {there}; {expected} is expected")
    if isinstance(found, str):
        try:
            found.encode()
        except UnicodeEncodeError as error:
            raise InputError.at(path, None, f"{where}: {name!r} has half a character at {error.start}") from None
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
