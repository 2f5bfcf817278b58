"""A tokenizer whose pieces a reader can predict: it knows a handful of letters."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylab.data.tokenizer import Tokenizer, train_tokenizer

LETTERS = "abcde"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    words = [first + second for first in LETTERS for second in LETTERS]
    train_tokenizer([" ".join(words)] * 4, path, vocab_size=20, character_coverage=1.0)
    return Tokenizer.load(path)
