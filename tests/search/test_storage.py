"""The storage at a path: nothing half written, nothing finished lost, and one driver for each study."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_disk import small_disk
from test_graph import _graphs, _job

from raylab.config import StudyConfig
from raylab.data.source import Source, open_source
from raylab.errors import InputError
from raylab.search.disk import DiskFullError
from raylab.search.execution import Execution
from raylab.search.graph import JobGraph, State
from raylab.search.keeping import note_needs, prune_models
from raylab.search.plan import Job, Plan, plan
from raylab.search.storage import Storage
from raylab.storage import main


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "runs"))


def _leave(storage: Storage, key: str, *names: str) -> None:
    for name in names:
        path = storage.folder(key) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    storage.write_record(key, {"result": {"of": key}})


def _there(storage: Storage, key: str) -> set[str]:
    folder = storage.folder(key)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_record_names_the_files_and_ends_what_was_under_way(storage: Storage) -> None:
    storage = replace(storage, checkpoints=2)
    for step in range(3):
        storage.write_checkpoint("k", {"step": step})
    storage.write_error("k", "it failed once")
    assert storage.read_error("k") == "it failed once"
    assert not storage.is_finished("k")
    _leave(storage, "k", "model/weights", "predictions.parquet")
    assert storage.finished() == {"k"}
    assert storage.read_record("k") == {
        "result": {"of": "k"},
        "files": {"model/weights": 13, "predictions.parquet": 19},
    }
    assert _there(storage, "k") == {"result.json", "model/weights", "predictions.parquet"}
    assert storage.read_error("k") is storage.read_checkpoint("k") is None


@given(steps=st.integers(1, 6), kept=st.integers(1, 4), broken=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_the_last_checkpoint_that_is_whole_is_read(
    tmp_path_factory: pytest.TempPathFactory, steps: int, kept: int, broken: int
) -> None:
    storage = Storage(tmp_path_factory.mktemp("runs"), checkpoints=kept)
    for step in range(steps):
        storage.write_checkpoint("k", {"step": step, "weights": torch.full((50,), step)})
    there = sorted(storage.folder("k").iterdir(), key=lambda path: (path.name != "checkpoint.pt", path.name))
    assert len(there) == min(steps, kept)
    for path in there[:broken]:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[: len(content) // 2])
    state = storage.read_checkpoint("k")
    assert (None if state is None else state["step"]) == (steps - 1 - broken if broken < len(there) else None)


def test_a_pruned_job_keeps_its_result_and_is_whole_again_when_it_ran_again(storage: Storage) -> None:
    names = ("model/weights", "state.pt", "snapshots/10/weights", "epochs/01/weights", "best/weights")
    _leave(storage, "k", "predictions.parquet", *names)
    assert storage.has_files("k")
    storage.prune("k")
    assert storage.is_finished("k")
    assert not storage.has_files("k")
    assert storage.read_record("k")["result"] == {"of": "k"}
    assert _there(storage, "k") == {"result.json", "predictions.parquet", "pruned"}
    _leave(storage, "k", *names)
    assert storage.has_files("k")


HOLD = """
import sys
from pathlib import Path
from raylab.search.storage import Storage

with Storage(Path(sys.argv[1])).lock_study("tiny"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_driver_is_refused_until_the_first_one_dies(storage: Storage) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(storage.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert storage.is_driven("tiny")
    assert not storage.is_driven("other")
    refused = pytest.raises(InputError, match=rf"study tiny: another sweep of it runs \(process {process.pid} on ")
    with refused, storage.lock_study("tiny"):
        pass
    process.kill()
    process.communicate()
    with storage.lock_study("tiny"), storage.lock_study("other"):
        assert storage.is_driven("tiny")
    assert not storage.is_driven("tiny")


@settings(max_examples=200, deadline=None)
@given(
    jobs=_graphs(), finished=st.sets(st.integers(0, 24)), pruned=st.sets(st.integers(0, 24)), half=st.integers(0, 25)
)
def test_a_pruned_job_runs_again_where_another_needs_it_and_only_there(
    jobs: list[Job], finished: set[int], pruned: set[int], half: int
) -> None:
    done = {str(number) for number in finished}
    whole = done - {str(number) for number in pruned}
    graph = JobGraph(done.__contains__, lambda job: 0.0, whole.__contains__)
    found = [job.key for job in graph.add(jobs[:half])]
    found += [job.key for job in graph.add(jobs)]
    ran = []
    while (job := graph.take()) is not None:
        assert all(key in whole for key in job.inputs)
        whole.add(job.key)
        ran.append(job.key)
        graph.done(job.key)
    needed = {job.key for job in jobs} - done
    for job in reversed(jobs):
        if job.key in needed:
            needed |= {key for key in job.inputs if key in pruned_keys(done, pruned)}
    assert sorted(ran) == sorted(needed)
    assert all(state is State.DONE for state in graph.states.values())
    assert set(found) >= {job.key for job in jobs} - needed


def pruned_keys(done: set[str], pruned: set[int]) -> set[str]:
    return done & {str(number) for number in pruned}


# What a study that has ended keeps.


def _study(**fields: object) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "study": "tiny",
            "languages": [["aa", "bb"]],
            "variants": ["mono", "joint"],
            "data": {"vocab_size": 150},
            "model": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "max_length": 64},
            "finetune": {"tasks": ["ner"], "grid": {"batch_size": [8], "learning_rate": [1e-3, 3e-3]}},
            **fields,
        }
    )


@pytest.mark.parametrize(("models", "finetuned"), [("all", "all"), ("best", "all"), ("all", "best"), ("best", "best")])
def test_what_a_study_does_not_keep_is_deleted_and_nothing_else(
    storage: Storage, corpus_folder: Path, models: str, finetuned: str
) -> None:
    study = _study(keep={"models": models, "finetuned": finetuned})
    jobs = plan(study, Source(corpus_folder)).jobs
    for key in jobs:
        _leave(storage, key, "model/weights", "best/weights")
    (joint,) = (job.key for job in jobs.values() if job.kind == "pretrain" and job.labels["variant"] == "joint")
    tuned = {job.key: job.inputs[0] for job in jobs.values() if job.kind == "finetune"}
    reported = [key for key, model in tuned.items() if model == joint][:1]
    with storage.lock_study("tiny"):
        line = prune_models(storage, "tiny", jobs, study.keep, reported)
    unneeded = set(tuned.values()) - {joint} if models == "best" else set()
    unneeded |= tuned.keys() - set(reported) if finetuned == "best" else set()
    assert {key for key in jobs if not storage.has_files(key)} == unneeded
    assert (line is None) == (not unneeded)
    assert storage.finished() == jobs.keys()


def test_what_another_study_needs_stays(storage: Storage, corpus_folder: Path) -> None:
    study = _study(keep={"models": "best"})
    jobs = plan(study, Source(corpus_folder)).jobs
    for key in jobs:
        _leave(storage, key, "model/weights")
    first, *others = {job.inputs[0] for job in jobs.values() if job.kind == "finetune"}
    note_needs(storage, "other", [first])
    with storage.lock_study("tiny"), storage.lock_study("other"):
        line = prune_models(storage, "tiny", jobs, study.keep, [])
    assert line == "no model is deleted while other runs; the next sweep of tiny does it"
    assert all(map(storage.has_files, jobs))
    with storage.lock_study("tiny"):
        prune_models(storage, "tiny", jobs, study.keep, [])
    assert storage.has_files(first)
    assert not any(map(storage.has_files, others))


def test_the_command_says_what_takes_room_and_deletes_what_no_study_has(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    _leave(storage, "wanted", "model/weights")
    _leave(storage, "orphan", "model/weights")
    (storage.root / "text").mkdir()
    (storage.root / "text" / "aa").write_bytes(bytes(12_000_000))
    place = ["--storage", str(storage.root)]
    assert main(place) == 0
    assert "copies of data  12.0 MB" in capsys.readouterr().out

    (storage.root / "studies" / "tiny").mkdir(parents=True)
    prune = ["prune", "--orphans", "--caches", *place]
    assert main(prune) == 2  # of a study of which nothing is known any job may be
    assert "which jobs tiny has is not known" in capsys.readouterr().err
    note_needs(storage, "tiny", ["wanted"])
    with storage.lock_study("tiny"):
        assert main([*prune, "--yes"]) == 2
    assert "a sweep of tiny runs over this storage" in capsys.readouterr().err
    assert main(prune) == 0
    output = capsys.readouterr().out
    assert "orphan" in output
    assert "wanted" not in output
    assert "1 jobs and 1 folders, 12.0 MB; --yes deletes them" in output
    assert storage.finished() == {"wanted", "orphan"}
    assert main([*prune, "--yes"]) == 0
    assert storage.finished() == {"wanted"}
    assert not (storage.root / "text").exists()
    assert main(["prune", *place]) == 2


# A full disk.


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a megabyte and a half."""
    with small_disk(tmp_path / "disk", kilobytes=1536) as folder:
        yield folder


def _fill(folder: Path, *, leave: int) -> Path:
    """Fill a disk up to some bytes."""
    path = folder / "fill"
    with path.open("wb") as stream:
        while os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize > leave:
            stream.write(bytes(4096))
            stream.flush()
    return path


def test_a_full_disk_keeps_the_checkpoint_of_before(disk: Path) -> None:
    storage = Storage.open(str(disk / "runs"))
    storage.write_checkpoint("k", {"step": 1, "weights": torch.ones(50_000)})
    fill = _fill(disk, leave=100_000)
    for _ in range(2):
        with pytest.raises(DiskFullError) as caught:
            storage.write_checkpoint("k", {"step": 2, "weights": torch.ones(50_000)})
        assert str(caught.value).startswith(
            f"no space left on the disk of {storage.folder('k')}; what is finished stays"
        )
        assert _there(storage, "k") == {"checkpoint.pt"}
    assert storage.read_checkpoint("k")["step"] == 1  # type: ignore[index]
    with pytest.raises(DiskFullError):
        storage.write_record("k", {"result": "x" * 200_000})
    assert _there(storage, "k") == {"checkpoint.pt"}
    fill.unlink()
    storage.write_checkpoint("k", {"step": 2})
    assert storage.read_checkpoint("k") == {"step": 2}


@pytest.mark.parametrize("leave", [4_096, 70_000])
def test_a_job_that_met_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_room(
    disk: Path, corpus_folder: Path, tmp_path: Path, leave: int
) -> None:
    study = _study(
        variants=["joint"],
        pretrain={"steps": 20, "batch_size": 8, "sequence_length": 32, "valid_every": 20},
        finetune=None,
    )
    storage, reference = Storage.open(str(disk / "runs")), Storage.open(str(tmp_path / "reference"))
    source = open_source(study.data.model_copy(update={"source": str(corpus_folder)}), tmp_path)
    prepare, pretrain = plan(study, source).jobs.values()
    for job in (prepare, pretrain):
        Execution(job, reference, source).advance(1e9)
    fill = _fill(disk, leave=leave)

    def run() -> None:
        for job in (prepare, pretrain):
            if not storage.is_finished(job.key):
                Execution(job, storage, source).advance(1e9)

    with pytest.raises(DiskFullError, match="no space left on the disk of "):
        run()
    assert not storage.is_finished(pretrain.key)
    assert not list(disk.rglob(".*"))
    fill.unlink()
    run()
    for job in (prepare, pretrain):
        for name in reference.read_record(job.key)["files"]:
            assert (storage.folder(job.key) / name).read_bytes() == (reference.folder(job.key) / name).read_bytes()


def test_a_storage_travels(storage: Storage) -> None:
    storage = replace(storage, checkpoints=3)
    assert pickle.loads(pickle.dumps(storage)) == storage


@pytest.mark.parametrize("location", ["/dev/null/x", "file:///dev/null/x"])
def test_a_path_that_cannot_be_written_is_refused(location: str) -> None:
    with pytest.raises(InputError, match=f"^--storage {location}: cannot be written: Not a directory$"):
        Storage.open(location)


def test_a_model_that_was_deleted_is_made_again_as_it_was(
    storage: Storage, corpus_folder: Path, tmp_path: Path
) -> None:
    study = _study(variants=["joint"], pretrain={"steps": 10, "batch_size": 8, "sequence_length": 32}, finetune=None)
    source = open_source(study.data.model_copy(update={"source": str(corpus_folder)}), tmp_path)
    prepare, pretrain = plan(study, source).jobs.values()
    for job in (prepare, pretrain):
        Execution(job, storage, source).advance(1e9)
    weights = storage.folder(pretrain.key) / "model" / "model.safetensors"
    before = weights.read_bytes(), storage.read_record(pretrain.key)["result"]["valid_perplexity"]
    storage.prune(pretrain.key)
    assert not weights.exists()
    Execution(pretrain, storage, source).advance(1e9)
    assert storage.has_files(pretrain.key)
    assert (weights.read_bytes(), storage.read_record(pretrain.key)["result"]["valid_perplexity"]) == before


def test_a_sweep_runs_a_pruned_job_before_the_one_that_needs_it(storage: Storage) -> None:
    from raylab.search.searcher import JobSearcher, worker_settings

    jobs = [_job("pretrain"), _job("old", "pretrain"), _job("new", "pretrain")]
    for job in jobs[:2]:
        _leave(storage, job.key, "model/weights")
    storage.prune("pretrain")
    graph = JobGraph(storage.is_finished, lambda job: 0.0, storage.has_files)
    settings = worker_settings(storage, Source(storage.root), StudyConfig(study="tiny", languages=(("aa",),)).scaling)
    searcher = JobSearcher(graph, storage, settings, [])
    searcher.begin(Plan({job.key: job for job in jobs}))
    for number, expected in enumerate(("pretrain", "new")):
        suggested = searcher.suggest(str(number))
        assert isinstance(suggested, dict)
        assert suggested["job"].key == expected
        assert searcher.suggest("another") is None or expected == "new"
        _leave(storage, expected, "model/weights")
        searcher.on_trial_complete(str(number), {"done": True, "fresh": [], "progress": 1.0})
    assert searcher.results == {job.key: {"of": job.key} for job in jobs}
