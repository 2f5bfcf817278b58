"""The storage at an S3 server: nodes that have nothing but its URI in common."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from s3_server import Nodes
from small_disk import small_disk
from sweep_process import run_sweep

from raylab.config import FinetuneConfig, GridConfig, ModelConfig, PretrainConfig, StudyConfig
from raylab.data.source import Source, open_source
from raylab.search.disk import DiskFullError
from raylab.search.execution import Execution
from raylab.search.object_storage import ObjectStorage
from raylab.search.object_store import ObjectStore
from raylab.search.plan import Job, plan
from raylab.search.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("server")]


def _study(corpus_folder: Path) -> StudyConfig:
    return StudyConfig(
        study="tiny",
        languages=(("aa", "bb"),),
        variants=("joint",),
        data={"source": str(corpus_folder), "vocab_size": 150},
        model=ModelConfig(num_layers=1, dim=32, num_heads=2, ffn_dim=64, max_length=64),
        pretrain=PretrainConfig(steps=40, batch_size=8, sequence_length=32, valid_every=40),
        finetune=FinetuneConfig(
            tasks=("ner",),
            epochs=3,
            max_length=64,
            grid=GridConfig(batch_size=(8,), learning_rate=(1e-3,)),
            checkpoints="all",
        ),
    )


def _jobs(study: StudyConfig, source: Source) -> dict[str, Job]:
    """A job of each kind."""
    return {job.kind: job for job in reversed(plan(study, source).jobs.values())}


def _run(job: Job, storage: Storage, source: Source) -> dict[str, Any]:
    execution = Execution(job, storage, source)
    while not execution.advance(1.0)[1]:
        pass
    return storage.read_record(job.key)


def _contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "result.json" and not path.name.startswith(".")
    }


def test_jobs_go_from_node_to_node_and_end_as_on_a_path(corpus_folder: Path, nodes: Nodes, tmp_path: Path) -> None:
    study = _study(corpus_folder)
    local = Storage.open(str(tmp_path / "local"))
    jobs = _jobs(study, source := open_source(study.data, local.root))
    for kind in ("prepare", "pretrain", "finetune"):
        _run(jobs[kind], local, source)

    driver, a, b = (nodes(name) for name in ("driver", "a", "b"))
    source = open_source(study.data, driver.root)
    _run(jobs["prepare"], a, source)
    for kind, share in (("pretrain", 0.5), ("finetune", 0.4)):
        begun = Execution(jobs[kind], a, source)
        while begun.progress < share:
            begun.advance(0.0)
        begun.save()
        assert not driver.is_finished(jobs[kind].key)
        again = Execution(jobs[kind], b, source)
        assert again.progress == begun.progress
        assert again.history == begun.history != []
        while not again.advance(1.0)[1]:
            pass
        assert driver.is_finished(jobs[kind].key)
    assert driver.finished() == {job.key for job in jobs.values()}
    fresh = nodes("fresh")
    for job in jobs.values():
        expected = _contents(local.folder(job.key))
        fresh.fetch([job.key])
        assert _contents(fresh.folder(job.key)) == expected
        record, reference = driver.read_record(job.key), local.read_record(job.key)
        assert record["files"].keys() == reference["files"].keys() == expected.keys()
        assert set(ObjectStore(driver.uri).files(f"jobs/{job.key}")) == {"result.json", *expected}
    assert driver.read_record(jobs["finetune"].key)["result"] == local.read_record(jobs["finetune"].key)["result"]


def test_a_node_fetches_what_its_job_reads(corpus_folder: Path, nodes: Nodes) -> None:
    study, a, b = _study(corpus_folder), nodes("a"), nodes("b")
    jobs = _jobs(study, source := open_source(study.data, a.root))
    for kind in ("prepare", "pretrain"):
        _run(jobs[kind], a, source)
    _run(jobs["finetune"], b, source)
    assert {path.name for path in b.folder(jobs["prepare"].key).iterdir()} == {
        "tokenizer.model",
        "statistics.json",
        "result.json",
    }


def test_a_storage_goes_to_another_node_without_this_ones_folder(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLAB_CACHE", str(tmp_path / "mine"))
    storage = Storage.open(nodes("a").uri)
    assert storage.root.parent == tmp_path / "mine"
    sent = pickle.dumps(storage)
    monkeypatch.setenv("RAYLAB_CACHE", str(tmp_path / "theirs"))
    assert pickle.loads(sent).root == tmp_path / "theirs" / storage.root.name


KILLED = """
import os, sys
from pathlib import Path
import s3fs
from raylab.search.object_storage import ObjectStorage

put, left = s3fs.S3FileSystem._put_file, iter(range(2))

async def put_and_die(*arguments, **options):
    await put(*arguments, **options)
    if next(left, None) is None:
        os.kill(os.getpid(), 9)

s3fs.S3FileSystem._put_file = put_and_die
storage = ObjectStorage.at(sys.argv[1], Path(sys.argv[2]))
(storage.folder("k") / "model").mkdir(parents=True)
for number in range(40):
    (storage.folder("k") / "model" / f"old{number}").write_text("of the one that was killed")
storage.write_record("k", {"result": 1})
"""


def test_a_node_that_dies_as_it_publishes_has_published_nothing(nodes: Nodes, tmp_path: Path) -> None:
    storage = nodes("driver")
    process = subprocess.run([sys.executable, "-c", KILLED, storage.uri, str(tmp_path / "killed")], timeout=60)
    assert process.returncode == -9
    there = ObjectStore(storage.uri).files("jobs/k")
    assert 0 < len(there) < 40
    assert not storage.is_finished("k")
    assert storage.finished() == set()

    other = nodes("other")
    (other.folder("k") / "model").mkdir(parents=True)
    (other.folder("k") / "model" / "new").write_text("whole")
    other.write_record("k", {"result": 2})
    assert storage.read_record("k") == {"result": 2, "files": {"model/new": 5}}
    assert set(ObjectStore(storage.uri).files("jobs/k")) == {"result.json", "model/new"}


def test_a_copy_of_another_run_is_replaced(nodes: Nodes) -> None:
    first, second = nodes("first"), nodes("second")
    for storage, text in ((first, "first"), (second, "second")):
        second.discard("k")
        folder = storage.folder("k") / "model"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text(text)
        (folder / text).touch()
        storage.write_record("k", {"result": text})
    again = pickle.loads(pickle.dumps(first))  # in another process of the node
    again.fetch(["k"])
    assert {path.name: path.read_text() for path in (first.folder("k") / "model").iterdir()} == {
        "weights": "second",
        "second": "",
    }


def test_copies_make_way_but_those_in_use(nodes: Nodes, tmp_path: Path) -> None:
    source, small = nodes("source"), nodes("small")
    keys = [f"k{number}" for number in range(6)]
    for key in keys:
        (source.folder(key) / "model").mkdir(parents=True)
        (source.folder(key) / "model" / "weights").write_bytes(os.urandom(500_000))
        source.write_record(key, {"result": key})
    with small_disk(small.root, kilobytes=2048):
        (small.root / "jobs" / "mine").mkdir(parents=True)
        (small.root / "jobs" / "mine" / "half").touch()  # under way
        for key in keys[1:]:
            small.fetch([keys[0], key])
            for there in (keys[0], key):
                weights = small.folder(there) / "model" / "weights"
                assert weights.read_bytes() == (source.folder(there) / "model" / "weights").read_bytes()
        assert len(list(small.root.glob("jobs/*/result.json"))) < len(keys)
        assert (small.root / "jobs" / "mine" / "half").exists()
        with pytest.raises(DiskFullError, match="no space left on the disk of "):
            small.fetch(keys)


def test_older_checkpoints_stay_and_serve_where_the_last_is_broken(nodes: Nodes) -> None:
    a, b = (replace(nodes(name), checkpoints=2) for name in "ab")
    for step in range(4):
        a.write_checkpoint("k", {"step": step, "weights": torch.full((100,), step)})
    store = ObjectStore(a.uri)
    assert set(store.files("jobs/k")) == {"checkpoint.pt", "checkpoint.1.pt"}
    store.write("jobs/k/checkpoint.pt", store.read("jobs/k/checkpoint.pt")[:500])
    state = b.read_checkpoint("k")
    assert state is not None
    assert state["step"] == 2
    b.write_record("k", {"result": 1})
    assert set(store.files("jobs/k")) == {"result.json"}
    assert a.read_checkpoint("k") is None


def test_a_pruned_job_is_finished_and_lacks_files(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    for storage in (a, b):
        for name in ("model/weights", "snapshots/10/weights", "predictions.parquet"):
            (storage.folder("k") / name).parent.mkdir(parents=True, exist_ok=True)
            (storage.folder("k") / name).write_text("x")
        storage.write_record("k", {"result": 1})
        b.finished()
        assert a.has_files("k")
        assert b.has_files("k")
        assert storage is b or b.prune("k") is None
        if storage is a:
            assert b.finished() == {"k"}
            assert not nodes("c").has_files("k")
            assert not b.has_files("k")
            assert set(ObjectStore(a.uri).files("jobs/k")) == {"result.json", "predictions.parquet", "pruned"}


def test_the_store_may_be_away_for_a_while(nodes: Nodes, server: Any, caplog: pytest.LogCaptureFixture) -> None:
    storage = nodes("a")
    storage.write_error("k", "first")
    _, port = server.get_host_and_port()
    server.stop()

    def back() -> None:
        time.sleep(3)
        server._port = port
        server.start()

    thread = threading.Thread(target=back)
    thread.start()
    with caplog.at_level(logging.WARNING):
        storage.write_error("k", "second")
    thread.join()
    assert "trying again" in caplog.text
    assert nodes("b").read_error("k") == "second"


def test_another_machine_goes_on_with_the_files_of_a_study(nodes: Nodes) -> None:
    first, second = nodes("first"), nodes("second")
    with first.lock_study("tiny"):
        path = first.study_folder("tiny") / "trials.db"
        with closing(sqlite3.connect(path)) as database:
            database.execute("pragma journal_mode=wal")
            database.execute("create table trials (number integer)")
            database.execute("insert into trials values (1)")
            database.commit()
        (first.study_folder("tiny") / "status.json").write_text("{}")

    def trials(storage: ObjectStorage) -> list[int]:
        with closing(sqlite3.connect(storage.study_folder("tiny") / "trials.db")) as database:
            return [number for (number,) in database.execute("select number from trials")]

    def add(storage: ObjectStorage, number: int) -> None:
        with closing(sqlite3.connect(storage.study_folder("tiny") / "trials.db")) as database:
            database.execute("insert into trials values (?)", (number,))
            database.commit()

    assert second.read_study_file("tiny", "status.json") == "{}"
    assert second.read_study_file("tiny", "nothing") is None
    with second.lock_study("tiny"):
        assert trials(second) == [1]
        add(second, 2)
    add(first, 3)  # of a driver that went on alone: it lost the study, and what it wrote since
    with first.lock_study("tiny"):
        assert trials(first) == [1, 2]
    add(first, 4)  # of a driver that was killed before it could copy them
    with nodes("first").lock_study("tiny"):
        assert trials(first) == [1, 2, 4]


def test_a_sweep_gives_the_same_table_as_on_a_path_and_another_machine_finds_it_done(
    corpus_folder: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = _study(corpus_folder).model_dump(mode="json", exclude_defaults=True)
    content["finetune"] |= {"epochs": 1, "checkpoints": "none"}
    content["search"] = {
        "num_samples": 2,
        "variants": ["joint"],
        "space": {"pretrain.temperature": {"uniform": [1, 5]}},
        "objective": {"within/mean": "max"},
    }
    study = tmp_path / "tiny.yaml"
    study.write_text(yaml.safe_dump(content), encoding="utf-8")
    uri = "s3://results/sweep"
    outputs = []
    for machine in ("first", "second", "path"):
        monkeypatch.setenv("RAYLAB_CACHE", str(tmp_path / machine))
        root = tmp_path / "runs" if machine == "path" else ObjectStorage.at(uri).root
        root.mkdir(exist_ok=True)
        shutil.copy(empty_store, root / "mlflow.db")
        code, output = run_sweep(study, "--address", "local", *([] if machine == "path" else ["--storage", uri]))
        assert code == 0, output
        outputs.append(output)
    first, second, path = (
        output[output.index("Negative interference") : output.index("results  ")] for output in outputs
    )
    assert first == second == path
    assert f"results   {uri}" in outputs[0]
    local, remote = Storage(tmp_path / "runs"), ObjectStorage.at(uri, tmp_path / "driver")
    assert remote.finished() == local.finished()
    assert not list((tmp_path / "second").glob("*/jobs/*"))  # nothing ran there, nor was anything fetched
    for key in local.finished():
        ran, reference = remote.read_record(key), local.read_record(key)
        assert ran["files"].keys() == reference["files"].keys()
        if ran["kind"] == "finetune":
            assert ran["result"] == reference["result"]
