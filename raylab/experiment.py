"""A study's experiment in MLflow."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from raylab.config import StudyConfig
from raylab.errors import InputError


def find_or_make(client: MlflowClient, study: StudyConfig, artifacts: Path) -> str:
    """The identifier of the experiment that has the study's name; its configuration becomes a tag of it.

    Args:
        client: What reaches MLflow.
        study: The study.
        artifacts: Where a database without a server keeps artifacts.

    Raises:
        InputError: The experiment is marked deleted.
    """
    name, uri = study.study, client.tracking_uri
    found = client.get_experiment_by_name(name)
    if found is None:
        local = None if uri.startswith(("http://", "https://", "databricks")) else (artifacts / name).as_uri()
        experiment = str(client.create_experiment(name, artifact_location=local))
    elif found.lifecycle_stage != "active":
        raise InputError(
            f"--tracking-uri {uri}: the experiment {name} is deleted there; restore it "
            f"(mlflow experiments restore -x {found.experiment_id}) or give the study another name"
        )
    else:
        experiment = str(found.experiment_id)
    client.set_experiment_tag(experiment, "raylab.study", study.model_dump_json())
    # What the report adds to the study's description stays, until the next report.
    note = found.tags.get("mlflow.note.content", "") if found else ""
    if study.description and not note.startswith(study.description):
        client.set_experiment_tag(experiment, "mlflow.note.content", study.description)
    return experiment
