"""An untrained encoder with labelled data, and finetuning runs of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_run import Start
from made_up_language import ner_sentences, pos_sentences, write_conll, write_conllu, write_pairs, write_squad

from raylab.config import FinetuneJob, ModelConfig
from raylab.data.tokenizer import Tokenizer, train_tokenizer
from raylab.model import Encoder
from raylab.train.finetune import FinetuneRun


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained encoder of two languages, its tokenizer, and labelled data of both."""
    folder = tmp_path_factory.mktemp("world")
    text = [" ".join(word for word, _ in sentence) for sentence in ner_sentences(0, 400)]
    train_tokenizer(text, folder / "tokenizer.model", vocab_size=120, character_coverage=1.0)
    config = ModelConfig(num_layers=1, dim=32, num_heads=2, ffn_dim=64, adapter_ratio=0.25, max_length=24)
    torch.manual_seed(0)
    vocab_size = Tokenizer.load(folder / "tokenizer.model").vocab_size
    Encoder(config, vocab_size, ("aa", "bb"), "adapter").save_pretrained(folder / "model")
    for number, language in enumerate(("aa", "bb")):
        for part, (split, count) in enumerate({"train": 120, "dev": 30, "test": 30}.items()):
            seed = 10 * number + part
            write_conll(folder / f"ner.{language}.{split}", ner_sentences(seed, count))
            write_conllu(folder / f"pos.{language}.{split}", pos_sentences(seed, count))
            write_squad(folder / f"qa.{language}.{split}", seed, count, padding=12)
            write_pairs(folder / f"nli.{language}.{split}", seed, count)
    return folder


@pytest.fixture
def start(world: Path, tmp_path: Path) -> Start:
    """Start a run; further keyword arguments change the job."""

    def start(
        datasets: dict[tuple[str, str], Path] | None = None,
        fingerprint: str = "f",
        encoder_folder: Path = world / "model",
        prepared_folder: Path = world,
        folder: Path = tmp_path,
        features_folder: Path | None = None,
        **changes: Any,
    ) -> FinetuneRun:
        job: dict[str, Any] = {
            "task": "ner",
            "train_language": "aa",
            "eval_languages": ("aa",),
            "seed": 0,
            "epochs": 3,
            "batch_size": 16,
            "learning_rate": 5e-3,
            "max_length": 64,
            "max_examples": None,
        }
        job.update(changes)
        files = {
            (language, split): world / f"{job['task']}.{language}.{split}"
            for language in ("aa", "bb")
            for split in ("train", "dev", "test")
        }
        return FinetuneRun(
            FinetuneJob(**job),
            encoder_folder=encoder_folder,
            prepared_folder=prepared_folder,
            datasets=files | (datasets or {}),
            fingerprint=fingerprint,
            folder=folder,
            features_folder=features_folder,
        )

    return start
