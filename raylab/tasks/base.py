"""What a downstream task is: all that the finetune loop needs to know about one.

A new task is one file in this folder that fulfils `Task`, and one entry in the registry in `__init__.py`. A task owns
reading, features, the head, the loss, prediction and the score; the loop owns batches, the optimizer, epochs and the
choice of one. Targets are rows of integers, one row a sequence: for tagging one integer a token, for a span its first
and last token, for a sentence pair its class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from raylab.data.labelled import Labelled
from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.tasks.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor, nn

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
        """Token ids of each sequence, special tokens included, none of them empty.

        An example is one sequence, but a text longer than a sequence may be several, its windows.
        """

    @property
    def gold(self) -> list[Any]:
        """The right answer to each example, in the form that `Task.score` takes."""

    @property
    def ids(self) -> list[str] | None:
        """The dataset's own name of each example, if it has any."""


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

    def read(self, dataset: Path | Labelled) -> list[Any]:
        """Read a labelled file, or the part of one.

        Raises:
            InputError: The file is missing, empty or malformed; names the file and line.
        """

    def features(self, examples: list[Any], tokenizer: Tokenizer, max_length: int, stride: int) -> FeaturesT:
        """Tokenize examples into sequences of at most `max_length` tokens, special tokens included.

        Features depend on no other dataset, so they can be kept between jobs.

        Args:
            examples: What `read` gives.
            tokenizer: The tokenizer of the encoder.
            max_length: Longest sequence in tokens.
            stride: Tokens that two neighbouring windows of one text share, where a task has windows.

        Raises:
            InputError: `max_length` leaves no room for text.
        """

    def labels(self, train: FeaturesT) -> Labels:
        """What the head has to tell apart, from the training set."""

    def targets(self, features: FeaturesT, labels: Labels) -> Ragged:
        """A row of targets for each sequence; `IGNORED` where there is none."""

    def counts(self, features: FeaturesT, labels: Labels) -> dict[str, int]:
        """How much of the dataset there is, and how much of it the model never sees or cannot get right."""

    def head(self, dim: int, labels: Labels, dropout: float) -> nn.Module:
        """A module from the encoder's output, [B, T, dim], to logits, in the form that `loss` and `predict` take."""

    def loss(self, logits: Tensor, targets: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mean loss of one batch; what stands at padding does not matter to it.

        Args:
            logits: The head's output.
            targets: Rows of `targets`, filled with `IGNORED`. [B, longest]
            attention_mask: False at padding; None: nothing is padded. [B, T] bool
        """

    def predict(self, outputs: Iterable[tuple[np.ndarray, Tensor]], features: FeaturesT, labels: Labels) -> list[Any]:
        """Answers to all examples, in their order.

        Args:
            outputs: Batches that together hold every sequence once: the sequences' numbers, [B], and their logits.
            features: The dataset.
            labels: What the head's outputs stand for.
        """

    def score(self, gold: list[Any], predicted: list[Any], language: str) -> dict[str, float]:
        """The value of each of `metrics`, in percent, as the official script of the task computes it.

        Args:
            gold: The right answer to each example.
            predicted: The answer given to each.
            language: Code of the examples' language, such as `en`.
        """


def room_for_text(max_length: int, *special_tokens: tuple[int, ...], least: int = 1) -> int:
    """Tokens that a sequence has for text.

    Args:
        max_length: Longest sequence.
        special_tokens: Those of a sequence.
        least: How many must be left.

    Raises:
        InputError: Fewer are left.
    """
    special = sum(map(len, special_tokens))
    if max_length - special < least:
        raise InputError(
            f"finetune.max_length: {max_length} leaves no room for text beside {special} special tokens; "
            f"at least {special + least} would"
        )
    return max_length - special
