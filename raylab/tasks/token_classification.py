"""One label a word, read from the word's first subword: what NER and POS tagging share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from raylab.data.labelled import Labelled
from raylab.data.tokenizer import Tokenizer
from raylab.tasks.base import IGNORED, Labels, room_for_text
from raylab.tasks.ragged import Ragged, Stretches, join, offsets_of, split_by_offsets

if TYPE_CHECKING:
    from torch import Tensor, nn

_CUT = -1  # first subword of a word that lies beyond the longest sequence
_DROPPED = -2  # first subword of a word for which the tokenizer has none


class Sentence(NamedTuple):
    """One sentence.

    Attributes:
        words: Its words.
        tags: The tag of each.
        repaired: How many tags the reader had to repair.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    repaired: int = 0


@dataclass(frozen=True, eq=False)
class TokenFeatures:
    """A tagged dataset, tokenized. W words in all, in the order of the sentences.

    Attributes:
        tokens: Sequences of subwords between the tokenizer's `begin` and `end`: in raylab's own, `</s> subwords </s>`,
            so sentences stand in pretraining, each between two ends.
        gold: The tags of each sentence.
        first: Where in `tokens.values` each word's first subword is; negative if it has none. [W]
        tags: Each word's tag, as an index into `tag_names`. [W]
        tag_names: The tags that occur, sorted.
        sentence_offsets: Sentence i has the words from `sentence_offsets[i]` to `sentence_offsets[i + 1]`. [N + 1]
        repaired_tags: How many tags the reader had to repair.
    """

    tokens: Ragged
    gold: list[list[str]]
    first: np.ndarray
    tags: np.ndarray
    tag_names: tuple[str, ...]
    sentence_offsets: np.ndarray
    repaired_tags: int
    ids: None = None


@dataclass(frozen=True)
class TokenClassification:
    """A tagging task; fulfils `raylab.tasks.base.Task`.

    Every word is scored. One that the tokenizer drops (it has no subword: some invisible characters) or whose first
    subword lies beyond the longest sequence gets the fallback: `outside` where the task has such a tag, else the
    training set's most frequent tag.

    Attributes:
        name: Name of the task.
        metrics: Names of what `score` returns, the main one first.
        reader: The reader of the task's files.
        scorer: From right and predicted tags of each sentence to metrics, in percent.
        outside: The tag of words that are nothing, if the task has one.
    """

    name: str
    metrics: tuple[str, ...]
    reader: Callable[[Path | Labelled], list[Sentence]]
    scorer: Callable[[list[list[str]], list[list[str]]], dict[str, float]]
    outside: str | None = None

    def read(self, dataset: Path | Labelled) -> list[Sentence]:
        """Read a labelled file, or the part of one; a part is chosen by the words of its sentences."""
        return Labelled.of(dataset).share(self.reader(dataset), lambda sentence: sentence.words)

    def features(
        self, examples: list[Sentence], tokenizer: Tokenizer, max_length: int, stride: int = 0
    ) -> TokenFeatures:
        """Tokenize sentences, each cut to `max_length` tokens with its special ones.

        Args:
            examples: Sentences with at least one word each.
            tokenizer: The tokenizer of the encoder.
            max_length: Longest sequence in tokens.
            stride: Nothing: a sentence has no windows.

        Raises:
            InputError: `max_length` leaves no room for a subword.
        """
        room = room_for_text(max_length, tokenizer.begin, tokenizer.end)
        vocabulary = list({word: None for sentence in examples for word in sentence.words})
        pieces = dict(zip(vocabulary, tokenizer.encode_words(vocabulary), strict=True))
        pieces_of_words = [pieces[word] for sentence in examples for word in sentence.words]
        words_per_sentence = np.array([len(sentence.words) for sentence in examples], dtype=np.int64)  # [N]
        pieces_per_word = np.fromiter(map(len, pieces_of_words), dtype=np.int64, count=len(pieces_of_words))  # [W]
        tokens, first = _lay_out(
            np.fromiter(chain.from_iterable(pieces_of_words), dtype=np.int64, count=int(pieces_per_word.sum())),
            pieces_per_word,
            words_per_sentence,
            room,
            tokenizer.begin,
            tokenizer.end,
        )
        tag_names = sorted({tag for sentence in examples for tag in sentence.tags})
        index = {name: i for i, name in enumerate(tag_names)}
        return TokenFeatures(
            tokens=tokens,
            gold=[list(sentence.tags) for sentence in examples],
            first=first,
            tags=np.array([index[tag] for sentence in examples for tag in sentence.tags], dtype=np.int64),
            tag_names=tuple(tag_names),
            sentence_offsets=offsets_of(words_per_sentence),
            repaired_tags=sum(sentence.repaired for sentence in examples),
        )

    def labels(self, train: TokenFeatures) -> Labels:
        """The training set's tags, sorted, and the fallback."""
        most_frequent = train.tag_names[int(np.bincount(train.tags).argmax())]
        return Labels(train.tag_names, self.outside if self.outside is not None else most_frequent)

    def targets(self, features: TokenFeatures, labels: Labels) -> Ragged:
        """A word's label at its first subword; ignored at its others, and where training knows no such tag."""
        index = {name: i for i, name in enumerate(labels.names)}
        label_of_tag = np.array([index.get(name, IGNORED) for name in features.tag_names], dtype=np.int64)
        values = np.full(len(features.tokens.values), IGNORED, dtype=np.int64)
        seen = features.first >= 0  # [W]
        values[features.first[seen]] = label_of_tag[features.tags[seen]]
        return Ragged(values, features.tokens.offsets)

    def counts(self, features: TokenFeatures, labels: Labels) -> dict[str, int]:
        """Sentences and words; words dropped by the tokenizer, cut off, of a tag that training lacks; tags repaired."""
        occurrences = dict(zip(features.tag_names, np.bincount(features.tags).tolist(), strict=True))
        unknown = {tag: count for tag, count in occurrences.items() if tag not in labels.names}
        return {
            "sentences": len(features.tokens),
            "words": len(features.first),
            "dropped_words": int((features.first == _DROPPED).sum()),
            "cut_words": int((features.first == _CUT).sum()),
            "unknown_tags": sum(unknown.values()),
            **{f"unknown_tags/{tag}": count for tag, count in unknown.items()},
            "repaired_tags": features.repaired_tags,
        }

    def head(self, dim: int, labels: Labels, dropout: float) -> nn.Module:
        """A linear layer over every token."""
        from raylab.tasks.heads import TokenHead  # torch is slow to import

        return TokenHead(dim, len(labels.names), dropout)

    def loss(self, logits: Tensor, targets: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over the labelled tokens.

        Args:
            logits: [B, T, labels]
            targets: [B, T]
            attention_mask: Nothing: no padding has a target.
        """
        from torch.nn import functional

        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    def score(self, gold: list[list[str]], predicted: list[list[str]], language: str) -> dict[str, float]:
        """The metrics, in percent; the same in every language."""
        return self.scorer(gold, predicted)

    def predict(
        self, outputs: Iterable[tuple[np.ndarray, Tensor]], features: TokenFeatures, labels: Labels
    ) -> list[list[str]]:
        """The best label at each word's first subword; the fallback for words without one."""
        best = np.empty(len(features.tokens.values), dtype=np.int64)
        for rows, logits in outputs:
            positions, inside = features.tokens.positions(rows)
            best[positions[inside]] = logits.argmax(-1).cpu().numpy()[inside]
        chosen = np.where(features.first >= 0, best[features.first], len(labels.names))  # [W]
        names = np.array([*labels.names, labels.fallback], dtype=object)
        return split_by_offsets(names[chosen].tolist(), features.sentence_offsets)


def _lay_out(
    pieces: np.ndarray,
    pieces_per_word: np.ndarray,
    words_per_sentence: np.ndarray,
    room: int,
    begin: tuple[int, ...],
    end: tuple[int, ...],
) -> tuple[Ragged, np.ndarray]:
    """Lay the pieces of words out as sequences of at most `room` pieces between special tokens.

    Args:
        pieces: Pieces of all words, flat. [P]
        pieces_per_word: [W]
        words_per_sentence: [N], all positive
        room: Most pieces in a sequence.
        begin: Tokens before them.
        end: Tokens behind them.

    Returns:
        The sequences, and where each word's first piece is in them, or `_CUT` or `_DROPPED`. [W]
    """
    word_start = offsets_of(pieces_per_word)  # [W + 1] in pieces
    sentences = word_start[offsets_of(words_per_sentence)]  # [N + 1] in pieces
    kept = np.minimum(np.diff(sentences), room)  # [N]
    tokens, (begins,) = join(begin, Stretches(pieces, sentences[:-1], kept), end)

    sentence_of_word = np.repeat(np.arange(len(kept)), words_per_sentence)  # [W]
    place_of_word = word_start[:-1] - sentences[sentence_of_word]  # [W] of its first piece
    first = np.where(place_of_word < room, begins[sentence_of_word] + place_of_word, _CUT)
    return tokens, np.where(pieces_per_word > 0, first, _DROPPED)
