"""A job under way: on several workers one writes and all go on from the same checkpoint; a failure keeps the last."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raylab.config import ModelConfig, PretrainConfig, StudyConfig
from raylab.data.source import Source
from raylab.search.execution import Execution
from raylab.search.plan import Job, plan
from raylab.search.storage import Storage
from raylab.train.distributed import Workers


def _jobs(source: Source) -> tuple[Job, Job]:
    """A preparation and the pretraining on it."""
    study = StudyConfig(
        study="tiny",
        languages=(("aa", "bb"),),
        variants=("joint",),
        data={"vocab_size": 150},
        model=ModelConfig(num_layers=1, dim=32, num_heads=2, ffn_dim=64, max_length=64),
        pretrain=PretrainConfig(steps=40, batch_size=8, sequence_length=32, valid_every=40),
        finetune=None,
    )
    prepare, pretrain = plan(study, source).jobs.values()
    return prepare, pretrain


def _written(storage: Storage, job: Job) -> set[str]:
    return {path.name for path in storage.folder(job.key).iterdir()}


def _work(rank: int, folder: Path, corpus: Path) -> None:
    """What each of two workers does; the second one sees files late."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    storage, source = Storage(folder / f"storage{rank}"), Source(corpus)
    _, job = _jobs(source)
    if rank == 1:
        shown = folder / "storage0" / "jobs" / job.key / "checkpoint.pt"
        threading.Timer(2.0, lambda: shutil.copy(shown, storage.folder(job.key))).start()
    execution = Execution(job, storage, source, checkpoint_seconds=0.0, workers=Workers.current())
    found: dict[str, Any] = {"begun": execution.progress, "history": list(execution.history)}
    done = False
    while not done:
        _, done = execution.advance(0.1 * (1 + rank))  # by clocks that differ
    found["progress"] = execution.progress
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two workers went on from a checkpoint at half of the steps, which one of them saw late."""
    folder = tmp_path_factory.mktemp("execution")
    storage, source = Storage.open(str(folder / "storage0")), Source(corpus_folder)
    prepare, pretrain = _jobs(source)
    Execution(prepare, storage, source).advance(0.0)
    execution = Execution(pretrain, storage, source)
    while execution.progress < 0.5:
        execution.advance(0.0)
    storage.folder(pretrain.key).mkdir()
    shutil.copytree(storage.root, folder / "storage1")
    execution.save()
    torch.multiprocessing.spawn(_work, (folder, corpus_folder), nprocs=2)
    return folder


def test_all_workers_go_on_from_the_same_checkpoint(folder: Path) -> None:
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert first["begun"] == second["begun"] == 0.5
    assert first["history"] == second["history"] != []
    assert first["progress"] == second["progress"] == 1.0


def test_the_first_worker_alone_writes(folder: Path, corpus_folder: Path) -> None:
    _, job = _jobs(Source(corpus_folder))
    assert _written(Storage(folder / "storage0"), job) == {"model", "result.json"}
    assert _written(Storage(folder / "storage1"), job) == {"checkpoint.pt"}  # as it was given


def test_the_record_tells_the_whole_history_and_how_many_worked(folder: Path, corpus_folder: Path) -> None:
    record = Storage(folder / "storage0").read_record(_jobs(Source(corpus_folder))[1].key)
    assert record["workers"] == 2
    steps = [step for name, _, step, _ in record["history"] if name == "train/loss"]
    assert steps == [20, 40]


def test_a_loss_that_is_no_number_keeps_the_checkpoint(corpus_folder: Path, tmp_path: Path) -> None:
    storage, source = Storage.open(str(tmp_path)), Source(corpus_folder)
    prepare, pretrain = _jobs(source)
    Execution(prepare, storage, source).advance(0.0)
    diverging = pretrain.config.model_copy(
        update={"pretrain": PretrainConfig(steps=40, batch_size=8, sequence_length=32, learning_rate=1e30)}
    )
    job = replace(pretrain, config=diverging)
    execution = Execution(job, storage, source)
    execution.advance(0.0)
    execution.save()
    with pytest.raises(FloatingPointError, match=r"loss is \S+ at step \d+ \(language .., learning rate"):
        execution.advance(1e9)
    assert _written(storage, job) == {"checkpoint.pt"}
    again = Execution(job, storage, source)  # and it is sound
    assert again.progress == 1 / 40
