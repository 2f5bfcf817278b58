"""The report in MLflow: a run of its own with the files as artifacts, and a description that leads to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, ViewType

from analysis import tables
from analysis.contrasts import average_difference, cell_scores
from analysis.findings import findings
from analysis.tracking import connect, find_experiment

if TYPE_CHECKING:
    from analysis.results import Results

KIND = "report"
NOTE = "mlflow.note.content"
"""MLflow's tag for the description of an experiment or run, in Markdown."""

_LONGEST_NOTE = 4500  # characters; MLflow takes 5000


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
    summaries = _run_ids(client, experiment, "summary")
    page = f"#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}/artifacts/{files[0].name}"
    text = description(results, page, _comparison(experiment.experiment_id, summaries))
    client.set_experiment_tag(experiment.experiment_id, NOTE, text)
    if results.tracking_uri.startswith(("http://", "https://")):
        return f"{results.tracking_uri.rstrip('/')}/{page}"
    return f"{run.info.artifact_uri}/{files[0].name}"


def description(results: Results, page: str, comparison: str = "") -> str:
    """The experiment's description, in Markdown: what it asks, where to look, and the means of each variant.

    It begins with the study's own description, by which the next sweep knows that it may stay.

    Args:
        results: The study's results.
        page: Address of the report.
        comparison: Address of the summary runs side by side; "": there are none.
    """
    links = [f"[Report]({page})"]
    if comparison:
        links.append(f"[Language sets and variants side by side]({comparison})")
    parts = [
        results.configuration.get("description", ""),
        " · ".join(links),
        "Means of main metrics over tasks and languages: test scores in percent; differences in points, over the cells "
        "and seeds that both have.",
        tables.markdown(means_by_variant(results)),
    ]
    return "\n\n".join(part for part in parts if part)[:_LONGEST_NOTE]


def means_by_variant(results: Results) -> pd.DataFrame:
    """Each variant's mean scores, and how far mono is above and joint below it.

    Returns:
        Columns variant, within, mono − it, zero-shot, it − joint (in zero-shot); means over tasks, languages and seeds.
    """
    within, zero_shot = (cell_scores(results.best(), results.study, setting) for setting in ("within", "zero_shot"))
    rows = []
    for variant in results.study.variants:
        if variant in set(within["variant"]) | set(zero_shot["variant"]):
            means = [scores.loc[scores["variant"] == variant, "value"].mean() for scores in (within, zero_shot)]
            lost = average_difference(within, "mono", variant).interval.mean if variant != "mono" else float("nan")
            won = average_difference(zero_shot, variant, "joint").interval.mean if variant != "joint" else float("nan")
            rows.append((variant, means[0], lost, means[1], won))
    return pd.DataFrame(rows, columns=["variant", "within", "mono − it", "zero-shot", "it − joint"])


def _comparison(experiment: str, run_ids: Sequence[str]) -> str:
    """MLflow's compare view of some runs."""
    if not run_ids:
        return ""
    runs, experiments = (quote(_json(values), safe="") for values in (run_ids, [experiment]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def _json(values: Sequence[str]) -> str:
    return "[" + ",".join(f'"{value}"' for value in values) + "]"


def _run_ids(client: MlflowClient, experiment: Experiment, kind: str) -> list[str]:
    found, token = [], None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], f"tags.kind = '{kind}'", ViewType.ACTIVE_ONLY, page_token=token
        )
        found += [run.info.run_id for run in page if "stale" not in run.data.tags]
        token = page.token
        if not token:
            return sorted(found)
