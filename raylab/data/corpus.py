"""Text files to sentences, in blocks, and the splits that a sentence's content puts it in.

Nothing here holds a whole corpus: memory grows with the valid split (8 bytes a sentence) and the subsample alone.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raylab.errors import InputError

SPLITS = ("train", "meta", "valid")

InvalidUtf8 = Literal["stop", "skip"]
_BLOCK_BYTES = 1 << 18  # what a core's cache holds: SentencePiece is a tenth slower on larger blocks
# Independent random numbers of one sentence, all from one hash of its content; columns of `_content_numbers`.
_IDENTITY, _META, _SUBSAMPLE, _TOKENIZER = range(4)


@dataclass
class Reading:
    """Running totals of one pass over text.

    Attributes:
        bytes: Bytes read so far.
        skipped_lines: Lines left out because they are not UTF-8.
        dropped_duplicates: Training sentences left out because they also stand in the valid split.
    """

    bytes: int = 0
    skipped_lines: int = 0
    dropped_duplicates: int = 0


def read_blocks(
    path: Path, *, invalid_utf8: InvalidUtf8 = "stop", reading: Reading | None = None
) -> Iterator[list[str]]:
    """The sentences of a text file, about 256 KiB at a time.

    Args:
        path: One sentence a line, UTF-8; a byte order mark, blank lines and white space around a line are dropped.
        invalid_utf8: On a line that is not UTF-8: stop, or skip and count it.
        reading: Totals to add to.

    Raises:
        InputError: The file is missing, has a line that is not UTF-8 (if `stop`), or holds no sentence.
    """
    reading = reading if reading is not None else Reading()
    skipped_before = reading.skipped_lines
    line_number, empty = 1, True
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise InputError.at(path, None, "no such file; text, one sentence a line, is expected") from None
    with stream:
        while text := stream.read(_BLOCK_BYTES):
            text += stream.readline()
            reading.bytes += len(text)
            if line_number == 1:
                text = text.removeprefix(codecs.BOM_UTF8)
            try:
                decoded = text.decode().split("\n")
            except UnicodeDecodeError:
                decoded = _decode_lines(path, line_number, text.split(b"\n"), invalid_utf8, reading)
            line_number += text.count(b"\n")
            if block := [sentence for sentence in map(str.strip, decoded) if sentence]:
                empty = False
                yield block
    if empty:
        skipped = reading.skipped_lines - skipped_before
        reason = f"all {skipped} lines with text are not UTF-8" if skipped else "the file is empty"
        raise InputError.at(path, None, f"no sentence found: {reason}; one sentence a line, UTF-8, is expected")


def _decode_lines(path: Path, first: int, lines: list[bytes], invalid_utf8: InvalidUtf8, reading: Reading) -> list[str]:
    decoded = []
    for number, line in enumerate(lines, first):
        try:
            decoded.append(line.decode())
        except UnicodeDecodeError as error:
            if invalid_utf8 == "stop":
                byte = f"byte 0x{line[error.start]:02x} at position {error.start + 1} of the line"
                remedy = "re-encode the file as UTF-8, or set data.invalid_utf8: skip"
                raise InputError.at(path, number, f"{byte} is not UTF-8 ({error.reason}); {remedy}") from None
            reading.skipped_lines += 1
    return decoded


def read_sentences(path: Path, *, invalid_utf8: InvalidUtf8 = "stop", reading: Reading | None = None) -> Iterator[str]:
    """The sentences of a text file, one by one; arguments and errors as `read_blocks`."""
    return chain.from_iterable(read_blocks(path, invalid_utf8=invalid_utf8, reading=reading))


def _content_numbers(sentences: list[str]) -> NDArray[np.uint64]:
    """Four 64-bit random numbers a sentence [n, 4], from its content alone."""
    digests = [hashlib.blake2b(sentence, digest_size=32).digest() for sentence in map(str.encode, sentences)]
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 4)


def _below(numbers: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Whether each number falls into the lowest `share` (0 to 1) of all 64-bit numbers."""
    return (numbers >> np.uint64(11)) * 2.0**-53 < share


def split_meta(sentence: str, fraction: float) -> bool:
    """Whether a training sentence is held out as part of the `meta` split: decided by its content alone.

    Args:
        sentence: Without white space around it, as `read_blocks` gives it.
        fraction: Share of the distinct sentences to hold out, from 0 to 1; a larger one holds out the same and more.
    """
    return bool(_below(_content_numbers([sentence])[0, _META], fraction))


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

    def blocks(self, reading: Reading | None = None) -> Iterator[tuple[str, list[str]]]:
        """The sentences of all splits, about 256 KiB at a time; within a split they are in the file's order.

        Args:
            reading: Totals to add to.

        Yields:
            (split, sentences).

        Raises:
            InputError: As `read_blocks`; or no sentence is left to train on.
        """
        reading = reading if reading is not None else Reading()
        for sentences, _, meta in self._kept(reading):
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
                chosen = ~meta & _below(numbers[:, _TOKENIZER], share_of_copy)
                yield from compress(sentences, chosen.tolist())

    def _kept(self, reading: Reading) -> Iterator[tuple[list[str], NDArray[np.uint64], NDArray[np.bool_]]]:
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
                meta = _below(numbers[:, _META], self._meta_fraction)
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
    identities = [_content_numbers(block)[:, _IDENTITY] for block in read_blocks(valid, invalid_utf8=invalid_utf8)]
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
