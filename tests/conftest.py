"""Fixtures that the whole suite shares."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import mlflow
import pytest
import torch

os.environ["RAY_AUTH_MODE"] = "disabled"  # a process of tests meets several clusters; Ray reads this once a process
os.environ["RAYLAB_CACHE"] = tempfile.mkdtemp(prefix="raylab-cache-")  # not the user's own
atexit.register(shutil.rmtree, os.environ["RAYLAB_CACHE"], ignore_errors=True)
torch.set_num_threads(1)  # models of tests are so small that a second thread only waits for the first

_KIT = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def kit() -> Path:
    """A folder of real multilingual text and labelled data, where one lies beside the checkout."""
    if not (_KIT / "text").is_dir():
        pytest.skip(f"the real multilingual kit is not at {_KIT}: text/LANG/train.txt and labelled data are needed")
    return _KIT


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder source of three small made-up languages: text for all, NER for `aa` and `bb`, POS for `aa` alone."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def make_corpus(root: Path) -> Path:
    """Write the files of `corpus_folder`."""
    for offset, language in enumerate(("aa", "bb", "cc")):
        text = root / "text" / language
        text.mkdir(parents=True)
        words = [f"{language}{chr(97 + (n * 7 + offset) % 26)}{n % 13}" for n in range(60)]
        lines = [" ".join(words[(n * k + offset) % 60] for k in range(1, 8)) + f" {n}" for n in range(300)]
        (text / "train.txt").write_text("\n".join(lines[:260]) + "\n", encoding="utf-8")
        (text / "valid.txt").write_text("\n".join(lines[260:]) + "\n", encoding="utf-8")
    for language in ("aa", "bb"):
        folder = root / "ner" / language
        folder.mkdir(parents=True)
        for number, split in enumerate(("train", "dev", "test")):
            sentences = [
                f"{language}{chr(97 + n % 26)}{n % 13}\tO\n{language}X{(n + number) % 5}\tB-PER\n{n}\tO\n"
                for n in range(40)
            ]
            (folder / f"{split}.conll").write_text("\n".join(sentences), encoding="utf-8")
    folder = root / "pos" / "aa"
    folder.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        rows = [
            f"1\taa{chr(97 + n % 26)}{n % 13}\t_\tNOUN\t_\t_\t0\troot\t_\t_\n2\t{n}\t_\tNUM\t_\t_\t1\tnummod\t_\t_\n"
            for n in range(30)
        ]
        (folder / f"{split}.conllu").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables: they take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
