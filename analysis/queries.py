"""Asking results for a part of them: by column, by variant, in the course of training."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.runs import row_of
from analysis.study import Study
from raylab.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_OF_A_JOB = ("variant", "languages", "task", "train_language", "seed", "recipe")
"""Tags that tell the jobs of a history apart."""


def select_scores(table: pa.Table, study: Study, conditions: Mapping[str, Any]) -> pa.Table:
    """The rows of a table of scores that meet all conditions.

    Args:
        table: Columns of `analysis.scores.SCHEMA`.
        study: The study's outline.
        conditions: The value that a column must have, or several that will do, by column. `languages` are language
            sets, and take with them the models that stand for these: monolingual and external ones.

    Raises:
        InputError: There is no such column, or nothing is left.
    """
    found = table
    for name, wanted in conditions.items():
        if name not in table.column_names:
            near = difflib.get_close_matches(name, table.column_names, n=3) or table.column_names
            raise InputError(f"filter: there is no column {name!r}; there are {', '.join(near)}")
        values = _several(wanted)
        if name == "languages":
            values = _models(study, values)
        known = pa.array(values)
        if known.type != table.schema.field(name).type:
            known = known.cast(table.schema.field(name).type, safe=False) if len(values) else known
        found = found.filter(pc.is_in(found[name], known))
        if not len(found):
            there = sorted({str(value) for value in table[name].to_pylist()})
            raise InputError(f"filter: {name} {wanted!r} leaves nothing; the study has {', '.join(there[:20])}")
    return found


def narrowed(study: Study, table: pa.Table, conditions: Mapping[str, Any]) -> Study:
    """The outline of what is left of a study."""
    variants, tasks = (set(table[name].to_pylist()) for name in ("variant", "task"))
    sets = study.language_sets
    if "languages" in conditions:
        wanted = _several(conditions["languages"])
        sets = tuple(languages for languages in sets if "-".join(languages) in wanted)
    return replace(
        study,
        language_sets=sets,
        variants=tuple(variant for variant in study.variants if variant in variants),
        tasks=tuple(task for task in study.tasks if task in tasks),
    )


def read_history(
    client: MlflowClient, runs: pa.Table, rows: Mapping[str, int], metric: str, conditions: Mapping[str, Any]
) -> pd.DataFrame:
    """The values of a metric in the course of jobs.

    Args:
        client: What reaches MLflow.
        runs: A table of `analysis.runs.RUNS`.
        rows: Rows of the jobs in it, by key.
        metric: The metric.
        conditions: `key` (the beginning of one will do) and tags such as `variant`; one value or several.

    Raises:
        InputError: No job meets the conditions, or none of those has the metric.
    """
    jobs = [row_of(runs, row) for key, row in rows.items() if _begins(key, conditions.get("key"))]
    for name, wanted in conditions.items():
        if name != "key":
            values = {str(value) for value in _several(wanted)}
            jobs = [job for job in jobs if dict(job["tags"]).get(name) in values]
    if not jobs:
        asked = ", ".join(f"{name} {value!r}" for name, value in conditions.items()) or "been trained"
        raise InputError(f"history: no job has {asked}; the column `key` of the table has all keys, `runs` all tags")
    with_metric = [job for job in jobs if metric in job["metrics"]]
    if not with_metric:
        names = sorted({name for job in jobs for name in job["metrics"]})
        near = difflib.get_close_matches(metric, names, n=5) or names
        raise InputError(f"history: no such job has a metric {metric!r}; they have {', '.join(near)}")
    return pd.concat([_history(client, job, metric) for job in with_metric], ignore_index=True)


def _history(client: MlflowClient, job: Mapping[str, Any], metric: str) -> pd.DataFrame:
    entries = client.get_metric_history(job["run_id"], metric)
    frame = pd.DataFrame(
        [(entry.step, entry.value, entry.timestamp) for entry in entries], columns=["step", "value", "time"]
    ).sort_values(["step", "time"], kind="stable")
    frame["time"] = pd.to_datetime(frame["time"], unit="ms", utc=True)
    labels = {"key": job["key"], **{name: job["tags"].get(name) for name in _OF_A_JOB}}
    return frame.drop_duplicates("step", keep="last").assign(**labels)[[*labels, "step", "value", "time"]]


def _begins(key: str, wanted: Any) -> bool:
    return wanted is None or any(key.startswith(str(one)) for one in _several(wanted))


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else [value]


def _models(study: Study, sets: Sequence[str]) -> list[str]:
    """The languages of the models that stand for language sets."""
    found = dict.fromkeys(sets)
    for languages in study.language_sets:
        if "-".join(languages) in found:
            for variant in ("mono", "external"):
                found |= dict.fromkeys(study.model_languages(languages, variant, language) for language in languages)
    return list(found)
