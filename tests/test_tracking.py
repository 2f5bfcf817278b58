"""What MLflow holds of a sweep: one run per job, made from the records, whatever happened between."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run, ViewType

from raylab.config import FinetuneJob, ModelConfig, PretrainConfig, PretrainJob, StudyConfig
from raylab.errors import InputError
from raylab.search.plan import Job
from raylab.study import validate
from raylab.tracking import Tracker

STUDY = validate({"study": "pair", "description": "What one asks.", "languages": [["en", "fr"]]}, "test")
LABELS = {"variant": "joint", "languages": "en-fr", "source_language": "en", "seed": "0", "recipe": "r"}
PRETRAIN = Job(
    "pretrain",
    "aaaa",
    PretrainJob(
        languages=("en", "fr"),
        variant="joint",
        seed=0,
        model=ModelConfig(),
        pretrain=PretrainConfig(temperature=2.0),
        meta=None,
    ),
    ("pppp",),
    LABELS,
)
FINETUNE = Job(
    "finetune",
    "bbbb",
    FinetuneJob(
        task="ner",
        train_language="en",
        eval_languages=("en", "fr"),
        seed=0,
        epochs=2,
        batch_size=16,
        learning_rate=1e-3,
        max_length=64,
        max_examples=None,
    ),
    ("aaaa", "pppp"),
    {
        **LABELS,
        "task": "ner",
        "train_language": "en",
        "eval_language": "en,fr",
        "setting": "within,zero_shot",
        "checkpoint": "aaaa",
    },
)
RECORD: dict[str, Any] = {
    "kind": "finetune",
    "started": 1000.0,
    "ended": 1002.0,
    "seconds": 1.5,
    "history": [["epoch/dev/f1", 40.0, 1, 1001000], ["epoch/dev/f1", 50.0, 2, 1002000]],
    "result": {
        "chosen_epoch": 2,
        "selection": 50.0,
        "scores": {"dev": {"en": {"f1": 50.0}}, "test": {"en": {"f1": 48.0}, "fr": {"f1": 20.0}}},
    },
}


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def _tracker(uri: str, tmp_path: Path, study: StudyConfig = STUDY) -> Tracker:
    return Tracker(uri, study, tmp_path / "jobs", tmp_path / "artifacts")


def _runs(uri: str) -> list[Run]:
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("pair")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], run_view_type=ViewType.ACTIVE_ONLY))


def _history(uri: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, metric)]


def test_a_finished_job_is_one_run_with_its_place_on_every_axis(uri: str, tmp_path: Path) -> None:
    tracker = _tracker(uri, tmp_path)
    tracker.started(FINETUNE)
    tracker.measured(FINETUNE, [("epoch/dev/f1", 40.0, 1, 1001000)], 0.5)
    tracker.measured(FINETUNE, [("epoch/dev/f1", 50.0, 2, 1002000)], 1.0)
    tracker.done(FINETUNE, RECORD, found=False)
    tracker.close()
    (run,) = _runs(uri)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "finetune ner en joint en-fr lr=0.001 bs=16 seed=0"
    expected = {
        "kind": "finetune",
        "key": "bbbb",
        "study": "pair",
        **FINETUNE.labels,
        "output": str(tmp_path / "jobs" / "bbbb"),
    }
    assert {name: run.data.tags.get(name) for name in expected} == expected
    assert run.data.params["finetune.learning_rate"] == "0.001"
    assert run.data.params["finetune.eval_languages"] == "en,fr"
    assert run.data.metrics["test/f1/fr"] == 20.0
    assert run.data.metrics["selection"] == 50.0
    assert _history(uri, run, "epoch/dev/f1") == [(1, 40.0), (2, 50.0)]


def test_a_record_found_in_the_storage_is_logged_once(uri: str, tmp_path: Path) -> None:
    for _ in range(2):
        tracker = _tracker(uri, tmp_path)
        tracker.done(FINETUNE, RECORD, found=True)
        tracker.close()
    (run,) = _runs(uri)
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (1000000, 1002000)
    assert _history(uri, run, "epoch/dev/f1") == [(1, 40.0), (2, 50.0)]


def test_a_job_that_goes_on_in_another_process_has_its_history_once(uri: str, tmp_path: Path) -> None:
    first = _tracker(uri, tmp_path)
    first.started(PRETRAIN)
    first.measured(PRETRAIN, [("train/loss", 9.0, 10, 1), ("train/loss", 8.0, 20, 2)], 0.2)
    first.close()  # and the driver is gone
    (run,) = _runs(uri)
    assert run.info.status == "RUNNING"
    assert run.data.params["pretrain.temperature"] == "2.0"

    second = _tracker(uri, tmp_path)
    second.started(PRETRAIN)
    second.measured(PRETRAIN, [("train/loss", 9.0, 10, 1)], 0.1)  # from its checkpoint
    second.started(PRETRAIN)  # its actor died, and another took the job
    second.measured(PRETRAIN, [("train/loss", 9.0, 10, 1)], 0.1)
    second.measured(PRETRAIN, [("train/loss", 8.0, 20, 3), ("train/loss", 7.0, 30, 4)], 1.0)
    result = {"valid_perplexity": {"en": 12.0}, "steps": 30}
    second.done(
        PRETRAIN,
        {"kind": "pretrain", "started": 1.0, "ended": 2.0, "seconds": 1.0, "history": [], "result": result},
        found=False,
    )
    second.close()
    (run,) = _runs(uri)
    assert run.info.status == "FINISHED"
    assert _history(uri, run, "train/loss") == [(10, 9.0), (20, 8.0), (30, 7.0)]
    assert run.data.metrics["valid_perplexity/en"] == 12.0


def test_a_failed_job_says_why_and_is_replaced_when_it_succeeds(uri: str, tmp_path: Path) -> None:
    tracker = _tracker(uri, tmp_path)
    tracker.started(FINETUNE)
    tracker.failed(FINETUNE, "FloatingPointError: loss is nan at step 3", [])
    tracker.close()
    (run,) = _runs(uri)
    assert run.info.status == "FAILED"
    assert "nan at step 3" in run.data.tags["error"]
    tracker = _tracker(uri, tmp_path)
    tracker.done(FINETUNE, RECORD, found=True)
    tracker.close()
    (run,) = _runs(uri)
    assert run.info.status == "FINISHED"


def test_a_summary_that_is_as_it_was_stays_the_same_run(uri: str, tmp_path: Path) -> None:
    rows = [
        {"variant": variant, "languages": "en-fr", "metrics": {"within/mean": 1.0}} for variant in ("mono", "joint")
    ]
    tracker = _tracker(uri, tmp_path)
    tracker.summaries(rows)
    tracker.flush()
    before = {run.data.tags["variant"]: run.info.run_id for run in _runs(uri)}
    tracker.summaries([rows[0], {**rows[1], "metrics": {"within/mean": 2.0}}])
    tracker.close()
    after = {run.data.tags["variant"]: run.info.run_id for run in _runs(uri)}
    assert after["mono"] == before["mono"]
    assert after["joint"] != before["joint"]


def test_summaries_and_trials_replace_the_earlier_ones(uri: str, tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        tracker = _tracker(uri, tmp_path)
        tracker.trial(0, {"pretrain.temperature": 3.0}, {"within/mean": value}, found=False)
        tracker.summaries(
            [{"variant": "joint", "languages": "en-fr", "recipe": "r", "metrics": {"within/mean": value}}]
        )
        tracker.close()
    runs = {run.data.tags["kind"]: run for run in _runs(uri)}
    assert len(_runs(uri)) == 2
    assert runs["summary"].data.metrics == {"within/mean": 2.0}
    assert runs["trial"].data.params == {"pretrain.temperature": "3.0"}
    assert runs["trial"].data.metrics == {"within/mean": 2.0}


def test_long_histories_are_logged_whole(uri: str, tmp_path: Path) -> None:
    tracker = _tracker(uri, tmp_path)
    tracker.started(PRETRAIN)
    tracker.measured(PRETRAIN, [("train/loss", float(step), step, step) for step in range(2500)], 0.5)
    tracker.close()
    (run,) = _runs(uri)
    assert len(_history(uri, run, "train/loss")) == 2500


@pytest.mark.parametrize("where", ["http://127.0.0.1:9", "sqlite:////dev/null/mlflow.db", "nonsense://x"])
def test_a_store_that_is_not_there_is_refused_in_one_line(where: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--tracking-uri") as caught:
        _tracker(where, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_deleted_experiment_is_refused(uri: str, tmp_path: Path) -> None:
    tracker = _tracker(uri, tmp_path)
    tracker.close()
    mlflow.MlflowClient(uri).delete_experiment(tracker.experiment)
    with pytest.raises(InputError, match="restore it"):
        _tracker(uri, tmp_path)


@pytest.mark.slow
def test_a_server_that_is_away_for_a_while_misses_nothing(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raylab.tracking.PATIENCE_SECONDS", 0.2)
    port = _free_port()
    server = _serve(uri, port)
    try:
        tracker = _tracker(f"http://127.0.0.1:{port}", tmp_path)
        tracker.started(FINETUNE)
        tracker.measured(FINETUNE, [("epoch/dev/f1", 40.0, 1, 1001000)], 0.5)
        assert tracker.flush()
    finally:
        _stop(server)
    tracker.measured(FINETUNE, [("epoch/dev/f1", 50.0, 2, 1002000)], 1.0)
    tracker.done(FINETUNE, RECORD, found=False)
    assert not tracker.flush(3.0)
    server = _serve(uri, port)
    try:
        assert tracker.flush()
        tracker.close()
    finally:
        _stop(server)
    assert tracker.unlogged == 0
    (run,) = _runs(uri)
    assert run.info.status == "FINISHED"
    assert _history(uri, run, "epoch/dev/f1") == [(1, 40.0), (2, 50.0)]


@pytest.mark.slow
def test_a_server_that_stays_away_does_not_hold_the_driver(uri: str, tmp_path: Path) -> None:
    port = _free_port()
    server = _serve(uri, port)
    try:
        tracker = _tracker(f"http://127.0.0.1:{port}", tmp_path)
    finally:
        _stop(server)
    tracker.done(FINETUNE, RECORD, found=True)
    tracker.done(PRETRAIN, RECORD, found=True)
    tracker.close(seconds=1.0)
    assert tracker.unlogged == 2
    later = _tracker(uri, tmp_path)
    later.done(FINETUNE, RECORD, found=True)
    later.close()
    assert [run.data.tags["key"] for run in _runs(uri)] == ["bbbb"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(uri: str, port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.2)
    _stop(server)
    raise AssertionError("mlflow server did not start")


def _stop(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_runs_of_an_earlier_version_of_the_study_are_stale_until_they_are_back(uri: str, tmp_path: Path) -> None:
    for keys, stale in ((["bbbb"], False), (["other"], True), (["bbbb"], False)):
        tracker = _tracker(uri, tmp_path)
        if FINETUNE.key in keys:
            tracker.done(FINETUNE, RECORD, found=True)
        if stale:
            tracker.mark_stale(keys)
        tracker.close()
        (run,) = _runs(uri)
        assert ("stale" in run.data.tags) is stale  # a sweep that is under way has it back already


@pytest.mark.parametrize("together", [True, False])
def test_it_makes_no_difference_what_is_logged_together(uri: str, tmp_path: Path, together: bool) -> None:
    tracker = _tracker(uri, tmp_path)
    other = replace(FINETUNE, key="cccc")
    steps = [
        lambda: tracker.started(FINETUNE),
        lambda: tracker.measured(FINETUNE, [("epoch/dev/f1", 40.0, 1, 1001000)], 0.5),
        lambda: tracker.started(other),
        lambda: tracker.started(FINETUNE),  # its actor died
        lambda: tracker.measured(FINETUNE, [("epoch/dev/f1", 40.0, 1, 1001000)], 0.5),
        lambda: tracker.failed(other, "ValueError: no", []),
        lambda: tracker.measured(FINETUNE, [("epoch/dev/f1", 50.0, 2, 1002000)], 1.0),
        lambda: tracker.done(FINETUNE, RECORD, found=False),
    ]
    for step in steps:
        step()
        assert together or tracker.flush()
    assert tracker.flush()
    assert tracker.behind == 0
    tracker.close()
    runs = {run.data.tags["key"]: run for run in _runs(uri)}
    assert len(_runs(uri)) == 2
    assert runs["bbbb"].info.status == "FINISHED"
    assert runs["bbbb"].data.metrics == {
        "epoch/dev/f1": 50.0,
        "chosen_epoch": 2.0,
        "selection": 50.0,
        "dev/f1/en": 50.0,
        "test/f1/en": 48.0,
        "test/f1/fr": 20.0,
        "seconds": 1.5,
    }
    assert _history(uri, runs["bbbb"], "epoch/dev/f1") == [(1, 40.0), (2, 50.0)]
    assert runs["cccc"].info.status == "FAILED"
    assert runs["cccc"].data.params == runs["bbbb"].data.params


def test_a_job_that_is_stopped_early_says_why(uri: str, tmp_path: Path) -> None:
    tracker = _tracker(uri, tmp_path)
    tracker.started(PRETRAIN)
    tracker.pruned(PRETRAIN, "worse than half of the others at step 100")
    tracker.close()
    (run,) = _runs(uri)
    assert run.info.status == "KILLED"
    assert run.data.tags["error"] == "worse than half of the others at step 100"


def test_any_number_of_parameters_is_logged(uri: str, tmp_path: Path) -> None:
    tracker = _tracker(uri, tmp_path)
    job = replace(PRETRAIN, context={"data": {f"option{n}": n for n in range(250)}})
    tracker.started(job)
    tracker.measured(job, [("train/loss", float(step), step, step) for step in range(10)], 0.5)
    tracker.close()
    (run,) = _runs(uri)
    assert all(run.data.params[f"data.option{n}"] == str(n) for n in range(250))
    assert len(_history(uri, run, "train/loss")) == 10
