"""What a downstream task is: all that the finetune loop needs to know about one.

A new task is one file in this folder that fulfils `Task`, and one entry in the registry in `__init__.py`. A task owns
reading, features, the head, the loss, prediction and the score; the loop owns batches, the optimizer, epochs and the
choice of one. Targets are rows of integers, one row an example: for tagging one integer a token, for a span its first
and last token, for a sentence pair its class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from raylab.data.tokenizer import Tokenizer
from raylab.tasks.ragged import Ragged

IGNORED = -100  # a target that the loss leaves out; also what fills targets behind a row's end


@dataclass(frozen=True)
class Labels:
    """What the outputs of a head stand for.

    Attributes:
        names: Label of each output.
        fallback: The prediction where the model gives none: for what was cut off, or what has no subword.
    """

    names: tuple[str, ...]
    fallback: str


class Features(Protocol):
    """A dataset, tokenized: what the loop reads of it. Each task adds what it needs for itself."""

    @property
    def tokens(self) -> Ragged:
        """Token ids of each example's sequence, special tokens included, none of them empty."""

    @property
    def gold(self) -> list[Any]:
        """The right answer to each example, in the form that `Task.score` takes."""


FeaturesT = TypeVar("FeaturesT", bound=Features)


class Task(Protocol[FeaturesT]):
    """One downstream task.

    Attributes:
        name: Name of the task: of its data folder, and in configurations and results.
        metrics: Names of what `score` returns; the first is the one that epochs and hyperparameters are chosen by.
    """

    @property
    def name(self) -> str:
        """Name of the task."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""

    def read(self, path: Path) -> list[Any]:
        """Read a labelled file.

        Raises:
            InputError: The file is missing, empty or malformed; names the file and line.
        """

    def features(self, examples: list[Any], tokenizer: Tokenizer, max_length: int) -> FeaturesT:
        """Tokenize examples into sequences of at most `max_length` tokens, special tokens included.

        Features depend on no other dataset, so they can be kept between jobs.
        """

    def labels(self, train: FeaturesT) -> Labels:
        """What the head has to tell apart, from the training set."""

    def targets(self, features: FeaturesT, labels: Labels) -> Ragged:
        """A row of targets for each example; `IGNORED` where there is none."""

    def counts(self, features: FeaturesT, labels: Labels) -> dict[str, int]:
        """How much of the dataset there is, and how much of it the model never sees or cannot get right."""

    def head(self, dim: int, labels: Labels, dropout: float) -> nn.Module:
        """A module from the encoder's output, [B, T, dim], to logits, in the form that `loss` and `predict` take."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of one batch.

        Args:
            logits: The head's output.
            targets: Rows of `targets`, filled with `IGNORED`. [B, longest]
        """

    def predict(self, outputs: Iterable[tuple[np.ndarray, Tensor]], features: FeaturesT, labels: Labels) -> list[Any]:
        """Answers to all examples, in their order.

        Args:
            outputs: Batches that together hold every example once: the examples' numbers, [B], and their logits.
            features: The dataset.
            labels: What the head's outputs stand for.
        """

    def score(self, gold: list[Any], predicted: list[Any]) -> dict[str, float]:
        """The value of each of `metrics`, in percent."""
