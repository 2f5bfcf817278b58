"""A search that stops trials early, run as a user runs it: real Ray, real kills."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState
from sweep_process import run_sweep, start_sweep


@pytest.fixture
def path(corpus_folder: Path, empty_store: Path, tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    content = {
        "study": "tiny",
        "data": {"source": str(corpus_folder), "vocab_size": 150},
        "languages": [["aa", "bb"]],
        "variants": ["joint"],
        "model": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "max_length": 64},
        "pretrain": {"steps": 300, "batch_size": 8, "sequence_length": 32, "warmup_steps": 10, "valid_every": 20},
        "finetune": {
            "tasks": ["ner"],
            "settings": ["within"],
            "epochs": 1,
            "max_length": 64,
            "grid": {"batch_size": [8], "learning_rate": [1e-3]},
        },
        "search": {
            "num_samples": 6,
            "sampler": "random",
            "space": {"pretrain.learning_rate": {"loguniform": [1e-6, 1e-2]}},
            "objective": {"within/mean": "max"},
            "early_stopping": {"method": "asha", "grace": 0.2, "min_trials": 2},
            "concurrency": 2,
        },
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _trials(folder: Path) -> list[FrozenTrial]:
    url = f"sqlite:///{folder}/runs/studies/tiny/trials.db"
    names = optuna.get_all_study_names(url)
    return optuna.load_study(study_name=names[0], storage=url).trials if names else []


@pytest.mark.slow
def test_trials_that_fall_behind_are_stopped_and_stay_stopped_after_a_kill(path: Path, tmp_path: Path) -> None:
    process = start_sweep(path)
    status = tmp_path / "runs" / "studies" / "tiny" / "status.json"  # written when the search is open
    try:
        while not (status.exists() and TrialState.PRUNED in [trial.state for trial in _trials(tmp_path)]):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
    finally:
        process.kill()
        process.communicate()
    before = {trial.number: trial for trial in _trials(tmp_path) if trial.state.is_finished()}

    code, output = run_sweep(path)
    assert code == 0, output
    after = _trials(tmp_path)
    assert {trial.number: trial for trial in after if trial.number in before} == before
    states = [trial.state for trial in after if trial.state is not TrialState.FAIL]  # asked for as the driver died
    assert len(states) == 6
    assert len(after) <= 7
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    best = min(after, key=lambda trial: abs(trial.params["pretrain.learning_rate"] - 5e-3))
    assert best.state is TrialState.COMPLETE
    for trial in after:
        if trial.state is TrialState.PRUNED:
            assert trial.last_step is not None
            assert 200 <= trial.last_step < 1000
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs: list[Any] = list(client.search_runs([experiment.experiment_id], "tags.kind = 'trial'"))
    assert len(runs) == 6
