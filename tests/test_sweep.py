"""The command itself, run as a user runs it: real Ray, real MLflow, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from sweep_process import run_sweep, start_sweep

from raylab.sweep import main

Study = Callable[..., Path]


@pytest.fixture
def study(corpus_folder: Path, empty_store: Path, tmp_path: Path) -> Study:
    """Writes a study of the small folder source into `tmp_path`, where its storage and MLflow file lie too."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")

    def write(**fields: Any) -> Path:
        content = {
            "study": "tiny",
            "data": {"source": str(corpus_folder), "vocab_size": 150},
            "languages": [["aa", "bb"]],
            "variants": ["mono", "joint", "adapter"],
            "model": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "max_length": 64},
            "pretrain": {
                "steps": 40,
                "batch_size": 8,
                "sequence_length": 32,
                "learning_rate": 2e-3,
                "warmup_steps": 10,
            },
            "finetune": {"epochs": 2, "max_length": 64, "grid": {"batch_size": [8], "learning_rate": [1e-3, 3e-3]}},
            **fields,
        }
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def _table(output: str) -> str:
    """What is printed of the results, from the interference table to the search."""
    return output[output.index("Negative interference") : output.index("results  ")]


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in folder.glob("runs/jobs/*/result.json")
    }


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError("it did not happen within two minutes")


SEARCH = {
    "num_samples": 3,
    "variants": ["adapter"],
    "space": {"pretrain.temperature": {"uniform": [1, 5]}, "model.adapter_ratio": {"choice": [0.25, 0.5]}},
}


@pytest.mark.slow
def test_a_sweep_runs_once_and_its_results_are_in_mlflow(study: Study, tmp_path: Path) -> None:
    path = study(search=SEARCH)
    code, output = run_sweep(path)
    assert code == 0, output
    assert "mlflow ui --backend-store-uri" in output
    first = _records(tmp_path)
    again, second_output = run_sweep(path)
    assert again == 0
    assert _table(second_output) == _table(output)
    assert _records(tmp_path) == first

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    keys = [run.data.tags["key"] for run in runs if "key" in run.data.tags]
    assert sorted(keys) == sorted(first)
    kinds = [run.data.tags["kind"] for run in runs]
    assert kinds.count("summary") == 3
    assert kinds.count("trial") == 3
    assert all(run.info.status == "FINISHED" for run in runs)


@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_to_repeat_and_the_same_table(study: Study, tmp_path: Path) -> None:
    path = study(search=SEARCH)
    process = start_sweep(path)
    _wait_for(lambda: len(_records(tmp_path)) >= 9, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = _records(tmp_path)
    code, output = run_sweep(path)
    assert code == 0, output
    after = _records(tmp_path)
    assert {key: after[key] for key in before} == before

    shutil.move(tmp_path / "runs", tmp_path / "disturbed")
    undisturbed, reference = run_sweep(path)
    assert undisturbed == 0
    assert _table(output) == _table(reference)
    assert set(after) == set(_records(tmp_path))


@pytest.mark.slow
def test_ctrl_c_and_sigterm_keep_what_is_done_and_the_work_under_way(study: Study, tmp_path: Path) -> None:
    path = study(
        variants=["joint"],
        pretrain={"steps": 8000, "batch_size": 8, "sequence_length": 32, "valid_every": 8000},
        finetune=None,
    )
    jobs = tmp_path / "runs" / "jobs"
    for number in (signal.SIGINT, signal.SIGTERM):  # the latter is how batch systems and containers end what they run
        process = start_sweep(path)
        _wait_for(lambda: len(_records(tmp_path)) == 1, process)  # prepared
        _wait_for(lambda: any("Trainable" in title for _, title in _descendants(process.pid)), process)  # noqa: B023
        time.sleep(4)
        os.kill(process.pid, number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        assert "goes on from here" in output
        (checkpoint,) = jobs.glob("*/checkpoint.pt")
        assert len(_records(tmp_path)) == 1
    process = start_sweep(path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert not checkpoint.exists()
    steps = [step for name, _, step, _ in _records(tmp_path)[checkpoint.parent.name]["history"] if name == "train/loss"]
    assert steps == sorted(set(steps))  # it went on; nothing was measured twice


@pytest.mark.slow
def test_a_job_whose_process_dies_is_run_again(study: Study, tmp_path: Path) -> None:
    path = study(
        variants=["joint"],
        pretrain={"steps": 8000, "batch_size": 8, "sequence_length": 32, "valid_every": 8000},
        finetune=None,
    )
    process = start_sweep(path)
    _wait_for(lambda: len(_records(tmp_path)) == 1, process)  # prepared; the one other job is at work
    time.sleep(3)
    workers = [pid for pid, title in _descendants(process.pid) if title.startswith("ray::") and "Trainable" in title]
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "FAILED" not in output
    (record,) = (record for record in _records(tmp_path).values() if record["kind"] == "pretrain")
    assert record["process"] not in workers
    steps = [step for name, _, step, _ in record["history"] if name == "train/loss"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 8000


def _descendants(pid: int) -> list[tuple[int, str]]:
    """The processes that a process started, and those that they started: id and title."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(folder.name)] = (folder / "cmdline").read_text()
            except OSError:
                continue  # it has just ended
    found, pending = [], [pid]
    while pending:
        parent = pending.pop()
        children = [child for child, its_parent in parents.items() if its_parent == parent]
        found += [(child, titles[child]) for child in children]
        pending += children
    return found


@pytest.mark.slow
def test_a_relative_source_and_a_fresh_start(study: Study, corpus_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    path = study(data={"source": "corpus", "vocab_size": 150}, search=SEARCH, variants=["mono", "adapter"])
    code, output = run_sweep(path)
    assert code == 0, output
    first = _records(tmp_path)
    # Bad input is found before anything is forgotten.
    code, output = run_sweep(path, "--fresh", "--tracking-uri", "http://127.0.0.1:9")
    assert code == 2, output
    assert _records(tmp_path) == first
    code, again = run_sweep(path, "--fresh")
    assert code == 0, again
    second = _records(tmp_path)
    assert set(second) == set(first)
    assert all(second[key]["started"] > first[key]["ended"] for key in first)
    assert {key: record["result"] for key, record in second.items() if record["kind"] == "finetune"} == {
        key: record["result"] for key, record in first.items() if record["kind"] == "finetune"
    }


@pytest.mark.slow
def test_a_trial_that_failed_is_not_forgotten(study: Study) -> None:
    path = study(
        variants=["mono", "joint", "meta_adapter"],
        finetune={
            "tasks": ["ner"],
            "epochs": 1,
            "max_length": 64,
            "grid": {"batch_size": [8], "learning_rate": [1e-3]},
        },
        search={"num_samples": 2, "variants": ["meta_adapter"], "space": {"meta.inner_lr": {"uniform": [1e30, 2e30]}}},
    )
    for _ in range(2):
        code, output = run_sweep(path)
        assert code == 1, output
        assert "FAILED trials of the search: [0, 1]" in output


@pytest.mark.slow
def test_a_failing_job_stops_only_what_needs_it(study: Study, tmp_path: Path) -> None:
    code, output = run_sweep(study(variants=["mono", "joint", "meta_adapter"], meta={"inner_lr": 1e30}))
    assert code == 1, output
    assert "FAILED pretrain meta_adapter aa-bb" in output
    assert "FloatingPointError" in output
    kinds = [(record["kind"], record["config"].get("variant")) for record in _records(tmp_path).values()]
    assert kinds.count(("pretrain", "mono")) == 2
    assert kinds.count(("pretrain", "joint")) == 1
    assert "joint" in _table(output)


@pytest.mark.slow
def test_bad_text_found_on_a_worker_is_bad_input(study: Study, tmp_path: Path) -> None:
    code, output = run_sweep(study(data={"source": str(_folder(study)), "vocab_size": 30000}))
    assert code == 2, output
    assert "data.vocab_size" in output
    assert _records(tmp_path) == {}


def _folder(study: Study) -> Path:
    return Path(yaml.safe_load(study().read_text(encoding="utf-8"))["data"]["source"])


def test_a_dry_run_lists_the_jobs_and_runs_nothing(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(study()), "--storage", str(tmp_path / "runs"), "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "pretrain mono aa seed=0" in output
    assert "25 jobs (3 prepare, 4 pretrain, 18 finetune), 0 done already" in output
    assert "no labelled bb data" in output
    assert _records(tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: there is no such study file"),
        (["dmeo"], "did you mean demo?"),
        (["{study}", "--set", "variants=[jiont]"], "variants.0: found 'jiont'"),
        (["{study}", "--set", "languages=[[aa, xx]]"], "the languages there are: aa, bb, cc"),
        (["{study}", "--set", "data.source=/nonexistent"], "/nonexistent"),
        (
            ["{study}", "--set", "search={space: {pretrain.steps: {int: [1, 9]}}, objective: {zero_shot/pos: max}}"],
            "zero_shot/pos",
        ),
        (
            [
                *("{study}", "--dry-run", "--set", "languages=[[aa, cc]]"),
                *("--set", "search={space: {pretrain.steps: {int: [1, 9]}}}"),
            ],
            "search.objective.zero_shot/mean: the languages and labelled data of this study give no such score",
        ),
        (["{study}", "--storage", "no://bucket/x"], "--storage no://bucket/x: cannot be reached: Protocol not known"),
        (["{study}", "--storage", ""], "--storage: empty"),
        (["{study}", "--storage", "/dev/null/x"], "--storage /dev/null/x: cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    path = str(study())
    arguments = [option.replace("{study}", path) for option in options]
    if "--storage" not in arguments:
        arguments += ["--storage", str(tmp_path / "runs")]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert _records(tmp_path) == {}


def test_a_labelled_file_with_a_wrong_column_count_is_found_before_any_job(
    study: Study, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    broken = tmp_path / "corpus" / "ner" / "bb" / "dev.conll"
    lines = broken.read_text(encoding="utf-8").split("\n")
    lines[5] = "only-one-column"
    broken.write_text("\n".join(lines), encoding="utf-8")
    path = study(data={"source": str(tmp_path / "corpus"), "vocab_size": 150})
    assert main([str(path), "--storage", str(tmp_path / "runs"), "--address", "local"]) == 2
    assert f"{broken}:6: " in capsys.readouterr().err


def test_a_tracking_server_that_is_not_there_is_found_before_any_job(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                str(study()),
                "--storage",
                str(tmp_path / "runs"),
                "--address",
                "local",
                "--tracking-uri",
                "http://127.0.0.1:9",
            ]
        )
        == 2
    )
    assert "--tracking-uri http://127.0.0.1:9" in capsys.readouterr().err
    assert _records(tmp_path) == {}


def test_a_second_sweep_of_a_study_is_refused(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    folder = tmp_path / "runs" / "studies" / "tiny"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert main([str(study()), "--storage", str(tmp_path / "runs"), "--address", "local"]) == 2
    assert "another sweep of it runs" in capsys.readouterr().err
