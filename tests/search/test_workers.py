"""Pretraining on several workers, as a user runs it: real Ray Train, real processes, real kills."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sweep_process import run_sweep, start_sweep

STEPS = 600
"""Enough to be disturbed in the middle: some ten seconds."""


@pytest.fixture(scope="module")
def study(corpus_folder: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a study of one joint model on two workers into a folder of its own."""

    def write(**fields: Any) -> Path:
        folder = tmp_path_factory.mktemp("workers")
        (folder / "runs").mkdir()
        shutil.copy(empty_store, folder / "runs" / "mlflow.db")
        content = {
            "study": "tiny",
            "data": {"source": str(corpus_folder), "vocab_size": 150},
            "languages": [["aa", "bb"]],
            "variants": ["joint"],
            "model": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "max_length": 64},
            "pretrain": {"steps": STEPS, "batch_size": 8, "sequence_length": 32, "valid_every": 200},
            "finetune": None,
            "scaling": {"num_workers": 2, "checkpoint_seconds": 0.5},
            **fields,
        }
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def _pretraining(study: Path) -> dict[str, Any]:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in study.parent.glob("runs/jobs/*/result.json")]
    (record,) = (record for record in records if record["kind"] == "pretrain")
    return record


def _weights(study: Path) -> str:
    (path,) = study.parent.glob("runs/jobs/*/model/*.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _values(record: dict[str, Any]) -> list[tuple[str, float, int]]:
    """All that was measured and is no time."""
    return [(name, value, step) for name, value, step, _ in record["history"] if "per_second" not in name]


def _checkpoint(study: Path) -> dict[str, Any] | None:
    paths = list(study.parent.glob("runs/jobs/*/checkpoint.pt"))
    return torch.load(paths[0], weights_only=False) if paths else None


def _wait_for_step(study: Path, step: int, process: subprocess.Popen[str]) -> dict[str, Any]:
    """The first checkpoint at this step or a later one."""
    for _ in range(1200):
        state = _checkpoint(study)
        if state is not None and state["run"]["step"] >= step:
            return state
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError("no such checkpoint within two minutes")


def _processes(title: str, session: int) -> list[int]:
    """The processes of a session whose title begins so."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if (folder / "cmdline").read_text().startswith(title) and os.getsid(int(folder.name)) == session:
                    found.append(int(folder.name))
            except OSError:
                continue  # it has just ended
    return found


@pytest.fixture(scope="module")
def undisturbed(study: Callable[..., Path]) -> Path:
    """A sweep that nothing disturbed."""
    path = study()
    code, output = run_sweep(path)
    assert code == 0, output
    return path


@pytest.mark.slow
def test_two_workers_pretrain_and_the_other_jobs_run_as_ever(study: Callable[..., Path]) -> None:
    grid = {"batch_size": [8], "learning_rate": [1e-3]}
    path = study(
        variants=["mono", "joint"],
        pretrain={"steps": 40, "batch_size": 8, "sequence_length": 32},
        finetune={"tasks": ["ner"], "epochs": 1, "max_length": 64, "grid": grid},
    )
    code, output = run_sweep(path)
    assert code == 0, output
    assert "Negative interference" in output
    records = [json.loads(found.read_text(encoding="utf-8")) for found in path.parent.glob("runs/jobs/*/result.json")]
    workers = {(record["kind"], record["workers"]) for record in records}
    assert workers == {("prepare", 1), ("pretrain", 2), ("finetune", 1)}
    assert len(records) == 10
    assert not list(path.parent.glob("runs/jobs/*/train"))  # Train's own notes


@pytest.mark.slow
def test_a_run_that_lost_a_worker_and_was_interrupted_ends_as_one_that_was_not(
    study: Callable[..., Path], undisturbed: Path
) -> None:
    path = study()
    process = start_sweep(path)
    before = _wait_for_step(path, STEPS // 6, process)
    workers = _processes("ray::RayTrainWorker", process.pid)
    assert len(workers) == 2
    os.kill(workers[-1], signal.SIGKILL)
    _wait_for_step(path, before["run"]["step"] + STEPS // 6, process)
    assert not set(workers) & set(_processes("ray::RayTrainWorker", process.pid))  # all of them are new
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    interrupted = _checkpoint(path)
    assert interrupted is not None
    assert interrupted["run"]["step"] < STEPS
    code, output = run_sweep(path)
    assert code == 0, output

    record, reference = _pretraining(path), _pretraining(undisturbed)
    # What was measured before each end is there as it was, and nothing was measured again.
    history = [tuple(measurement) for measurement in record["history"]]
    assert history[: len(interrupted["history"])] == interrupted["history"]
    assert history[: len(before["history"])] == before["history"]
    assert _values(record) == _values(reference)
    assert record["result"]["valid_perplexity"] == reference["result"]["valid_perplexity"]
    assert _weights(path) == _weights(undisturbed)


@pytest.mark.slow
def test_the_actor_that_watches_the_workers_may_die_too(study: Callable[..., Path], undisturbed: Path) -> None:
    path = study()
    process = start_sweep(path)
    _wait_for_step(path, STEPS // 6, process)
    workers = _processes("ray::RayTrainWorker", process.pid)
    for actor in _processes("ray::ResourceTrainable", process.pid):  # one that prepared may not have ended yet
        os.kill(actor, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "FAILED" not in output
    record = _pretraining(path)
    assert record["process"] not in workers
    assert _values(record) == _values(_pretraining(undisturbed))
    assert _weights(path) == _weights(undisturbed)


@pytest.mark.slow
def test_a_job_that_fails_by_itself_on_several_workers_fails_once_and_says_why(study: Callable[..., Path]) -> None:
    path = study(
        data={**yaml.safe_load(study().read_text(encoding="utf-8"))["data"], "meta_fraction": 1e-9},
        variants=["joint", "meta_adapter"],
        pretrain={"steps": 40, "batch_size": 8, "sequence_length": 32, "learning_rate": 1e30},
    )
    code, output = run_sweep(path)
    assert code == 2, output  # the meta-adapter's data are bad input
    joint, meta = sorted(line for line in output.splitlines() if line.startswith("FAILED"))
    assert "pretrain joint" in joint
    assert "FloatingPointError: the " in joint
    assert "pretrain meta_adapter" in meta
    assert "data.meta_fraction" in meta
    errors = [found.read_text(encoding="utf-8") for found in path.parent.glob("runs/jobs/*/error.txt")]
    assert sorted("Traceback" in error for error in errors) == [True, True]


@pytest.mark.slow
def test_more_workers_than_the_cluster_holds_are_refused_at_once(study: Callable[..., Path]) -> None:
    have = os.cpu_count() or 1
    path = study(pretrain={"batch_size": 4 * have}, scaling={"num_workers": 2 * have})
    code, output = run_sweep(path)
    assert code == 2, output
    assert output.count("\n") == 1
    assert f"scaling.num_workers: found {2 * have}" in output
    assert f"at most {have} would do" in output
    assert not list(path.parent.glob("runs/jobs/*"))
