"""Sentences to what a token store holds, several times as fast as the tokenizer alone where words are encoded apart."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
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
        self._end = array(self._type.char, [tokenizer.eos_id]).tobytes()
        self._by_words = encodes_words_apart(tokenizer)
        self._takes_bytes = isinstance(tokenizer, SentencePieceTokenizer)
        self._words: dict[bytes, bytes] = {}
        self._size = 0

    def encode_all(
        self, blocks: Iterable[tuple[str, list[bytes]]], num_threads: int = 1
    ) -> Iterator[tuple[str, Tokens]]:
        """What `encode` gives for each block of sentences, beside its name.

        Where the tokenizer does all the work, which needs no Python, it encodes a block while the caller deals with the
        one before, and the one after is read.
        """
        if self._by_words:
            for name, sentences in blocks:
                yield name, self.encode(sentences, num_threads)
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            waiting: deque[tuple[str, Future[Tokens]]] = deque()
            for name, sentences in blocks:
                waiting.append((name, pool.submit(self.encode, sentences, num_threads)))
                if len(waiting) > 1:
                    before, tokens = waiting.popleft()
                    yield before, tokens.result()
            for before, tokens in waiting:
                yield before, tokens.result()

    def encode(self, sentences: Sequence[bytes], num_threads: int = 1) -> Tokens:
        """The tokens of sentences.

        Args:
            sentences: In UTF-8, without line ends.
            num_threads: Threads of the tokenizer, for what is not remembered.
        """
        if not self._by_words:
            return self._encode_sentences(sentences, num_threads)
        words = b" \n ".join([*sentences, b""]).split(b" ") if sentences else []
        new = set(words).difference(self._words)
        if new:
            self._learn(list(new), words, num_threads)
        tokens = np.frombuffer(b"".join(map(self._words.__getitem__, words)), self._type)
        ends = np.flatnonzero(tokens == self._tokenizer.eos_id)
        assert len(ends) == len(sentences)
        return tokens, np.diff(ends, prepend=-1)

    def _learn(self, new: list[bytes], words: list[bytes], num_threads: int) -> None:
        if self._size > _CACHE_BYTES:
            self._words, self._size = {}, 0
            new = list(set(words))
        self._size += sum(map(len, new)) + _ENTRY_BYTES * len(new)
        ids = self._tokenizer.encode_batch(list(map(bytes.decode, new)), num_threads=num_threads)
        kind = self._type.char
        self._words.update(zip(new, [array(kind, row).tobytes() for row in ids], strict=True))
        self._words[b"\n"] = self._end

    def _encode_sentences(self, sentences: Sequence[bytes], num_threads: int) -> Tokens:
        texts: Any = sentences if self._takes_bytes else list(map(bytes.decode, sentences))
        ids = self._tokenizer.encode_batch(texts, num_threads=num_threads)
        for row in ids:
            row.append(self._tokenizer.eos_id)
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), self._type, int(lengths.sum())), lengths


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
