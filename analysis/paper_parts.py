"""The tables and figures of a study in the paper's layout, as far as the study has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from analysis import paper
from raylab.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.results import Results

TABLES, FIGURES = range(2, 8), range(1, 5)
"""Their numbers in the paper."""


@dataclass(frozen=True)
class PaperPart:
    """A table or figure of the paper.

    Attributes:
        name: `Table 2` or `Figure 3`.
        file: Its files' name without the ending, such as `table2`.
        title: What it shows.
        table: The table, if it is one and the study has it.
        missing: The jobs that would fill a table's missing cells, if it has any.
        figure: The figure, likewise.
        reason: Why the study does not have it; else "".
    """

    name: str
    file: str
    title: str = ""
    table: pd.DataFrame | None = None
    missing: pd.DataFrame | None = None
    figure: Figure | None = None
    reason: str = ""


def paper_parts(results: Results) -> list[PaperPart]:
    """Every table and figure of the paper, with the reason where the study lacks the data of one."""
    parts = []
    for number in TABLES:
        name, file = f"Table {number}", f"table{number}"
        try:
            table = results.table_of_paper(number)
            missing = results.missing_jobs(number)
            title = paper.TITLES.get(number, name)
            parts.append(PaperPart(name, file, title, table, None if missing.empty else missing))
        except InputError as error:
            parts.append(PaperPart(name, file, reason=str(error)))
    for number in FIGURES:
        name, file = f"Figure {number}", f"figure{number}"
        try:
            parts.append(PaperPart(name, file, figure=results.figure_of_paper(number)))
        except InputError as error:
            parts.append(PaperPart(name, file, reason=str(error)))
    return parts
