"""Sentences to what a token store holds, faster than the tokenizer alone where words are encoded apart."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylab.data.store import token_type
from raylab.data.tokenizer import SentencePieceTokenizer, Tokenizer

Tokens = tuple[NDArray[Any], NDArray[np.int64]]
"""Tokens of sentences in one array, `eos_id` behind each sentence; and each one's number of tokens, with that."""

_CACHE_BYTES = 64 << 20  # of words, their tokens and what Python needs for them, about
_ENTRY_BYTES = 200
_SPACE = "▁"  # SentencePiece's mark of a space


class StoreEncoder:
    """Encodes sentences for a token store.

    Where a tokenizer splits text at spaces and encodes each word by itself, which BPE models of SentencePiece do as
    they are trained by default, the tokens of a word are remembered: natural text repeats most of its words. Other
    tokenizers encode every sentence.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._type = token_type(tokenizer.vocab_size)
        self._by_words = encodes_words_apart(tokenizer)
        self._end = array(self._type.char, [tokenizer.eos_id]).tobytes()
        self._forget()

    def encode_all(
        self, blocks: Iterable[tuple[str, list[bytes]]], num_threads: int = 1
    ) -> Iterator[tuple[str, Tokens]]:
        """What `encode` gives for each block of sentences, beside its name.

        Each thread encodes a block: most of that is work of libraries, for which other threads need not wait.
        """
        if num_threads == 1:
            for name, sentences in blocks:
                yield name, self.encode(sentences)
            return
        with ThreadPoolExecutor(num_threads) as pool:
            waiting: deque[tuple[str, Future[Tokens]]] = deque()
            for name, sentences in blocks:
                waiting.append((name, pool.submit(self.encode, sentences)))
                if len(waiting) > 2 * num_threads:
                    before, tokens = waiting.popleft()
                    yield before, tokens.result()
            for before, tokens in waiting:
                yield before, tokens.result()

    def encode(self, sentences: Sequence[bytes]) -> Tokens:
        """The tokens of sentences, given in UTF-8, without line ends."""
        tokens = self._encode_words(sentences) if self._by_words else self._encode(sentences)
        ends = np.flatnonzero(tokens == self._tokenizer.eos_id)
        assert len(ends) == len(sentences)
        return tokens, np.diff(ends, prepend=-1)

    def _encode_words(self, sentences: Sequence[bytes]) -> NDArray[Any]:
        # A word has the space before it, and a line end is a word of its own: so the words of a text lie end to end.
        text = b" %b\n" % b"\n ".join(sentences) if sentences else b""
        codes = np.frombuffer(text, np.uint8)
        starts = np.flatnonzero((codes == 0x20) | (codes == 0x0A))
        words = _binary_array(np.append(starts, len(text)), text).dictionary_encode()
        tokens = self._tokens_of(words.dictionary.to_pylist())
        ends = np.cumsum(np.fromiter(map(len, tokens), np.int64, len(tokens)))
        chosen = _binary_array(np.append(0, ends), b"".join(tokens)).take(words.indices)
        _, bounds, data = chosen.buffers()
        return np.frombuffer(data, self._type, np.frombuffer(bounds, np.int32)[len(chosen)] // self._type.itemsize)

    def _tokens_of(self, words: list[bytes]) -> list[bytes]:
        """The tokens of distinct words."""
        found = list(map(self._words.get, words))
        new = [word for word, tokens in zip(words, found, strict=True) if tokens is None]
        learned = iter(self._learn(new) if new else ())
        return [next(learned) if tokens is None else tokens for tokens in found]

    def _learn(self, new: list[bytes]) -> list[bytes]:
        ids = self._encode(new)
        ends = np.flatnonzero(ids == self._tokenizer.eos_id).tolist()
        data, size = ids.tobytes(), self._type.itemsize
        tokens = [data[size * start + size : size * end] for start, end in pairwise([-1, *ends])]
        if self._size > _CACHE_BYTES:
            self._forget()
        self._words.update(zip(new, tokens, strict=True))
        self._size += sum(map(len, new)) + _ENTRY_BYTES * len(new)
        return tokens

    def _forget(self) -> None:
        self._words, self._size = {b"\n": self._end}, 0

    def _encode(self, texts: Sequence[bytes]) -> NDArray[Any]:
        return self._tokenizer.encode_joined(texts).astype(self._type)


def _binary_array(bounds: NDArray[np.int64], data: bytes) -> Any:
    """An array of Arrow's of byte strings that lie end to end."""
    buffers = [None, pa.py_buffer(bounds.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), len(bounds) - 1, buffers)


def encodes_words_apart(tokenizer: Tokenizer) -> bool:
    """Whether a text's tokens are those of its words, one after the other, if it is split at spaces."""
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return False
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto.FromString(tokenizer.path.read_bytes())
    return (
        # A unigram model adds up rounded scores over a whole sentence, and so decides a tie within a word otherwise.
        model.trainer_spec.model_type == model.trainer_spec.BPE
        and model.normalizer_spec.add_dummy_prefix
        and model.normalizer_spec.remove_extra_whitespaces
        and model.normalizer_spec.escape_whitespaces
        and any(piece.piece == _SPACE for piece in model.pieces)  # else a space may join a run of unknown characters
        and not any(_SPACE in piece.piece[1:] or " " in piece.piece for piece in model.pieces)
        # Text may have the mark itself: where normalization keeps it, a word loses it at its end, a sentence does not.
        and tokenizer.encode(f"{_SPACE} {_SPACE}a") == [*tokenizer.encode(_SPACE), *tokenizer.encode(f"{_SPACE}a")]
    )
