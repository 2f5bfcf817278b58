"""Natural language inference: does a premise entail a hypothesis, contradict it, or neither."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raylab.data.labelled import Labelled
from raylab.data.tokenizer import Tokenizer
from raylab.tasks.base import IGNORED, Labels, room_for_text
from raylab.tasks.pairs import LABELS, Pair, read_pairs
from raylab.tasks.ragged import Ragged, Stretches, join, ragged_of
from raylab.tasks.scoring import share_correct

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class PairFeatures:
    """Pairs of sentences, tokenized.

    Attributes:
        tokens: Sequences `begin premise between hypothesis end`.
        gold: The label of each pair.
        label_of_pair: The same, as an index into `LABELS`. [N]
        cut_pairs: Pairs too long.
        empty_sides: Premises and hypotheses that have no token.
        left_out_pairs: Pairs without a label, which are not among these.
    """

    tokens: Ragged
    gold: list[str]
    label_of_pair: np.ndarray
    cut_pairs: int
    empty_sides: int
    left_out_pairs: int
    ids: None = None


class NaturalLanguageInference:
    """Natural language inference; fulfils `raylab.tasks.base.Task`."""

    name = "nli"
    metrics = ("accuracy",)

    def read(self, dataset: Path | Labelled) -> list[Pair]:
        """Read the pairs of a file, or the part of one.

        A part is chosen by where in the file a premise comes first, so that it is the same in languages whose files are
        translations of each other, as XNLI's are: dev in one would else hold what is test in another.
        """
        pairs = read_pairs(dataset)
        first: dict[str, int] = {}
        for number, pair in enumerate(pairs):
            first.setdefault(pair.premise, number)
        return Labelled.of(dataset).share(pairs, lambda pair: first[pair.premise])

    def features(self, examples: list[Pair], tokenizer: Tokenizer, max_length: int, stride: int = 0) -> PairFeatures:
        """Tokenize pairs. Of one too long the longer sentence is cut, until both are equally long, then both.

        Args:
            examples: Pairs.
            tokenizer: The tokenizer of the encoder.
            max_length: Longest sequence in tokens.
            stride: Nothing: a pair has no windows.

        Raises:
            InputError: `max_length` leaves no room for a token of each sentence.
        """
        room = room_for_text(max_length, tokenizer.begin, tokenizer.between, tokenizer.end, least=2)
        texts = list(dict.fromkeys(text for pair in examples for text in (pair.premise, pair.hypothesis)))
        place = {text: number for number, text in enumerate(texts)}
        pieces = ragged_of(tokenizer.encode_batch(texts))
        sides = np.array([(place[pair.premise], place[pair.hypothesis]) for pair in examples])  # [N, 2]
        lengths = pieces.lengths[sides]  # [N, 2]
        half = np.array([room - room // 2, room // 2])
        kept = np.minimum(lengths, np.maximum(half, room - lengths[:, ::-1]))  # [N, 2]
        stretches = [Stretches(pieces.values, pieces.offsets[sides[:, side]], kept[:, side]) for side in (0, 1)]
        tokens, _ = join(tokenizer.begin, stretches[0], tokenizer.between, stretches[1], tokenizer.end)
        return PairFeatures(
            tokens=tokens,
            gold=[pair.label for pair in examples],
            label_of_pair=np.array([LABELS.index(pair.label) for pair in examples], dtype=np.int64),
            cut_pairs=int((kept < lengths).any(1).sum()),
            empty_sides=int((lengths == 0).sum()),
            left_out_pairs=sum(pair.left_out for pair in examples),
        )

    def labels(self, train: PairFeatures) -> Labels:
        """All three, whatever the training set has."""
        return Labels(LABELS, LABELS[1])

    def targets(self, features: PairFeatures, labels: Labels) -> Ragged:
        """The label of each pair."""
        return Ragged(features.label_of_pair, np.arange(len(features.label_of_pair) + 1))

    def counts(self, features: PairFeatures, labels: Labels) -> dict[str, int]:
        """Pairs; those cut, and those without a label, which were left out; sentences without a token."""
        return {
            "pairs": len(features.gold),
            "cut_pairs": features.cut_pairs,
            "empty_sides": features.empty_sides,
            "left_out_pairs": features.left_out_pairs,
        }

    def head(self, dim: int, labels: Labels, dropout: float) -> nn.Module:
        """A linear layer over the first token."""
        from raylab.tasks.heads import PairHead  # torch is slow to import

        return PairHead(dim, len(labels.names), dropout)

    def loss(self, logits: Tensor, targets: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy.

        Args:
            logits: [B, labels]
            targets: [B, 1]
            attention_mask: Nothing: the first token is no padding.
        """
        from torch.nn import functional

        return functional.cross_entropy(logits.float(), targets[:, 0], ignore_index=IGNORED)

    def predict(
        self, outputs: Iterable[tuple[np.ndarray, Tensor]], features: PairFeatures, labels: Labels
    ) -> list[str]:
        """The label with the highest logit."""
        best = np.zeros(len(features.tokens), dtype=np.int64)
        for rows, logits in outputs:
            best[rows] = logits.argmax(-1).cpu().numpy()
        return [labels.names[label] for label in best]

    def score(self, gold: list[str], predicted: list[str], language: str) -> dict[str, float]:
        """Accuracy, in percent; the same in every language."""
        return {"accuracy": share_correct(gold, predicted)}


NLI = NaturalLanguageInference()
