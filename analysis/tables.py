"""Frames as plain text, Markdown and CSV; a missing value is a dash, or in CSV nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pandas as pd

MISSING = "–"


def text(frame: pd.DataFrame, decimals: int = 1) -> str:
    """A frame as aligned plain text, for a terminal.

    Args:
        frame: Columns of numbers and strings; levels of the index become columns, in which repeats are left blank.
        decimals: Digits after the point of real numbers.
    """
    header, rows = _cells(frame, decimals)
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    alignments = [_alignment(column[1:]) for column in columns]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, alignments, widths, strict=True)
        return "  ".join(f"{cell:{alignment}{width}}" for cell, alignment, width in cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(header), rule, *map(line, rows)])


def markdown(frame: pd.DataFrame, decimals: int = 1) -> str:
    """A frame as a Markdown table; arguments as of `text`."""
    header, rows = _cells(frame, decimals)
    alignments = [_alignment(column) for column in zip(*rows, strict=True)] or ["<"] * len(header)
    rule = ["---:" if alignment == ">" else "---" for alignment in alignments]
    escaped = [[cell.strip().replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (escaped[0], rule, *escaped[1:]))


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV with one header line and all digits; levels of the index become columns."""
    flat = frame.reset_index() if _has_named_index(frame) else frame.copy()
    flat.columns = pd.Index([_heading(column) for column in flat.columns])
    return flat.to_csv(index=False, lineterminator="\n")


def number(value: float, decimals: int = 1, *, signed: bool = False) -> str:
    """A number as tables print it; a missing one is a dash, and none is minus zero.

    Args:
        value: The number; NaN is missing.
        decimals: Digits after the point.
        signed: Give positive numbers a plus.
    """
    if pd.isna(value):
        return MISSING
    rounded = round(value, decimals) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}"


def _cells(frame: pd.DataFrame, decimals: int) -> tuple[list[str], list[list[str]]]:
    header = [_heading(column) for column in frame.columns]
    rows = [[_cell(value, decimals) for value in row] for row in frame.itertuples(index=False, name=None)]
    if _has_named_index(frame):
        header = [*map(str, frame.index.names), *header]
        rows = [[*labels, *row] for labels, row in zip(_without_repeats(frame.index), rows, strict=True)]
    return header, rows


def _without_repeats(index: pd.Index) -> list[list[str]]:
    """The index's labels, blank where they and all before them repeat the row above."""
    labels = [[str(part) for part in (entry if isinstance(entry, tuple) else (entry,))] for entry in index]
    blanked = labels[:1]
    for above, row in itertools.pairwise(labels):
        repeated = [row[: place + 1] == above[: place + 1] for place in range(len(row) - 1)]
        blanked.append(["" if same else label for label, same in zip(row, [*repeated, False], strict=True)])
    return blanked


def _has_named_index(frame: pd.DataFrame) -> bool:
    return any(name is not None for name in frame.index.names)


def _heading(column: object) -> str:
    return " ".join(part for part in map(str, column) if part) if isinstance(column, tuple) else str(column)


def _cell(value: object, decimals: int) -> str:
    if isinstance(value, float):
        return number(value, decimals)
    return MISSING if value is None or value is pd.NA else str(value)


def _alignment(cells: Iterable[str]) -> str:
    """To the right for columns of numbers, also of numbers with remarks."""
    filled = [cell for cell in cells if cell]
    return ">" if filled and all(cell[0] in "0123456789+-" + MISSING for cell in filled) else "<"
