"""Layouts of the paper's tables, filled with a study's scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis import tables
from analysis.interference import SeedScores
from analysis.paper.layouts import TITLES, Cell, Known, Layout
from analysis.study import Study

AVERAGE = "avg"


def table(layout: Layout, best: pd.DataFrame, study: Study) -> pd.DataFrame:
    """A table of the paper with a study's scores.

    Averages are over the columns at their left of which the block has any score; a row that lacks one of these has no
    average, as it could not be compared with the others'.

    Args:
        layout: Which scores, and where they stand.
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.

    Returns:
        Test scores, means over seeds, percent; NaN where missing. Rows (setting, model), columns (task, language):
        the task with its metric, `NER (F1)`, and the target language or `avg`.
    """
    scores = SeedScores(best, study)
    found = {cell: scores_of(cell, scores) for cell in layout.cells}
    return filled(layout, {cell: float(np.mean(list(values.values()))) for cell, values in found.items() if values})


def filled(layout: Layout, values: Mapping[Cell, float]) -> pd.DataFrame:
    """A table of the paper with these numbers; as `table`."""
    rows = {row: number for number, row in enumerate(layout.rows)}
    columns = {column: number for number, column in enumerate(layout.columns)}
    content = np.full((len(rows), len(columns)), np.nan)
    for cell, value in values.items():
        content[rows[cell.row], columns[cell.column]] = value
    frame = pd.DataFrame(
        content,
        index=pd.MultiIndex.from_tuples(list(rows), names=["setting", "model"]),
        columns=pd.MultiIndex.from_tuples(list(columns), names=["task", "language"]),
    )
    return _with_averages(frame) if layout.averages else frame


def scores_of(cell: Cell, scores: SeedScores) -> dict[int, float]:
    """Test scores of a cell by seed, percent; empty where it is missing."""
    lookup = scores.within if cell.setting == "within" else scores.zero_shot
    return lookup(cell.languages, cell.variant, cell.task, cell.metric, cell.language)


def known_places(scores: pa.Table, runs: pa.Table | None = None) -> Known:
    """Each task with each language that some finetuning run of it is tested on, finished or not.

    Args:
        scores: Rows as `analysis.scores.score_table` makes them.
        runs: One row a run, with columns kind, status and tags; by default scores alone tell.
    """
    columns = ["task", "eval_language"]
    places = {tuple(row.values()) for row in scores.select(columns).group_by(columns).aggregate([]).to_pylist()}
    for tags in unfinished_finetunes(runs)["tags"].to_pylist() if runs is not None else ():
        own = dict(tags)
        places |= {(own.get("task"), language) for language in own.get("eval_language", "").split(",")}
    return frozenset((task, language) for task, language in places if task not in (None, "mlm") and language)


def unfinished_finetunes(runs: pa.Table) -> pa.Table:
    """The finetuning runs that gave no score: under way, failed or stopped early."""
    return runs.filter(pc.and_(pc.equal(runs["kind"], "finetune"), pc.not_equal(runs["status"], "FINISHED")))


def printed(frame: pd.DataFrame) -> pd.DataFrame:
    """A table as the paper prints it: F1 and exact match in one cell, `63.1/49.2`; others are left as they are.

    Args:
        frame: What `table` returns.
    """
    by_task: dict[str, list[str]] = defaultdict(list)
    for heading in dict.fromkeys(frame.columns.get_level_values(0)):
        by_task[heading.partition(" (")[0]].append(heading)
    columns: dict[tuple[str, str], list[object]] = {}
    for of_task in by_task.values():
        if len(of_task) == 1:
            columns |= {(of_task[0], language): frame[of_task[0], language].to_list() for language in frame[of_task[0]]}
            continue
        for language in frame[of_task[0]].columns:
            cells = zip(*(frame[heading, language] for heading in of_task), strict=True)
            columns[joint_heading(of_task), language] = [_joined(values) for values in cells]
    joined = pd.DataFrame(columns, index=frame.index)
    joined.columns = pd.MultiIndex.from_tuples(list(columns), names=frame.columns.names)
    return joined


def joint_heading(of_task: list[str]) -> str:
    """The heading of a task with all of its metrics: `QA (F1/EM)` for `QA (F1)` and `QA (EM)`."""
    metrics = dict.fromkeys(heading.partition(" (")[2].rstrip(")") for heading in of_task)
    return f"{of_task[0].partition(' (')[0]} ({'/'.join(metrics)})"


def written(number: int, frame: pd.DataFrame) -> dict[str, str]:
    """A table in every form, by the ending of a file of it: txt, md, tex and csv.

    Args:
        number: Number of the table, for LaTeX's label and caption.
        frame: What `table` returns; CSV has all its digits, and F1 and exact match in columns of their own.
    """
    shown = printed(frame)
    caption = f"{TITLES[number]}: test scores in percent, means over seeds, as Table {number} of Wang et al.\\ (2020)."
    return {
        "txt": tables.text(shown, blocks=True) + "\n",
        "md": tables.markdown(shown) + "\n",
        "tex": tables.latex(shown, caption=caption, label=f"tab:paper-{number}", blocks=True),
        "csv": tables.csv(frame),
    }


def _joined(values: tuple[float, ...]) -> str:
    return tables.MISSING if all(map(np.isnan, values)) else "/".join(map(tables.number, values))


def _with_averages(values: pd.DataFrame) -> pd.DataFrame:
    columns: dict[tuple[str, str], pd.Series] = {}
    for task in dict.fromkeys(values.columns.get_level_values("task")):
        of_task = values[task]
        columns |= {(task, language): of_task[language] for language in of_task}
        columns[task, AVERAGE] = pd.concat(
            [
                block.dropna(axis=1, how="all").mean(axis=1, skipna=False)
                for _, block in of_task.groupby("setting", sort=False)
            ]
        )
    return pd.DataFrame(columns, index=values.index).rename_axis(columns=["task", "language"])
