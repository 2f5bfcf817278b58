"""The report in MLflow: a run of its own with the files as artifacts, and a description that leads to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, ViewType

from analysis import tables
from analysis.contrasts import CELL, Asked, above_joint, cell_scores
from analysis.findings import findings
from analysis.tracking import connect, find_experiment

if TYPE_CHECKING:
    from analysis.results import Results

KIND = "report"
NOTE = "mlflow.note.content"
"""MLflow's tag for the description of an experiment or run, in Markdown."""

_LONGEST_NOTE = 4900  # characters; MLflow takes 5000
_WORKFLOW = "workflowType=machine_learning"  # without it MLflow opens on pages for traces of language models
_MOST_COMPARED = 30  # runs; their identifiers are all in one address


def publish(results: Results, files: Sequence[Path]) -> str:
    """Upload a report, in place of the one before, and describe the experiment.

    Args:
        results: The study's results.
        files: The report's files, the page first.

    Returns:
        Address of the page: of a server that of its user interface, else that of the artifact.

    Raises:
        mlflow.exceptions.MlflowException: If the store does not take it; what was there before then stays.
        OSError: Likewise, of the place where artifacts lie.
    """
    client = connect(results.tracking_uri)
    experiment = find_experiment(client, results.study.name)
    before = _run_ids(client, experiment, KIND)
    note = "\n\n".join(f"**{finding.topic}.** {finding.text}" for finding in findings(results))
    tags = {"kind": KIND, "study": results.study.name, NOTE: note[:_LONGEST_NOTE]}
    run = client.create_run(experiment.experiment_id, run_name=KIND, tags=tags)
    try:
        for file in files:
            client.log_artifact(run.info.run_id, str(file))
    except BaseException:
        client.delete_run(run.info.run_id)
        raise
    client.set_terminated(run.info.run_id)
    for run_id in before:
        client.delete_run(run_id)
    here = f"#/experiments/{experiment.experiment_id}/runs"
    page = f"{here}/{run.info.run_id}/artifacts/{files[0].name}?{_WORKFLOW}"
    links = {"Report": page} | _summary_links(client, experiment, here)
    client.set_experiment_tag(experiment.experiment_id, NOTE, description(results, links))
    if results.tracking_uri.startswith(("http://", "https://")):
        return f"{results.tracking_uri.rstrip('/')}/{page}"
    return f"{run.info.artifact_uri}/{files[0].name}"


def description(results: Results, links: Mapping[str, str]) -> str:
    """The experiment's description, in Markdown: what it asks, where to look, and the means of each variant.

    It begins with the study's own description, by which the next sweep knows that it may stay.

    Args:
        results: The study's results.
        links: Addresses, by what they lead to.
    """
    addresses = " · ".join(f"[{text}]({address})" for text, address in links.items())
    parts = [
        # In one paragraph: MLflow shows no more of a description until it is unfolded.
        f"{results.study.configuration.get('description', '')} {addresses}".strip(),
        "Means of main metrics over tasks and languages: test scores in percent; differences in points, over the cells "
        "and seeds that both have. A dash: scores are missing.",
        tables.markdown(means_by_variant(results)),
    ]
    return "\n\n".join(part for part in parts if part)[:_LONGEST_NOTE]


def means_by_variant(results: Results) -> pd.DataFrame:
    """Each variant's mean scores, and how far mono is above and joint below it.

    Returns:
        Columns variant, within, mono − it, zero-shot, it − joint (in zero-shot); means over tasks, languages and seeds.
        A variant that lacks a score that another one has, has no mean of scores.
    """
    best, study = results.best(), results.study
    scores = [cell_scores(best, study, setting) for setting in ("within", "zero_shot")]
    there = [name for name in study.variants if any(name in set(of_setting["variant"]) for of_setting in scores)]
    lost = results.average_differences([Asked("within", "mono", variant) for variant in there])
    won = above_joint(results)
    rows = []
    for variant, loss in zip(there, lost, strict=True):
        means = [_mean_of_all(of_setting, variant) for of_setting in scores]
        gain = won["zero_shot", variant].mean if ("zero_shot", variant) in won else float("nan")
        rows.append((variant, means[0], loss.mean if variant != "mono" else float("nan"), means[1], gain))
    return pd.DataFrame(rows, columns=["variant", "within", "mono − it", "zero-shot", "it − joint"])


def _mean_of_all(scores: pd.DataFrame, variant: str) -> float:
    """Over all cells that any variant has; NaN where this one lacks some, as it could not be compared."""
    own = scores.loc[scores["variant"] == variant].groupby(CELL)["value"].mean()
    return float(own.mean()) if len(own) == len(scores[CELL].drop_duplicates()) else float("nan")


def _summary_links(client: MlflowClient, experiment: Experiment, here: str) -> dict[str, str]:
    """MLflow's chart view of the summary runs, and its compare view of as many as can be read there."""
    order = ["attributes.start_time ASC"]  # language sets and variants as the study has them
    found = client.search_runs([experiment.experiment_id], "tags.kind = 'summary'", max_results=5000, order_by=order)
    runs = [run for run in found if "stale" not in run.data.tags]
    if not runs:
        return {}
    sets: dict[str, list[str]] = {}
    for run in runs:
        sets.setdefault(run.data.tags.get("languages", ""), []).append(run.info.run_id)
    names: list[str] = []
    shown: list[str] = []
    for languages, members in sets.items():
        if shown and len(shown) + len(members) > _MOST_COMPARED:
            break
        names.append(languages)
        shown += members
    some = "" if len(names) == len(sets) else f" ({names[0]} to {names[-1]})"
    condition = quote("tags.kind = 'summary'", safe="")
    compared, within = (
        quote(json.dumps(values, separators=(",", ":")), safe="") for values in (shown, [experiment.experiment_id])
    )
    return {
        "Charts": f"{here}?searchFilter={condition}&compareRunsMode=CHART&{_WORKFLOW}",
        f"Side by side{some}": f"#/compare-runs?runs={compared}&experiments={within}&{_WORKFLOW}",
    }


def _run_ids(client: MlflowClient, experiment: Experiment, kind: str) -> list[str]:
    found = client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'", ViewType.ACTIVE_ONLY)
    return [run.info.run_id for run in found]
