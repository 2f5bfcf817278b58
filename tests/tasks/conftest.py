"""A tokenizer whose pieces a reader can predict: it knows a handful of letters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from raylab.data.tokenizer import Tokenizer, train_tokenizer

LETTERS = "abcde"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    words = [first + second for first in LETTERS for second in LETTERS]
    train_tokenizer([" ".join(words)] * 4, path, vocab_size=20, character_coverage=1.0)
    return Tokenizer.load(path)


@pytest.fixture(scope="session")
def framing_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One of Hugging Face's, a token a letter, whose special tokens differ: [CLS] A [SEP] [MID] B [END]."""
    folder = tmp_path_factory.mktemp("framing")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MID]", "[END]", "[MASK]"]
    vocabulary = {name: number for number, name in enumerate([*names, *LETTERS])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    model.add_special_tokens(names)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(f"[{LETTERS}]"), "isolated")
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [END]",
        pair="[CLS] $A [SEP] [MID] $B [END]",
        special_tokens=[(name, vocabulary[name]) for name in names],
    )
    model.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "special_tokens_map.json").write_text(json.dumps({**roles, "mask_token": "[MASK]"}), encoding="utf-8")
    return Tokenizer.load(folder)
