"""From runs to scores: one table, one row a score."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raylab.errors import InputError

if TYPE_CHECKING:
    from raylab.mlflow_database import StoredRun

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), metadata={"meaning": "content address of the job"}),
        pa.field("study", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("languages", pa.string(), metadata={"meaning": "languages of the model, joined by '-'"}),
        pa.field("source_language", pa.string()),
        pa.field("task", pa.string(), metadata={"meaning": "downstream task, or mlm for pretraining"}),
        pa.field("setting", pa.string(), metadata={"meaning": "within or zero_shot"}),
        pa.field("train_language", pa.string()),
        pa.field("eval_language", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("split", pa.string(), metadata={"meaning": "dev or test; valid for pretraining"}),
        pa.field("metric", pa.string()),
        pa.field("value", pa.float64(), metadata={"unit": "percent; perplexity of mlm has none"}),
        pa.field("selection", pa.float64(), metadata={"meaning": "main metric on dev of the train language, percent"}),
        pa.field("recipe", pa.string(), metadata={"meaning": "hash of the pretraining configuration without its seed"}),
        pa.field("checkpoint", pa.string(), metadata={"meaning": "key of the pretraining job"}),
        pa.field("batch_size", pa.int64(), metadata={"unit": "sequences", "meaning": "of the job that was scored"}),
        pa.field("learning_rate", pa.float64(), metadata={"meaning": "peak, of the job that was scored"}),
        pa.field("head_learning_rate", pa.float64(), metadata={"meaning": "of the task's head where it has its own"}),
        pa.field("freeze", pa.string(), metadata={"meaning": "what was not finetuned: none or language_specific"}),
        pa.field("chosen_epoch", pa.int64(), metadata={"meaning": "epoch with the best selection, from 1"}),
        pa.field("run_id", pa.string()),
        pa.field("output", pa.string(), metadata={"meaning": "folder of the job's files"}),
    ]
)

_FINETUNE_SCORE = re.compile(r"(?P<split>dev|test)/(?P<metric>[^/]+)/(?P<language>[^/]+)")
_PRETRAIN_SCORE = re.compile(r"(?P<split>valid)/(?P<metric>perplexity)/(?P<language>[^/]+)")


def score_table(runs: Iterable[StoredRun]) -> pa.Table:
    """The scores of the finished finetuning and pretraining runs among `runs`.

    A finetuning run scores `within` on its train language, and `zero_shot` on every other language if it was trained
    on the source language; each only where the run's settings include it. A pretraining run's last validation
    perplexities are rows of task `mlm`, setting `within` and split `valid`. A pretraining that goes on in another run
    (tag `until`) is part of a model, and left out.

    Returns:
        A table of `SCHEMA`.

    Raises:
        InputError: If a finished run lacks a tag that says what was scored.
    """
    rows: list[dict[str, Any]] = []
    for run in runs:
        kind = run.tags.get("kind")
        if run.status == "FINISHED" and kind in ("pretrain", "finetune") and "until" not in run.tags:
            rows.extend(_finetune_rows(run) if kind == "finetune" else _pretrain_rows(run))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _finetune_rows(run: StoredRun) -> Iterator[dict[str, Any]]:
    train_language = _tag(run, "train_language")
    settings = _tag(run, "setting").split(",")
    common = _common(run, "finetune") | {
        "task": _tag(run, "task"),
        "train_language": train_language,
        "selection": run.metrics.get("selection"),
        "chosen_epoch": _whole(run.metrics.get("chosen_epoch")),
        "head_learning_rate": _real(run.params.get("finetune.head_learning_rate")),
        "freeze": run.params.get("finetune.freeze"),
    }
    for name, value in run.metrics.items():
        score = _FINETUNE_SCORE.fullmatch(name)
        if score is None:
            continue
        if score["language"] == train_language:
            setting = "within"
        elif train_language == common["source_language"]:
            setting = "zero_shot"
        else:
            continue
        if setting in settings:
            yield common | _place(score, setting) | {"value": value}


def _pretrain_rows(run: StoredRun) -> Iterator[dict[str, Any]]:
    common = _common(run, "pretrain") | {"task": "mlm"}
    for name, value in run.metrics.items():
        score = _PRETRAIN_SCORE.fullmatch(name)
        if score is not None:
            yield common | _place(score, "within") | {"train_language": score["language"], "value": value}


def _common(run: StoredRun, section: str) -> dict[str, Any]:
    tags, parameters = run.tags, run.params
    languages = _tag(run, "languages")
    key = _tag(run, "key")
    return {
        "key": key,
        "study": _tag(run, "study"),
        "variant": _tag(run, "variant"),
        "languages": languages,
        "source_language": tags.get("source_language") or languages.partition("-")[0],
        "seed": int(_tag(run, "seed")),
        "recipe": tags.get("recipe"),
        "checkpoint": tags.get("checkpoint") or (key if section == "pretrain" else None),
        "batch_size": _whole(parameters.get(f"{section}.batch_size")),
        "learning_rate": _real(parameters.get(f"{section}.learning_rate")),
        "run_id": run.run_id,
        "output": tags.get("output"),
    }


def _place(score: re.Match[str], setting: str) -> dict[str, str]:
    return {
        "split": score["split"],
        "metric": score["metric"],
        "eval_language": score["language"],
        "setting": setting,
    }


def _tag(run: StoredRun, name: str) -> str:
    value = run.tags.get(name)
    if value is None:
        raise InputError(
            f"MLflow run {run.run_id} ({run.name}) has no tag {name!r}: raylab did not write it, "
            "or not whole; delete the run, or give it the tag"
        )
    return str(value)


def _real(value: str | float | None) -> float | None:
    return None if value is None else float(value)


def _whole(value: str | float | None) -> int | None:
    return None if value is None else round(float(value))
