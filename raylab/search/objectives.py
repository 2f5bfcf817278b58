"""What a trial of a search is judged by: means of dev scores, and what its jobs measured; never test scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from raylab.search.plan import Job
from raylab.tasks import get_task

Results = list[tuple[Job, Mapping[str, Any]]]
"""Jobs, and what they found."""


def objectives(names: Iterable[str], results: Results) -> dict[str, float] | None:
    """A trial's objectives from the results of its finetune jobs, all on dev sets.

    For each checkpoint, task and training language, the job of the grid with the best dev score on its training
    language is chosen; its dev score on each evaluation language is a cell. `SETTING/mean` is the mean of the setting's
    cells, `SETTING/TASK` that of one task's.

    Returns:
        Objectives by name; None if one of them has no cell.
    """
    chosen: dict[tuple[str, str, str], tuple[Job, Mapping[str, Any]]] = {}
    for job, result in results:
        place = (job.labels["checkpoint"], job.labels["task"], job.labels["train_language"])
        if place not in chosen or result["selection"] > chosen[place][1]["selection"]:
            chosen[place] = (job, result)
    cells: dict[str, list[float]] = {}
    for job, result in chosen.values():
        task = job.labels["task"]
        main = get_task(task).metrics[0]
        for language, scores in result["scores"]["dev"].items():
            setting = "within" if language == job.labels["train_language"] else "zero_shot"
            if setting in job.labels["setting"].split(","):
                cells.setdefault(f"{setting}/mean", []).append(scores[main])
                cells.setdefault(f"{setting}/{task}", []).append(scores[main])
    if any(name not in cells for name in names):
        return None
    return {name: sum(cells[name]) / len(cells[name]) for name in names}


def measurements(names: Iterable[str], results: Results) -> dict[str, float] | None:
    """What constraints are on, from the results of all of a trial's jobs.

    `parameters` is that of the largest model; `seconds` the sum over the pretraining jobs, those included that other
    trials share; `perplexity` and `perplexity/LANGUAGE` the geometric mean of the models' validation perplexities. Any
    other name is a dev score, as in `objectives`.

    Returns:
        Measurements by name; None if one of them is of nothing that ran.
    """
    # Of a chain of segments the last alone is a model that is used.
    models = [result for job, result in results if job.kind == "pretrain" and "until" not in job.labels]
    found: dict[str, float] = {}
    scores = []
    for name in names:
        kind, _, language = name.partition("/")
        if name == "parameters" and models:
            found[name] = float(max(model["parameters"] for model in models))
        elif name == "seconds" and models:
            found[name] = float(sum(model["seconds"] for model in models))
        elif kind == "perplexity":
            logs = [
                math.log(value)
                for model in models
                for of, value in model["valid_perplexity"].items()
                if language in ("", of)
            ]
            if not logs:
                return None
            found[name] = math.exp(sum(logs) / len(logs))
        else:
            scores.append(name)
    means = objectives(scores, [(job, result) for job, result in results if job.kind == "finetune"])
    return None if means is None else found | means
