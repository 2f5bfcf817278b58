"""What a table of the paper lacks, and the jobs that would fill it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa

from analysis.interference import Place, SeedScores
from analysis.labels import main_metric
from analysis.paper.layouts import Layout
from analysis.paper.values import joint_heading, scores_of, unfinished_finetunes
from analysis.study import Study

_COLUMNS = ["row", "column", "variant", "languages", "task", "setting", "train_language", "eval_language"]
_COLUMNS += ["state", "command"]
_PROGRESS = ("RUNNING", "FAILED", "KILLED")  # what is said first where a job has several runs


def missing_jobs(layout: Layout, best: pd.DataFrame, study: Study, runs: pa.Table | None = None) -> pd.DataFrame:
    """The cells of a table that have no score, each with the finetuning job that would give it one.

    Args:
        layout: The table.
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
        runs: One row a run, with columns kind, status and tags; without it all jobs pass for not run.

    Returns:
        One row a cell as printed, so one for F1 and exact match: row and column (`Zero-shot Cross-lingual, + ffn`),
        variant, languages (of the model, joined by `-`), task, setting, train_language, eval_language, state (`not
        run`, or `running`, `failed` or `stopped early`) and command, the sweep that runs it. Where the study itself
        lacks the variant, the command adds it, with all others that the table lacks.
    """
    scores = SeedScores(best, study)
    states = dict(_states(runs)) if runs is not None else {}
    missing = [cell for cell in layout.cells if cell.metric == main_metric(cell.task) and not scores_of(cell, scores)]
    lacking = list(dict.fromkeys(cell.variant for cell in missing if cell.variant not in study.variants))
    own_command, longer_command = (study.command(variants) for variants in ((), lacking))
    rows = []
    for cell in missing:
        place = cell.place(study)
        heading = joint_heading(
            [column[0] for column in layout.columns if column[0].startswith(f"{cell.task.upper()} (")]
        )
        state = states.get(place._replace(metric=""), "not run")
        where = (", ".join(cell.row), f"{heading}, {cell.column[1]}", cell.variant, place.languages, cell.task)
        command = longer_command if cell.variant in lacking else own_command
        rows.append((*where, cell.setting, cell.train_language, cell.language, state, command))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _states(runs: pa.Table) -> Iterator[tuple[Place, str]]:
    """The place of every run that did not finish, without its metric, and the run's state; the most hopeful last."""
    found = []
    unfinished = unfinished_finetunes(runs)
    for status, pairs in zip(unfinished["status"].to_pylist(), unfinished["tags"].to_pylist(), strict=True):
        tags = dict(pairs)
        variant, languages, task, trained = (
            tags.get(name, "") for name in ("variant", "languages", "task", "train_language")
        )
        for language in tags.get("eval_language", "").split(",") if status in _PROGRESS else ():
            place = Place(variant, languages, task, "", trained, language)
            found.append((_PROGRESS.index(status), place, status))
    for _, place, status in sorted(found, reverse=True):
        yield place, "stopped early" if status == "KILLED" else status.lower()
