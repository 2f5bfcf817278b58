"""What is read of MLflow again, and what not, whatever happens to the runs and to the cache."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import analysis
from raylab.config import FinetuneJob
from raylab.errors import InputError
from raylab.search.plan import Job
from raylab.study import validate
from raylab.tracking import Tracker

STUDY = validate({"study": "pair", "languages": [["en", "fr"]]}, "test")
CONFIG = FinetuneJob(
    task="ner",
    train_language="fr",
    eval_languages=("fr",),
    seed=0,
    epochs=1,
    batch_size=16,
    learning_rate=1e-3,
    max_length=64,
    max_examples=None,
)
LABELS = {
    "variant": "joint",
    "languages": "en-fr",
    "source_language": "en",
    "seed": "0",
    "recipe": "r",
    "task": "ner",
    "train_language": "fr",
    "eval_language": "fr",
    "setting": "within",
    "checkpoint": "c",
}


class Store:
    """An MLflow store, the cache of one reader, and the sweeps that write to it."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri, self.cache = uri, folder / "cache"
        self._folder = folder

    def sweep(self, **scores: float) -> None:
        """A sweep that runs a job for each key, with this test score."""
        tracker = Tracker(self.uri, STUDY, self._folder / "jobs", self._folder / "artifacts")
        for key, score in scores.items():
            by_split = {split: {"fr": {"f1": score}} for split in ("dev", "test")}
            record = {
                "kind": "finetune",
                "started": 1000.0,
                "ended": 1002.0,
                "seconds": 1.5,
                "history": [],
                "result": {"chosen_epoch": 1, "selection": score, "scores": by_split},
            }
            tracker.done(Job("finetune", key, CONFIG, ("c",), LABELS), record, found=False)
        tracker.close()
        assert tracker.unlogged == 0

    def stale(self, *keys: str) -> None:
        """A sweep of the study as it is now, which has these jobs no longer."""
        tracker = Tracker(self.uri, STUDY, self._folder / "jobs", self._folder / "artifacts")
        tracker.mark_stale(set(self.scores()) - set(keys))
        tracker.close()

    def results(self, *, refresh: bool = False) -> analysis.Results:
        """The results as the reader finds them."""
        return analysis.load("pair", self.uri, cache=self.cache, refresh=refresh)

    def scores(self, *, refresh: bool = False) -> dict[str, float]:
        """Test scores by key, as the reader finds them."""
        table = self.results(refresh=refresh).to_pandas().query("split == 'test'")
        return dict(zip(table["key"], table["value"], strict=True))

    def edit(self, key: str, score: float) -> None:
        """Change a finished run behind everyone's back, as no sweep does."""
        (run,) = MlflowClient(self.uri).search_runs(["1"], f"tags.key = '{key}'")
        MlflowClient(self.uri).log_metric(run.info.run_id, "test/f1/fr", score, step=9)

    def delete(self, key: str) -> None:
        """Delete a run as a person does in the UI."""
        (run,) = MlflowClient(self.uri).search_runs(["1"], f"tags.key = '{key}'")
        MlflowClient(self.uri).delete_run(run.info.run_id)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Store:
    """A store in a file."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Store(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[Store]:
    """A store behind a server."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.2)
        yield Store(f"http://127.0.0.1:{port}", tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its children would outlive it
        process.wait()


def _follows_sweeps(store: Store) -> None:
    store.sweep(a=1.0, b=2.0)
    assert store.scores() == {"a": 1.0, "b": 2.0}
    store.sweep(c=3.0)
    assert store.scores() == {"a": 1.0, "b": 2.0, "c": 3.0}
    store.sweep(a=5.0)  # run again
    assert store.scores() == {"a": 5.0, "b": 2.0, "c": 3.0}
    store.stale("b")
    assert store.scores() == {"a": 5.0, "c": 3.0}
    store.edit("c", 9.0)
    assert store.scores() == {"a": 5.0, "c": 3.0}  # an ended run is not read twice
    assert store.scores(refresh=True) == store.scores() == {"a": 5.0, "c": 9.0}


def test_a_reader_follows_the_sweeps(store: Store) -> None:
    _follows_sweeps(store)
    store.delete("a")
    assert store.scores() == {"c": 9.0}


@pytest.mark.slow
def test_a_reader_follows_the_sweeps_of_a_server(server: Store) -> None:
    _follows_sweeps(server)
    server.delete("a")
    assert server.scores() == {"a": 5.0, "c": 9.0}  # nobody says so
    assert server.scores(refresh=True) == {"c": 9.0}


def test_a_file_that_nobody_wrote_to_is_not_opened(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.sweep(a=1.0)
    monkeypatch.setattr("analysis.cache._SETTLED_SECONDS", 0.0)
    store.scores()
    file = tmp_path / "mlflow.db"
    before = file.stat()
    contents = file.read_bytes()
    with file.open("r+b") as stream:  # no database any more, though of the same age and size
        stream.write(bytes(len(contents)))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.scores() == {"a": 1.0}
    file.write_bytes(contents)
    store.sweep(b=2.0)
    assert store.scores() == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(b"no Parquet"),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["other bytes", "cut off", "gone", "a folder"],
)
@pytest.mark.parametrize("name", ["runs.parquet", "scores.parquet"])
def test_a_broken_cache_is_made_anew(store: Store, name: str, harm: Callable[[Path], Any]) -> None:
    store.sweep(a=1.0, b=2.0)
    store.scores()
    (path,) = store.cache.rglob(name)
    harm(path)
    assert store.scores() == {"a": 1.0, "b": 2.0}


def test_files_of_two_writers_are_not_mixed(store: Store) -> None:
    store.sweep(a=1.0)
    store.scores()
    (path,) = store.cache.rglob("scores.parquet")
    before = path.read_bytes()
    store.sweep(b=2.0)
    store.scores()
    path.write_bytes(before)
    assert store.scores() == {"a": 1.0, "b": 2.0}


def test_a_folder_that_cannot_be_written_is_no_cache(store: Store, tmp_path: Path) -> None:
    store.sweep(a=1.0)
    (tmp_path / "file").write_text("")
    store.cache = tmp_path / "file" / "cache"
    assert store.scores() == {"a": 1.0}


def test_stores_and_studies_have_caches_of_their_own(store: Store, empty_store: Path, tmp_path: Path) -> None:
    store.sweep(a=1.0)
    store.scores()
    shutil.copy(empty_store, tmp_path / "other.db")
    other = Store(f"sqlite:///{tmp_path}/other.db", tmp_path)
    other.sweep(b=2.0)
    assert other.scores() == {"b": 2.0}
    assert store.scores() == {"a": 1.0}
    with pytest.raises(InputError, match="no study 'pairs'"):
        analysis.load("pairs", store.uri, cache=store.cache)


def test_a_study_that_is_made_anew_is_read_anew(store: Store, empty_store: Path, tmp_path: Path) -> None:
    store.sweep(a=1.0)
    store.scores()
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    for name in ("mlflow.db-wal", "mlflow.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "again").symlink_to(tmp_path)  # MLflow's clients in this process hold the old file open
    again = Store(f"sqlite:///{tmp_path}/again/mlflow.db", tmp_path)
    again.sweep(b=2.0)
    assert again.scores() == {"b": 2.0}


def test_the_runs_are_there_with_all_that_mlflow_holds(store: Store) -> None:
    store.sweep(a=1.0, b=2.0)
    runs = store.results().runs.to_pylist(maps_as_pydicts="strict")
    assert {run["key"]: run["metrics"]["seconds"] for run in runs} == {"a": 1.5, "b": 1.5}
    assert {run["params"]["finetune.batch_size"] for run in runs} == {"16"}
    assert {run["tags"]["variant"] for run in runs} == {"joint"}


def test_a_study_of_which_nothing_has_succeeded_has_no_scores(store: Store, tmp_path: Path) -> None:
    study = validate({"study": "pair", "languages": [["en", "fr"]], "finetune": None}, "test")
    tracker = Tracker(store.uri, study, tmp_path / "jobs", tmp_path / "artifacts")
    tracker.failed(Job("pretrain", "p", CONFIG, (), LABELS), "it diverged", [])
    tracker.close()
    for _ in range(2):  # from MLflow, then from the cache
        results = store.results()
        assert results.best().empty
        assert analysis.summarise(results) == []
        assert results.runs["status"].to_pylist() == ["FAILED"]
