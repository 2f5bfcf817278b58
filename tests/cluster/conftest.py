"""What the tests of clusters share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from machines import missing


@pytest.fixture(scope="session")
def real_machines() -> None:
    """Skips where there can be no machines of one's own."""
    reason = missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def tiny_study(corpus_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a study of a few jobs, a second each."""

    def write(**fields: Any) -> Path:
        content = {
            "study": "tiny",
            "data": {"source": str(corpus_folder), "vocab_size": 150},
            "languages": [["aa", "bb"]],
            "variants": ["mono", "joint"],
            "model": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "max_length": 64},
            "pretrain": {"steps": 40, "batch_size": 8, "sequence_length": 32, "warmup_steps": 10},
            "finetune": {
                "tasks": ["ner"],
                "epochs": 1,
                "max_length": 64,
                "grid": {"batch_size": [8], "learning_rate": [1e-3]},
            },
            **fields,
        }
        path = tmp_path / f"{content['study']}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write
