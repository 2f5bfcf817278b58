"""A study's MLflow runs as one Arrow table, and which of them count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from raylab.mlflow_database import StoredRun

ENDED = ("FINISHED", "FAILED", "KILLED")
"""Statuses of a run that will not change any more."""

_TEXTS = pa.map_(pa.string(), pa.string())
RUNS = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("kind", pa.string(), metadata={"meaning": "kind of job, or trial or summary"}),
        pa.field("key", pa.string(), metadata={"meaning": "content address of the job, if it is one"}),
        pa.field("recipe", pa.string(), metadata={"meaning": "hash of the pretraining configuration without its seed"}),
        pa.field("until", pa.string(), metadata={"meaning": "step at which a pretraining goes on in another run"}),
        pa.field("status", pa.string(), metadata={"meaning": "FINISHED, FAILED, RUNNING or KILLED (stopped early)"}),
        pa.field("start_time", pa.int64(), metadata={"unit": "milliseconds since the epoch"}),
        pa.field("end_time", pa.int64(), metadata={"unit": "milliseconds since the epoch"}),
        pa.field("tags", _TEXTS),
        pa.field("params", _TEXTS),
        pa.field("metrics", pa.map_(pa.string(), pa.float64()), metadata={"meaning": "last values"}),
    ]
)
_TAGS = ("kind", "key", "recipe", "until")


def runs_table(runs: Iterable[StoredRun]) -> pa.Table:
    """Runs as a table of `RUNS`."""
    runs = list(runs)
    columns: dict[str, list[object]] = {
        name: [getattr(run, name) for run in runs] for name in ("run_id", "name", "status", "start_time", "end_time")
    }
    columns |= {name: [run.tags.get(name) for run in runs] for name in _TAGS}
    columns |= {name: [list(getattr(run, name).items()) for run in runs] for name in ("tags", "params", "metrics")}
    return pa.table([pa.array(columns[field.name], field.type) for field in RUNS], schema=RUNS)


def newest_by_key(runs: pa.Table) -> dict[str, int]:
    """The rows of the pretraining and finetuning runs by key; of several with one key the newest finished one, else the
    newest.

    A pretraining that goes on in another run (tag `until`) is part of a model, and left out.

    Args:
        runs: Columns of `RUNS`, those of tags, parameters and metrics not needed.
    """
    return _newest(runs, ("pretrain", "finetune"), parts=False)


def current_rows(runs: pa.Table) -> list[int]:
    """The rows of `newest_by_key`, taken over all kinds of jobs and parts of models too, and those that are no jobs."""
    no_jobs = [row for row, key in enumerate(runs["key"].to_pylist()) if key is None]
    return sorted([*_newest(runs, None, parts=True).values(), *no_jobs])


def _newest(runs: pa.Table, kinds: tuple[str, ...] | None, *, parts: bool) -> dict[str, int]:
    newest: dict[str, tuple[tuple[bool, int], int]] = {}
    columns = [runs[name].to_pylist() for name in ("key", "kind", "until", "status", "start_time", "end_time")]
    for row, (key, kind, until, status, started, ended) in enumerate(zip(*columns, strict=True)):
        if key is None or (kinds is not None and kind not in kinds) or (until is not None and not parts):
            continue
        age = status == "FINISHED", ended or started
        if key not in newest or age > newest[key][0]:
            newest[key] = age, row
    return {key: row for key, (_, row) in newest.items()}


def recipe_parameters(runs: pa.Table) -> dict[str, dict[str, str]]:
    """Pretraining parameters (`pretrain.temperature`, `model.dim`, ...) of every recipe among the runs of `RUNS`."""
    examples: dict[tuple[str, str], int] = {}
    for row, (kind, recipe) in enumerate(zip(runs["kind"].to_pylist(), runs["recipe"].to_pylist(), strict=True)):
        if recipe and kind in ("pretrain", "finetune"):
            examples.setdefault((recipe, kind), row)
    parameters: dict[str, dict[str, str]] = {}
    for (recipe, _), row in examples.items():
        own = {name: value for name, value in row_of(runs, row)["params"].items() if name.startswith(_PRETRAINING)}
        if own:
            parameters.setdefault(recipe, {}).update(own)
    return parameters


_PRETRAINING = ("data.", "model.", "pretrain.", "meta.", "conflict.")


def row_of(runs: pa.Table, row: int) -> Mapping[str, Any]:
    """One run by column name, its tags, parameters and metrics by name."""
    found: Mapping[str, Any]
    (found,) = runs.slice(row, 1).to_pylist(maps_as_pydicts="strict")
    return found
