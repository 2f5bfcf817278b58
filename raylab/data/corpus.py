"""Text files to sentences, in blocks, and the splits that a sentence's content puts it in.

Nothing here holds a whole corpus: memory grows with the valid split (8 bytes a sentence) and the subsample alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from raylab.data.location import reach
from raylab.data.readers import InvalidUtf8, Reading, read_lines
from raylab.errors import InputError

SPLITS = ("train", "meta", "valid")

_IDENTITY, _SUBSAMPLE = range(2)  # columns of `_content_numbers`


def read_blocks(
    path: Path, *, invalid_utf8: InvalidUtf8 = "stop", reading: Reading | None = None
) -> Iterator[list[bytes]]:
    """The sentences of a text file, in UTF-8, about 1 MiB at a time.

    Args:
        path: One sentence a line, UTF-8; a byte order mark, blank lines and white space around a line are dropped.
        invalid_utf8: On a line that is not UTF-8: stop, or skip and count it.
        reading: Totals to add to.

    Raises:
        InputError: The file cannot be read, has a line that is not UTF-8 (if `stop`) or too long, or holds no sentence.
    """
    reading = reading if reading is not None else Reading()
    skipped_before, empty = reading.skipped_lines, True
    with reach(str(path), lambda: path.open("rb")) as stream:
        for block in read_lines(stream, str(path), invalid_utf8=invalid_utf8, reading=reading):
            empty = False
            yield block
    if empty:
        skipped = reading.skipped_lines - skipped_before
        reason = f"all {skipped} lines with text are not UTF-8" if skipped else "the file is empty"
        raise InputError.at(path, None, f"no sentence found: {reason}; one sentence a line, UTF-8, is expected")


def read_sentences(path: Path, *, invalid_utf8: InvalidUtf8 = "stop", reading: Reading | None = None) -> Iterator[str]:
    """The sentences of a text file, one by one; arguments and errors as `read_blocks`."""
    blocks = read_blocks(path, invalid_utf8=invalid_utf8, reading=reading)
    return map(bytes.decode, chain.from_iterable(blocks))


def _content_numbers(sentences: list[bytes]) -> NDArray[np.uint64]:
    """Two independent 64-bit random numbers a sentence [n, 2], from its content alone and equal on all machines."""
    digests = b"".join(map(xxhash.xxh3_128_digest, sentences))
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _in_meta(numbers: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Whether each sentence falls into a share (0 to 1) of all, by one half of its identity."""
    return (numbers[:, _IDENTITY] >> np.uint64(32)) * 2.0**-32 < fraction


def _in_tokenizer_sample(numbers: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """As `_in_meta`, by the other half, and so independent of it."""
    return (numbers[:, _IDENTITY] & np.uint64(2**32 - 1)) * 2.0**-32 < share


def split_meta(sentence: str, fraction: float) -> bool:
    """Whether a training sentence is held out as part of the `meta` split: decided by its content alone.

    Args:
        sentence: Without white space around it, as `read_blocks` gives it.
        fraction: Share of the distinct sentences to hold out, from 0 to 1; a larger one holds out the same and more.
    """
    return bool(_in_meta(_content_numbers([sentence.encode()]), fraction)[0])


@dataclass(frozen=True)
class _Subsample:
    """The n sentences of smallest number, the earlier first among equals.

    Attributes:
        limit: The largest number among them.
        ties: How many of them have that number.
        share: Of all sentences.
    """

    limit: int
    ties: int
    share: float


@dataclass(frozen=True)
class Corpus:
    """One language's training text, cut into `train` and `meta` and kept apart from `valid`, all by content.

    Make one with `open_corpus`.

    Attributes:
        train: The training text.
        valid: The valid text.
    """

    train: Path
    valid: Path
    _held_out: NDArray[np.uint64]  # identities of the valid sentences, sorted
    _subsample: _Subsample | None
    _meta_fraction: float
    _invalid_utf8: InvalidUtf8

    @property
    def train_size(self) -> int:
        """Bytes of what is kept of the training text, estimated from the share of its sentences."""
        return round(self.train.stat().st_size * (self._subsample.share if self._subsample else 1))

    @property
    def size(self) -> int:
        """Bytes of the files: what `blocks` reads."""
        return self.train.stat().st_size + self.valid.stat().st_size

    def blocks(self, reading: Reading | None = None) -> Iterator[tuple[str, list[bytes]]]:
        """The sentences of all splits, in UTF-8, about 1 MiB at a time; within a split they are in the file's order.

        Args:
            reading: Totals to add to.

        Yields:
            (split, sentences).

        Raises:
            InputError: As `read_blocks`; or no sentence is left to train on.
        """
        reading = reading if reading is not None else Reading()
        for sentences, _, meta in self._kept(reading):
            if not meta.any():
                yield "train", sentences
                continue
            yield "train", list(compress(sentences, (~meta).tolist()))
            yield "meta", list(compress(sentences, meta.tolist()))
        for sentences in read_blocks(self.valid, invalid_utf8=self._invalid_utf8, reading=reading):
            yield "valid", sentences

    def tokenizer_sample(self, share: float) -> Iterator[str]:
        """Sentences of the train split to train a tokenizer on.

        Args:
            share: How much of it to take: 2.5 takes every sentence twice and half of them, by content, once more.

        Raises:
            InputError: As `blocks`.
        """
        for share_of_copy in [1.0] * int(share) + [share % 1.0]:
            for sentences, numbers, meta in self._kept(Reading()):
                chosen = ~meta & _in_tokenizer_sample(numbers, share_of_copy)
                yield from map(bytes.decode, compress(sentences, chosen.tolist()))

    def _kept(self, reading: Reading) -> Iterator[tuple[list[bytes], NDArray[np.uint64], NDArray[np.bool_]]]:
        """Blocks of sentences, their content numbers, and whether each is of the meta split."""
        ties = self._subsample.ties if self._subsample else 0
        kept_sentences = train_sentences = 0
        for sentences in read_blocks(self.train, invalid_utf8=self._invalid_utf8, reading=reading):
            numbers = _content_numbers(sentences)
            new = ~_contains(self._held_out, numbers[:, _IDENTITY])
            reading.dropped_duplicates += len(new) - int(new.sum())
            keep = new
            if self._subsample:
                tied = new & (numbers[:, _SUBSAMPLE] == np.uint64(self._subsample.limit))
                tied &= np.cumsum(tied) <= ties
                ties -= int(tied.sum())
                keep = tied | (new & (numbers[:, _SUBSAMPLE] < np.uint64(self._subsample.limit)))
            if not keep.all():
                sentences, numbers = list(compress(sentences, keep.tolist())), numbers[keep]
            if sentences:
                meta = _in_meta(numbers, self._meta_fraction)
                kept_sentences += len(sentences)
                train_sentences += len(sentences) - int(meta.sum())
                yield sentences, numbers, meta
        if train_sentences == 0:
            reason = (
                f"all {kept_sentences} fell to the meta split; lower data.meta_fraction or give more text"
                if kept_sentences
                else f"all {reading.dropped_duplicates} also stand in valid.txt; the two must differ"
            )
            raise InputError.at(self.train, None, f"no sentence is left to train on: {reason}")


def open_corpus(
    train: Path,
    valid: Path,
    *,
    subsample: int | None = None,
    meta_fraction: float = 0.0,
    invalid_utf8: InvalidUtf8 = "stop",
) -> Corpus:
    """Read what is needed to decide the splits of one language: the valid text and, for a subsample, the training text.

    Args:
        train: Training text. A sentence that also stands in `valid` is dropped from it.
        valid: Text that is held out.
        subsample: Most training sentences to keep, `meta` included; a smaller subsample is part of a larger one.
        meta_fraction: Share of the kept sentences that is the `meta` split, from 0 to 1. Equal ones stay together.
        invalid_utf8: On a line that is not UTF-8: stop, or skip and count it.

    Raises:
        InputError: As `read_blocks`.
    """
    blocks = read_blocks(valid, invalid_utf8=invalid_utf8)
    identities = [_content_numbers(block)[:, _IDENTITY] for block in blocks]
    held_out = np.unique(np.concatenate(identities))
    chosen = None if subsample is None else _choose_subsample(train, held_out, subsample, invalid_utf8)
    return Corpus(train, valid, held_out, chosen, meta_fraction, invalid_utf8)


def _choose_subsample(
    train: Path, held_out: NDArray[np.uint64], count: int, invalid_utf8: InvalidUtf8
) -> _Subsample | None:
    """The subsample, or None where the text has no more than that."""
    total, limit = 0, np.uint64(2**64 - 1)
    smallest = np.empty(0, dtype=np.uint64)  # holds the `count` smallest so far, and at most as many and a block more
    for sentences in read_blocks(train, invalid_utf8=invalid_utf8):
        numbers = _content_numbers(sentences)
        candidates = numbers[~_contains(held_out, numbers[:, _IDENTITY]), _SUBSAMPLE]
        total += len(candidates)
        smallest = np.concatenate([smallest, candidates[candidates < limit]])
        if len(smallest) >= 2 * count:
            smallest = np.partition(smallest, count - 1)[:count]
            limit = smallest.max()
    if total <= count:
        return None
    smallest = np.partition(smallest, count - 1)[:count]
    limit = smallest.max()
    return _Subsample(limit=int(limit), ties=int((smallest == limit).sum()), share=count / total)


def _contains(sorted_numbers: NDArray[np.uint64], numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
    places = np.searchsorted(sorted_numbers, numbers)
    return sorted_numbers[np.minimum(places, len(sorted_numbers) - 1)] == numbers
