"""The numbers that the paper prints (Wang, Lipton and Tsvetkov 2020), to set a study's beside them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

AVERAGE = "average"
"""What stands for the language in a row of a printed average."""

CELL = ["setting", "task", "metric", "variant", "languages", "language"]
"""Columns that name one score, in the paper as in a study."""


def paper_scores() -> pd.DataFrame:
    """The scores in the paper's Tables 2 to 7, one row for each table that prints a score.

    Returns:
        table (2 to 7), the columns of `CELL` and value (percent, as printed). `languages` is the language set that
        the score belongs to, joined by `-` (of mono too: that of its column; none of an average), and `external` the
        paper's XLM-100. Averages are those printed; one of them, of meta_adapter's exact match within language, is a
        misprint.

    Example:
        >>> scores = paper_scores()
        >>> scores.query("table == 6 and variant == 'joint' and language == 'ar'")["value"].item()
        67.1
    """
    return _read().copy()


def paper_languages(tasks: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    """Each of these tasks with each target language of which the paper has a score of it."""
    scores = _read()
    known = scores[scores["task"].isin(tasks) & (scores["language"] != AVERAGE)]
    return frozenset(known[["task", "language"]].itertuples(index=False, name=None))


@cache
def _read() -> pd.DataFrame:
    with (files("analysis.reference") / "wang2020.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file, comment="#", dtype={"tables": str}, keep_default_na=False)
    rows.insert(0, "table", [[int(number) for number in tables.split()] for tables in rows.pop("tables")])
    rows = rows.explode("table", ignore_index=True).astype({"table": int, "value": float})
    return rows.sort_values("table", kind="stable", ignore_index=True)
