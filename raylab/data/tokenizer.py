"""Subword tokenizers: SentencePiece models, trained here or found, and Hugging Face's.

Of SentencePiece (Kudo and Richardson 2018), BPE (Sennrich et al. 2016) and unigram (Kudo 2018) models are trained.
"""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from raylab.atomic import atomic_path
from raylab.errors import InputError

SPECIAL_PIECES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")  # in a model trained here, their ids are their places here

ModelType = Literal["bpe", "unigram"]
Span = tuple[int, int]

_TRAINING_THREADS = 2  # fixed: the model file records it, and equal text must give equal files
_LONGEST_SENTENCE = 1 << 16  # bytes; what is longer is not a sentence, and a word so long would stall the merges
_WORD_START = ("▁", "Ġ")  # at the start of a word: SentencePiece's mark, and byte-level BPE's
_WORD_INSIDE = "##"  # WordPiece marks the others instead
_WORD_END = "</w>"  # XLM's, which marks the last piece of a word instead of the first
_MOST_TOKENIZERS = 16  # kept open
_TEXTS_AT_ONCE = 4096  # what Hugging Face's library says of a text takes a kilobyte and more


def train_tokenizer(
    sentences: Iterable[str],
    model_path: Path,
    vocab_size: int,
    *,
    model_type: ModelType = "bpe",
    character_coverage: float = 0.9998,
    text_name: str = "the training text",
) -> None:
    """Train a tokenizer and write its model file. Equal sentences in equal order give equal files.

    Args:
        sentences: Training text; held in memory by SentencePiece. What is longer than 64 KiB is left out.
        model_path: The file to write.
        vocab_size: Pieces, the five special ones included.
        model_type: How pieces are found.
        character_coverage: Share of the text's characters that get a piece; the rarest others become <unk>.
        text_name: What error messages call the sentences.

    Raises:
        InputError: The vocabulary is larger than the text supports, or too small for its characters; the message says
            the largest, or smallest, that would do. Or there is no text. Errors of `sentences` pass through.
    """
    failure: Exception | None = None

    def guarded() -> Iterator[str]:
        nonlocal failure
        try:
            yield from sentences
        except Exception as error:  # SentencePiece would turn it into a RuntimeError of its own
            failure = error
            raise

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=guarded(),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            max_sentence_length=_LONGEST_SENTENCE,
            num_threads=_TRAINING_THREADS,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece="<pad>",
            control_symbols=["<mask>"],  # takes the first free id; is never read from text
            minloglevel=2,
        )
    except RuntimeError as error:
        if failure is not None:
            raise failure from None
        raise _input_error(str(error), vocab_size, text_name) or error from None
    with atomic_path(model_path) as temporary:
        temporary.write_bytes(model.getvalue())


def _input_error(message: str, vocab_size: int, text_name: str) -> InputError | None:
    """What a failure of SentencePiece says about the input, or None where it is no fault of the input."""
    if vocab_size < len(SPECIAL_PIECES):
        return InputError(f"data.vocab_size: {vocab_size} does not even hold the {len(SPECIAL_PIECES)} special pieces")
    if found := re.search(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)", message):
        return InputError(
            f"data.vocab_size: {vocab_size} pieces are more than {text_name} supports; at most {found[1]} would do"
        )
    if found := re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", message):
        return InputError(
            f"data.vocab_size: {vocab_size} pieces are too few for the characters of {text_name}; "
            f"at least {found[1]} are needed"
        )
    if "!sentences_.empty()" in message or "all_chars_count" in message:
        return InputError(
            f"{text_name} has nothing to train a tokenizer on: "
            f"one sentence a line, of at most {_LONGEST_SENTENCE} bytes, is expected"
        )
    return None


class Tokenizer(ABC):
    """Text to token ids; pickles as the path that it was read from.

    Attributes:
        path: A SentencePiece model file, or the folder of a Hugging Face tokenizer.
        vocab_size: Ids are below it, the special ones included.
        pad_id, unk_id, eos_id, mask_id: Ids of the special tokens; `eos_id` ends a sentence in a token store.
        special_ids: Those that never stand for text, and `unk_id`.
        begin, between, end: Special tokens of a sequence: `begin A end`, or `begin A between B end` for a pair.
        starts_word: Whether each token [vocab_size] stands at the start of a word (XLM's: at the end): one a word does.
    """

    path: Path
    vocab_size: int
    pad_id: int
    unk_id: int
    eos_id: int
    mask_id: int
    special_ids: tuple[int, ...]
    begin: tuple[int, ...]
    between: tuple[int, ...]
    end: tuple[int, ...]
    starts_word: NDArray[np.bool_]

    @staticmethod
    def load(path: Path) -> Tokenizer:
        """Read a tokenizer; one that was read lately, from files that have not changed since, is given again.

        Args:
            path: A SentencePiece model file (such as `train_tokenizer` writes), or a folder with Hugging Face's
                `tokenizer.json`. Special tokens that a SentencePiece model lacks get the ids behind its pieces.

        Raises:
            InputError: It is not there, is no such file, or lacks a special token.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise InputError.at(
                file, None, "no such file; a SentencePiece model, or a folder with tokenizer.json, is expected"
            )
        state = file.stat()
        return _load(path, state.st_mtime_ns, state.st_size)

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Tokenizer.load, (self.path,)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without any special token but the unknown one."""
        return self.encode_batch([text])[0]

    @abstractmethod
    def encode_batch(self, texts: Sequence[str], *, num_threads: int = 1) -> list[list[int]]:
        """The token ids of each text, as `encode` gives them, several times as fast."""

    def encode_joined(self, texts: Sequence[bytes]) -> NDArray[Any]:
        """The token ids of texts in UTF-8, as `encode` gives them, in one array with `eos_id` behind each text."""
        ids = self.encode_batch(list(map(bytes.decode, texts)))
        return np.fromiter(chain.from_iterable(chain(row, (self.eos_id,)) for row in ids), np.int32)

    @abstractmethod
    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """The token ids of each word of a sentence; joined, they are the sentence's (of unigram models, nearly always).

        A word of which normalisation leaves nothing (a lone zero-width space, say) has none.
        """

    @abstractmethod
    def encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        """The token ids of each text, and which characters [start, end) of the text as given each token stands for.

        No span begins or ends with white space, unless that is all there is to it.
        """


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; make one with `Tokenizer.load`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except RuntimeError:
            raise InputError.at(path, None, "not a SentencePiece model") from None
        pieces = [self._processor.id_to_piece(piece) for piece in range(self._processor.vocab_size())]
        place = {piece: number for number, piece in enumerate(pieces)}
        self.vocab_size = len(pieces)
        self.unk_id = self._processor.unk_id()
        found = [self._processor.pad_id(), self._processor.eos_id(), place.get("<mask>", place.get("[MASK]", -1))]
        self.pad_id, self.eos_id, self.mask_id = (self._behind() if number < 0 else number for number in found)
        controls = (number for number in range(len(pieces)) if self._processor.is_control(number))
        self.special_ids = tuple(sorted({self.pad_id, self.unk_id, self.eos_id, self.mask_id, *controls}))
        self.begin = self.between = self.end = (self.eos_id,)  # so sentences stand in pretraining
        self.starts_word = np.zeros(self.vocab_size, dtype=bool)
        self.starts_word[: len(pieces)] = [piece.startswith(_WORD_START) for piece in pieces]
        self._encode_to_buffers = _encode_to_buffers(self._processor)

    def _behind(self) -> int:
        """A new id behind all others."""
        self.vocab_size += 1
        return self.vocab_size - 1

    def encode_batch(self, texts: Sequence[str], *, num_threads: int = 1) -> list[list[int]]:
        """The token ids of each text."""
        return self._processor.encode(list(texts), out_type=int, num_threads=num_threads)

    def encode_joined(self, texts: Sequence[bytes]) -> NDArray[Any]:
        """The token ids of texts in UTF-8, each with `eos_id` behind it, without a Python object for each."""
        if self._encode_to_buffers is None:
            return super().encode_joined(texts)
        end = np.int32(self.eos_id).tobytes()
        return np.frombuffer(end.join([*self._encode_to_buffers(list(texts)), b""]), np.int32)

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """The token ids of each word."""
        return self.encode_batch(words)

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        """The token ids of each text, and their characters."""
        encoded = self._processor.encode(list(texts), return_type="offset_mapping", num_threads=1)
        return [
            (found["ids"], [_without_space(text, span) for span in found["offsets"]])
            for text, found in zip(texts, encoded, strict=True)
        ]


def _encode_to_buffers(processor: Any) -> Callable[[list[bytes]], list[Any]] | None:
    """SentencePiece's encoding of many texts to a buffer of int32 each, which only its own wrapper calls by now.

    That makes an array of each buffer, which takes half as long again as the encoding. None where another version of
    SentencePiece has no such function, or one that does otherwise.
    """

    def encode(texts: list[bytes]) -> list[Any]:
        # threads and their pool; sampling, its best paths and smoothing; <s>, </s>, in reverse
        buffers: list[Any] = processor._processor._EncodeAsBufferBatch(
            texts, 1, None, False, -1, 0.1, False, False, False
        )
        return buffers

    sample = "the cat, 3 \u00e9"
    try:
        return encode if bytes(encode([sample.encode()])[0]) == np.int32(processor.encode(sample)).tobytes() else None
    except (AttributeError, IndexError, TypeError):
        return None


class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library; make one with `Tokenizer.load`.

    The file is read by that library alone: transformers, which wrote it, takes seconds to import.
    """

    def __init__(self, path: Path) -> None:
        import tokenizers  # only a model from elsewhere needs it

        self.path = path
        file = path / "tokenizer.json"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises no narrower class
            raise InputError.at(file, None, f"not a Hugging Face tokenizer ({' '.join(str(error).split())})") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        pieces = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(pieces.values()) + 1
        names = _special_names(path)

        def special(*roles: str) -> int:
            for role in roles:
                if (number := pieces.get(names.get(role, ""))) is not None:
                    return number
            raise InputError.at(
                path / "tokenizer_config.json", None, f"names no {' or '.join(roles)}; an encoder's tokenizer has one"
            )

        self.pad_id, self.unk_id, self.mask_id = (special(role) for role in ("pad_token", "unk_token", "mask_token"))
        self.eos_id = special("sep_token", "eos_token")
        self.special_ids = tuple(sorted({pieces[name] for name in names.values() if name in pieces}))
        self._never_text = set(self.special_ids) - {self.unk_id}
        self.begin, self.between, self.end = self._frame(special("cls_token", "bos_token", "sep_token"))
        marks_inside = any(piece.startswith(_WORD_INSIDE) for piece in pieces)
        self.starts_word = np.zeros(self.vocab_size, dtype=bool)
        for piece, number in pieces.items():
            at_start = not piece.startswith(_WORD_INSIDE) if marks_inside else piece.startswith(_WORD_START)
            at_start |= piece.endswith(_WORD_END)
            self.starts_word[number] = at_start and number not in self.special_ids
        # Byte-level BPE writes a word inside a sentence otherwise than at its start.
        self._before_word = " " if self.encode("a a")[-1:] != self.encode("a")[-1:] else ""

    def _frame(self, first: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The special tokens before, between and behind a pair of texts, as the tokenizer itself puts them."""
        pair = self._tokenizer.encode("a", "a")
        parts: list[list[int]] = [[]]
        inside = False
        for number, is_special in zip(pair.ids, pair.special_tokens_mask, strict=True):
            if is_special:
                if inside:
                    parts.append([])
                parts[-1].append(number)
            inside = not is_special
        if len(parts) == 3:
            return tuple(parts[0]), tuple(parts[1]), tuple(parts[2])
        return (first,), (self.eos_id,), (self.eos_id,)

    def encode_batch(self, texts: Sequence[str], *, num_threads: int = 1) -> list[list[int]]:
        """The token ids of each text; the library takes its own number of threads."""
        return [
            self._as_text(found.ids)
            for start in range(0, len(texts), _TEXTS_AT_ONCE)
            for found in self._tokenizer.encode_batch_fast(
                list(texts[start : start + _TEXTS_AT_ONCE]), add_special_tokens=False
            )
        ]

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """The token ids of each word."""
        return self.encode_batch([self._before_word + word for word in words])

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        """The token ids of each text, and their characters."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (self._as_text(found.ids), [_without_space(text, span) for span in found.offsets])
            for text, found in zip(texts, encoded, strict=True)
        ]

    def _as_text(self, ids: list[int]) -> list[int]:
        """The ids of a text, in which a special token's name (`</s>`, say) may stand: the library reads it as one."""
        if self._never_text.isdisjoint(ids):
            return ids
        return [self.unk_id if number in self._never_text else number for number in ids]


@lru_cache(maxsize=_MOST_TOKENIZERS)
def _load(path: Path, modified: int, size: int) -> Tokenizer:
    return HuggingFaceTokenizer(path) if path.is_dir() else SentencePieceTokenizer(path)


def _special_names(folder: Path) -> dict[str, str]:
    """The special tokens of a Hugging Face tokenizer by role, such as `mask_token`."""
    names: dict[str, str] = {}
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError.at(file, None, f"not JSON ({error}); transformers' save_pretrained writes it") from None
        for role, token in content.items() if isinstance(content, dict) else ():
            name = token.get("content") if isinstance(token, dict) else token
            if role.endswith("_token") and isinstance(name, str):
                names[role] = name
    return names


def _without_space(text: str, span: Span) -> Span:
    """A span without the white space at its ends."""
    start, end = span
    piece = text[start:end]
    kept = piece.strip()
    if len(kept) == len(piece) or not kept:
        return start, end
    start += len(piece) - len(piece.lstrip())
    return start, start + len(kept)
