"""Pairs of sentences with a label: XNLI's and MultiNLI's TSV, XTREME's, and JSON Lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from raylab.data.labelled import Labelled
from raylab.errors import InputError
from raylab.tasks.columns import Lines, require_columns

LABELS = ("entailment", "neutral", "contradiction")  # in the order of Hugging Face's numbers
NO_MAJORITY = "-"

_SPELLINGS = {"contradictory": "contradiction", **{str(number): label for number, label in enumerate(LABELS)}}
_NO_MAJORITY_NUMBER = "-1"
_NAMES = (("sentence1", "premise"), ("sentence2", "hypothesis", "hypo"), ("gold_label", "label"))
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


class Pair(NamedTuple):
    """A premise and a hypothesis.

    Attributes:
        premise: What is held to be true.
        hypothesis: What follows, contradicts, or neither.
        label: One of `LABELS`.
        left_out: How many pairs without a label, on which annotators had no majority, stood before this one; for the
            last pair, also those behind it.
    """

    premise: str
    hypothesis: str
    label: str
    left_out: int = 0


def read_pairs(dataset: Path | Labelled) -> list[Pair]:
    """Read the pairs of a file, or of one language of it.

    - JSON Lines, where the first line begins with `{` and has no tab: `sentence1`, `sentence2`, `gold_label`; or
      `premise`, `hypothesis`, `label`.
    - Columns with names in the first line, separated by tabs, nothing quoted: the same names (XNLI, MultiNLI, GLUE), or
      `premise`, `hypo`, `label` (XNLI's machine translations of MultiNLI).
    - Three columns without names: premise, hypothesis, label; a column may be quoted as CSV (XTREME).

    A label is one of `LABELS`, `contradictory`, or a number: Hugging Face's 0 is entailment, 1 neutral, 2
    contradiction. Pairs labelled `-` (or -1), on which annotators had no majority, are left out and counted, as in the
    scores of MultiNLI and XNLI.

    Args:
        dataset: The file. With a language, only the pairs with that value of `language`.

    Raises:
        InputError: The file is missing, empty, cut off or not UTF-8, or a line has not the right columns, or a label
            that is none of these.
    """
    dataset = Labelled.of(dataset)
    lines = Lines(dataset)
    parse: Callable[[int, str], dict[str, Any]] | None = None
    pairs: list[Pair] = []
    left_out = 0
    for number, line in lines:
        if not line.strip():
            continue
        if parse is None:
            parse, is_header = _format(lines.path, number, line, dataset.language)
            if is_header:
                continue
        found = parse(number, line)
        if dataset.language is not None and found["language"] != dataset.language:
            continue
        label = _label(lines.path, number, found["label"])
        if label == NO_MAJORITY:
            left_out += 1
            continue
        pairs.append(Pair(found["premise"], found["hypothesis"], label, left_out))
        left_out = 0
    if not pairs:
        of_language = f" of language {dataset.language!r}" if dataset.language else ""
        raise InputError.at(
            lines.path, None, f"holds no pair{of_language} with a label; premise, hypothesis and label are expected"
        )
    pairs[-1] = pairs[-1]._replace(left_out=pairs[-1].left_out + left_out)
    return pairs


def _format(
    path: Path, number: int, line: str, language: str | None
) -> tuple[Callable[[int, str], dict[str, Any]], bool]:
    """How to read the lines of a file, from the first; and whether that one has names."""
    if line.startswith("{") and "\t" not in line:
        return lambda number, line: _from_json(path, number, line, language), False
    names = line.split("\t")
    roles = {"premise": _NAMES[0], "hypothesis": _NAMES[1], "label": _NAMES[2]}
    columns = {
        role: next((names.index(spelling) for spelling in spellings if spelling in names), None)
        for role, spellings in roles.items()
    }
    if language is not None:
        columns["language"] = names.index("language") if "language" in names else None
    is_pair = len(names) == 3 and _SPELLINGS.get(names[2], names[2]) in (
        *LABELS,
        NO_MAJORITY,
    )  # of words like "premise"
    if not is_pair and any(column is not None for column in columns.values()):
        for role, column in columns.items():
            if column is None:
                wanted = " or ".join(roles.get(role, (role,)))
                raise InputError.at(path, number, f"no column {wanted} among {', '.join(names)[:100]}")

        def named(number: int, line: str) -> dict[str, Any]:
            values = require_columns(
                path, number, line.split("\t"), len(names), "as many as names in the first line, separated by tabs"
            )
            return {role: values[column] for role, column in columns.items() if column is not None}

        return named, True
    if language is not None:
        raise InputError.at(path, number, "the first line names no column language, which tells the languages apart")

    def unnamed(number: int, line: str) -> dict[str, Any]:
        columns = require_columns(path, number, line.split("\t"), 3, "premise, hypothesis and label, separated by tabs")
        return dict(zip(roles, map(_unquoted, columns), strict=True))

    return unnamed, False


def _unquoted(column: str) -> str:
    quoted = _QUOTED.fullmatch(column)
    return quoted[1].replace('""', '"') if quoted else column


def _from_json(path: Path, number: int, line: str, language: str | None) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError.at(path, number, f"not JSON ({' '.join(str(error).split())[:100]}); is it cut off?") from None
    if not isinstance(values, dict):
        raise InputError.at(path, number, "not a JSON object; one object a line is expected")
    found: dict[str, Any] = {}
    for role, spellings in zip(("premise", "hypothesis", "label"), _NAMES, strict=True):
        value = next((values[spelling] for spelling in spellings if spelling in values), None)
        if isinstance(value, bool) or not isinstance(value, str | int if role == "label" else str):
            raise InputError.at(path, number, f"{' or '.join(spellings)} is {str(value)[:60]!r}; text is expected")
        found[role] = value
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError.at(path, number, f"{' or '.join(spellings)} has half a character") from None
    if language is not None:
        found["language"] = values.get("language")
    return found


def _label(path: Path, number: int, value: str | int) -> str:
    text = str(value).strip()
    label = _SPELLINGS.get(text, text)
    if label in (NO_MAJORITY, _NO_MAJORITY_NUMBER):
        return NO_MAJORITY
    if label not in LABELS:
        raise InputError.at(
            path, number, f"bad label {str(value)[:60]!r}; one of {', '.join(LABELS)}, or {NO_MAJORITY} for no majority"
        )
    return label
