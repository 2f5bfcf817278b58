"""A small pretrained model of two languages with snapshots, and probes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from probed import LANGUAGES, Pretrained

from raylab.config import ModelConfig, PrepareJob, PretrainConfig, PretrainJob
from raylab.data.prepare import prepare
from raylab.data.source import Source
from raylab.train.pretrain import PretrainRun


@pytest.fixture(scope="session")
def prepared(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(PrepareJob(languages=("aa", "bb", "cc"), vocab_size=140, subsample={}), Source(corpus_folder), folder)
    return folder


@pytest.fixture(scope="session")
def pretrain(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pretrained]:
    """Pretrain a model; further keyword arguments change the section `pretrain`."""

    def pretrain(variant: str = "joint", languages: tuple[str, ...] = LANGUAGES, **changes: Any) -> Pretrained:
        config = {"steps": 24, "batch_size": 8, "sequence_length": 16, "warmup_steps": 4, "learning_rate": 5e-3}
        job = PretrainJob.model_validate(
            {
                "languages": languages,
                "variant": variant,
                "seed": 3,
                "model": ModelConfig(num_layers=2, dim=16, num_heads=2, ffn_dim=32, max_length=16),
                "pretrain": PretrainConfig.model_validate({**config, "valid_batches": 2, **changes}),
                "meta": None,
            }
        )
        folder = tmp_path_factory.mktemp(variant)
        run = PretrainRun(job, prepared_folder=prepared, folder=folder)
        run.advance(1e9)
        run.finish(folder)
        return Pretrained(job, folder, prepared)

    return pretrain


@pytest.fixture(scope="session")
def joint(pretrain: Callable[..., Pretrained]) -> Pretrained:
    """A joint model of 24 steps with snapshots after 8 and 16."""
    return pretrain(snapshot_every=8)
