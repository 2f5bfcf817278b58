"""Frames as plain text, Markdown, LaTeX and CSV; a missing value is a dash, or in CSV nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pandas as pd

MISSING = "–"

_LATEX = {
    "\\": r"\textbackslash{}",
    **{special: f"\\{special}" for special in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
}


def text(frame: pd.DataFrame, decimals: int = 1, *, blocks: bool = False) -> str:
    """A frame as aligned plain text, for a terminal.

    Args:
        frame: Columns of numbers and strings; levels of the index become columns, in which repeats are left blank.
        decimals: Digits after the point of real numbers.
        blocks: Whether, as in the paper, the first level of the index heads blocks of rows instead, and the first of
            two levels of columns stands in a line of its own.
    """
    bodies = _bodies(frame, blocks)
    rows = {name: _cells(part, decimals)[1] for name, part in bodies.items()}
    header, _ = _cells(next(iter(bodies.values())), decimals)
    groups = [""] * len(header)
    if blocks and frame.columns.nlevels == 2:
        first = len(header) - len(frame.columns)
        groups = [*groups[:first], *(str(column[0]) for column in frame.columns)]
        header = [*header[:first], *(str(column[1]) for column in frame.columns)]
    columns = list(zip(header, *(row for part in rows.values() for row in part), strict=True))
    alignments = [_alignment(column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    spans = [(name, list(places)) for name, places in itertools.groupby(range(len(header)), groups.__getitem__)]
    for name, places in spans:
        widths[places[-1]] += max(0, len(name) - sum(widths[place] + 2 for place in places) + 2)

    def line(row: Sequence[str]) -> str:
        cells = zip(row, alignments, widths, strict=True)
        return "  ".join(f"{cell:{alignment}{width}}" for cell, alignment, width in cells).rstrip()

    above = "  ".join(f"{name:^{sum(widths[place] + 2 for place in places) - 2}}" for name, places in spans).rstrip()
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [*([above] if above else []), line(header), rule]
    for name, part in rows.items():
        lines += [*([name] if name else []), *map(line, part), *([rule] if name else [])]
    return "\n".join(lines)


def markdown(frame: pd.DataFrame, decimals: int = 1) -> str:
    """A frame as a Markdown table; arguments as of `text`."""
    header, rows = _cells(frame, decimals)
    alignments = [_alignment(column) for column in zip(*rows, strict=True)] or ["<"] * len(header)
    rule = ["---:" if alignment == ">" else "---" for alignment in alignments]
    escaped = [[cell.strip().replace("|", "\\|") for cell in row] for row in (header, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (escaped[0], rule, *escaped[1:]))


def latex(frame: pd.DataFrame, decimals: int = 1, *, caption: str = "", label: str = "", blocks: bool = False) -> str:
    r"""A frame as a LaTeX table with booktabs' rules (`\usepackage{booktabs}`).

    Args:
        frame: As of `text`; a second level of columns is spanned by the first.
        decimals: Digits after the point of real numbers.
        caption: LaTeX of a caption; with it or a label the table floats.
        label: For `\ref`.
        blocks: Whether the first level of a named index heads blocks of rows, as in the paper, instead of a column.
    """
    bodies = _bodies(frame, blocks)
    header, _ = _cells(next(iter(bodies.values())), decimals)
    rows = {name: _cells(part, decimals)[1] for name, part in bodies.items()}
    columns = list(zip(*(row for part in rows.values() for row in part), strict=True)) or [()] * len(header)
    alignments = ["r" if _alignment(column) == ">" else "l" for column in columns]
    lines = [rf"\begin{{tabular}}{{{''.join(alignments)}}}", r"\toprule", *_latex_header(frame, header)]
    for name, part in rows.items():
        lines.append(r"\midrule")
        if name:
            lines += [rf"\multicolumn{{{len(header)}}}{{l}}{{\textit{{{escaped(name)}}}}} \\", r"\midrule"]
        lines += [_latex_row(map(escaped, row)) for row in part]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if caption or label:
        floating = [rf"\caption{{{caption}}}"] * bool(caption) + [rf"\label{{{label}}}"] * bool(label)
        lines = [r"\begin{table}", r"\centering", *lines, *floating, r"\end{table}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text with LaTeX's special characters written out."""
    return "".join(_LATEX.get(character, character) for character in text)


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


def _bodies(frame: pd.DataFrame, blocks: bool) -> dict[str, pd.DataFrame]:
    """The frame by the names of its blocks; where it has or shall have none, whole and without a name."""
    if not blocks or frame.index.nlevels == 1:
        return {"": frame}
    return {str(name): part.droplevel(0) for name, part in frame.groupby(level=0, sort=False)}


def _latex_header(frame: pd.DataFrame, header: Sequence[str]) -> list[str]:
    """One line, or two where the columns have two levels: the first spans its columns, with a rule below."""
    if frame.columns.nlevels != 2:
        return [_latex_row(map(escaped, header))]
    first = len(header) - len(frame.columns)  # columns of the index
    above, rules = [""] * first, []
    for name, group in itertools.groupby(frame.columns, key=lambda column: column[0]):
        width = len(list(group))
        above.append(rf"\multicolumn{{{width}}}{{c}}{{{escaped(str(name))}}}")
        rules.append(rf"\cmidrule(lr){{{first + 1}-{first + width}}}")
        first += width
    below = [*header[: len(header) - len(frame.columns)], *(str(column[1]) for column in frame.columns)]
    return [_latex_row(above), "".join(rules), _latex_row(map(escaped, below))]


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


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
