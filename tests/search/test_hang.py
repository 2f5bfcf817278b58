"""A job that makes no progress, as a user meets it: a file that is never there to its end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from sweep_process import start_sweep


@pytest.mark.slow
def test_a_job_that_hangs_says_where_and_is_started_again(
    corpus_folder: Path, empty_store: Path, tmp_path: Path
) -> None:
    corpus = shutil.copytree(corpus_folder, tmp_path / "corpus")
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    grid = {"batch_size": [8], "learning_rate": [1e-3]}
    content = {
        "study": "tiny",
        "data": {"source": str(corpus), "vocab_size": 150},
        "languages": [["aa", "bb"]],
        "variants": ["joint"],
        "model": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "max_length": 64},
        "pretrain": {"steps": 300, "batch_size": 8, "sequence_length": 32},
        "finetune": {"tasks": ["pos"], "epochs": 1, "max_length": 64, "grid": grid},
        "scaling": {"hang_seconds": 3},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    process = start_sweep(path)

    def wait_for(condition: Callable[[], bool]) -> None:
        for _ in range(1200):
            if condition():
                return
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        raise AssertionError("it did not happen within two minutes")

    wait_for(lambda: bool(list(tmp_path.glob("runs/jobs/*/result.json"))))  # the driver has read its files
    dataset = corpus / "pos" / "aa" / "test.conllu"
    dataset.rename(tmp_path / "aside")
    os.mkfifo(dataset)  # nobody ever writes into it
    wait_for(lambda: any("in open" in error.read_text() for error in tmp_path.glob("runs/jobs/*/error.txt")))
    (tmp_path / "aside").replace(dataset)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "no progress for 3 s; it is started again" in output
    assert not list(tmp_path.glob("runs/jobs/*/error.txt"))
