"""Tokenized datasets, kept from job to job in one process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from raylab.data.tokenizer import Tokenizer
from raylab.hashing import fingerprint_files
from raylab.tasks import get_task

_MOST_DATASETS = 64


def load_features(task: str, path: Path, tokenizer: Path, max_length: int) -> Any:
    """The features of a labelled file: made on first use, then kept for as long as file and tokenizer stay the same.

    Args:
        task: Name of the task.
        path: The labelled file.
        tokenizer: The tokenizer's file.
        max_length: Longest sequence in tokens.

    Returns:
        The task's features; shared between callers, never to be changed.

    Raises:
        InputError: A file is missing, or cannot be read as what it should be.
    """
    there = [file for file in (path, tokenizer) if file.is_file()]  # what is missing, its reader says better
    return make_features(task, path, tokenizer, max_length, fingerprint_files(there))


@lru_cache(maxsize=_MOST_DATASETS)
def make_features(task: str, path: Path, tokenizer: Path, max_length: int, contents: str) -> Any:
    """Read and tokenize a labelled file, unless that was done lately: `make_features.cache_info()` tells.

    Args:
        task: Name of the task.
        path: The labelled file.
        tokenizer: The tokenizer's file.
        max_length: Longest sequence in tokens.
        contents: Fingerprint of both files' contents, so that a changed file is read anew.
    """
    kind = get_task(task)
    return kind.features(kind.read(path), Tokenizer.load(tokenizer), max_length)
