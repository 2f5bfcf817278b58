"""A population in the command itself: killed between generations, it goes on, and trains nothing twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from sweep_process import run_sweep, start_sweep

RATE, TEMPERATURE = "pretrain.learning_rate", "pretrain.temperature"
STUDY: dict[str, Any] = {
    "study": "tiny",
    "languages": [["aa", "bb"]],
    "variants": ["joint"],
    "model": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "max_length": 64},
    "pretrain": {"steps": 45, "batch_size": 8, "sequence_length": 32, "learning_rate": 2e-3, "warmup_steps": 10},
    "finetune": {
        "tasks": ["ner"],
        "epochs": 1,
        "max_length": 64,
        "grid": {"batch_size": [8], "learning_rate": [1e-3]},
    },
    "search": {
        "population": {"size": 4, "generations": 3},
        "space": {RATE: {"loguniform": [1e-4, 1e-2]}, TEMPERATURE: {"uniform": [1, 5]}},
        "objective": {"within/mean": "max"},
    },
}


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    found = (path.read_text(encoding="utf-8") for path in folder.glob("runs/jobs/*/result.json"))
    return {record["key"]: record for record in map(json.loads, found)}


def _segments(records: dict[str, dict[str, Any]], until: int | None) -> list[dict[str, Any]]:
    """Of the population: the study's own model has no segments."""
    models = [record for record in records.values() if record["kind"] == "pretrain"]
    return [
        record
        for record in models
        if record["config"]["pretrain"]["until"] == until and (until or record["config"]["pretrain"]["changes"])
    ]


@pytest.mark.slow
def test_a_population_that_is_killed_goes_on_and_trains_nothing_twice(
    corpus_folder: Path, empty_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**STUDY, "data": {"source": str(corpus_folder), "vocab_size": 150}}))
    process = start_sweep(path, "--address", "local")
    while len(_segments(_records(tmp_path), 30)) < 2:  # two members of the second generation
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = _records(tmp_path)
    code, output = run_sweep(path, "--address", "local")
    assert code == 0, output
    after = _records(tmp_path)
    assert {key: after[key] for key in before} == before
    assert len(_segments(before, None)) == 0
    assert [len(_segments(after, until)) for until in (15, 30, None)] == [4, 4, 4]
    assert sum(record["kind"] == "finetune" for record in after.values()) == 5 * 2  # and none of the other generations

    url = f"sqlite:///{tmp_path}/runs/studies/tiny/trials.db"
    (name,) = optuna.get_all_study_names(url)
    trials = optuna.load_study(study_name=name, storage=url).trials
    assert [trial.state.name for trial in trials] == ["PRUNED"] * 8 + ["COMPLETE"] * 4
    assert "steps 31 to 45" in output
