"""Token stores: a split's sentences as token ids in one Arrow IPC file, written in a stream and read by memory map.

The file has one column, `tokens`, a list a sentence that ends in </s>; the values of a record batch lie in one piece,
so the whole split reads as one run of tokens: sentence, </s>, sentence, </s>, ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylab.atomic import atomic_path

_CHUNK_TOKENS = 1 << 20
_ROWS_AT_ONCE = 4096


def token_type(vocab_size: int) -> np.dtype[Any]:
    """What a token takes in a store: up to 65,536 ids two bytes, else four."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


@dataclass
class TokenCounts:
    """What was written.

    Attributes:
        sentences: Sentences, the empty ones included.
        tokens: Tokens, with one </s> a sentence.
        frequencies: How often each id [vocab_size] stands in the store.
    """

    sentences: int
    tokens: int
    frequencies: NDArray[np.int64]


class TokenWriter:
    """Writes sentences to an open token store; made by `open_writer`.

    Attributes:
        counts: What was written so far.
    """

    def __init__(self, sink: pa.OSFile, *, vocab_size: int, end_id: int) -> None:
        self.counts = TokenCounts(sentences=0, tokens=0, frequencies=np.zeros(vocab_size, dtype=np.int64))
        self._end_id = end_id
        self._dtype = token_type(vocab_size)
        self._type = pa.list_(pa.field("item", pa.from_numpy_dtype(self._dtype), nullable=False))
        self._schema = pa.schema([pa.field("tokens", self._type, nullable=False)])
        self._file = pa.ipc.new_file(sink, self._schema)
        self._tokens: list[NDArray[Any]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._waiting = 0

    def write(self, sentences: Sequence[Sequence[int]]) -> None:
        """Append sentences, given as ids without </s>."""
        lengths = np.fromiter(map(len, sentences), np.int64, len(sentences)) + 1
        tokens = np.full(int(lengths.sum()), self._end_id, dtype=self._dtype)
        inside = np.ones(len(tokens), dtype=bool)
        inside[np.cumsum(lengths) - 1] = False
        tokens[inside] = np.fromiter(chain.from_iterable(sentences), self._dtype, len(tokens) - len(sentences))
        self.write_joined(tokens, lengths)

    def write_joined(self, tokens: NDArray[Any], lengths: NDArray[np.int64]) -> None:
        """Append sentences, given as one run of ids with </s> behind each, and the length of each with it."""
        tokens = tokens.astype(self._dtype, copy=False)
        self.counts.frequencies += np.bincount(tokens, minlength=len(self.counts.frequencies))
        self.counts.sentences += len(lengths)
        self.counts.tokens += len(tokens)
        self._tokens.append(tokens)
        self._lengths.append(lengths)
        self._waiting += len(tokens)
        if self._waiting >= _CHUNK_TOKENS:
            self._write_batch()

    def close(self) -> None:
        """Write what waits, and the file's footer."""
        if self._waiting:
            self._write_batch()
        self._file.close()

    def _write_batch(self) -> None:
        lengths = np.concatenate(self._lengths)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        rows = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(self._tokens)), type=self._type)
        self._file.write_batch(pa.record_batch([rows], schema=self._schema))
        self._tokens, self._lengths, self._waiting = [], [], 0


@contextmanager
def open_writer(path: Path, *, vocab_size: int, end_id: int) -> Iterator[TokenWriter]:
    """A new token store to write to; it takes its name when the block ends well.

    Args:
        path: The file to write.
        vocab_size: Ids are below it; up to 65,536 they take two bytes each, else four.
        end_id: Id of </s>.
    """
    with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        writer = TokenWriter(sink, vocab_size=vocab_size, end_id=end_id)
        yield writer
        writer.close()


def write_tokens(path: Path, sentences: Iterable[Sequence[int]], *, vocab_size: int, end_id: int) -> TokenCounts:
    """Write sentences, given as ids without </s>, to a token store; arguments as `open_writer`."""
    with open_writer(path, vocab_size=vocab_size, end_id=end_id) as writer:
        remaining = iter(sentences)
        while rows := list(islice(remaining, _ROWS_AT_ONCE)):
            writer.write(rows)
    return writer.counts


class TokenStore:
    """One split's tokens, memory-mapped.

    Attributes:
        path: The file.
        num_sentences: Sentences in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self.num_sentences = sum(batch.num_rows for batch in batches)
        self._chunks = [batch.column(0).values.to_numpy(zero_copy_only=True) for batch in batches]
        self._starts = np.cumsum([0, *map(len, self._chunks)])  # of each chunk, and the end of the last

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, count: int) -> NDArray[np.unsignedinteger]:
        """The `count` tokens from `start` on, as one read-only or new array of uint16 or uint32.

        Raises:
            ValueError: They are not all in the store.
        """
        if start < 0 or count < 0 or start + count > len(self):
            raise ValueError(f"tokens {start} to {start + count} of {self.path}, which has {len(self)}")
        parts = []
        chunk = int(np.searchsorted(self._starts, start, side="right")) - 1
        while count > 0:
            begin = start - int(self._starts[chunk])
            part = self._chunks[chunk][begin : begin + count]
            parts.append(part)
            start, count, chunk = start + len(part), count - len(part), chunk + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint16)

    def windows(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Equally long runs of tokens [len(starts), length]; what runs past the end goes on from the beginning.

        Args:
            starts: Where each begins, below `len(self)`.
            length: Tokens of each run.
        """
        windows = np.empty((len(starts), length), dtype=np.int64)
        chunks = np.searchsorted(self._starts, starts, side="right") - 1
        begins = starts - self._starts[chunks]
        for window, start, chunk, begin in zip(windows, starts.tolist(), chunks.tolist(), begins.tolist(), strict=True):
            part = self._chunks[chunk][begin : begin + length]
            window[:] = part if len(part) == length else self._read_around(start, length)
        return windows

    def _read_around(self, start: int, count: int) -> NDArray[np.unsignedinteger]:
        before_end = min(count, len(self) - start)
        turns, rest = divmod(count - before_end, len(self))
        return np.concatenate([self.read(start, before_end), *[self.read(0, len(self))] * turns, self.read(0, rest)])
