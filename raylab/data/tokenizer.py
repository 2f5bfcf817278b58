"""Subword tokenizer: SentencePiece BPE (Sennrich et al. 2016; Kudo and Richardson 2018)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from raylab.data.atomic import atomic_path
from raylab.errors import InputError

SPECIAL_PIECES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")  # their ids are their places here

_TRAINING_THREADS = 2  # fixed: the model file records it, and equal text must give equal files
_LONGEST_SENTENCE = 1 << 16  # bytes; what is longer is not a sentence, and a word so long would stall the merges
_WORD_START = "▁"  # SentencePiece's mark at the start of each word


def train_tokenizer(
    sentences: Iterable[str],
    model_path: Path,
    vocab_size: int,
    *,
    character_coverage: float = 0.9998,
    text_name: str = "the training text",
) -> None:
    """Train a BPE tokenizer and write its model file. Equal sentences in equal order give equal files.

    Args:
        sentences: Training text; held in memory by SentencePiece. What is longer than 64 KiB is left out.
        model_path: The file to write.
        vocab_size: Pieces, the five special ones included.
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
            model_type="bpe",
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


class Tokenizer:
    """A trained tokenizer; pickles as the path of its model file.

    Attributes:
        path: The model file.
        vocab_size: Pieces, the special ones included.
        starts_word: Whether each piece [vocab_size] stands at the start of a word: exactly one a word does.
        pad_id, unk_id, bos_id, eos_id, mask_id: Ids of the special pieces.
        special_ids: All of them.
    """

    pad_id, unk_id, bos_id, eos_id, mask_id = special_ids = (0, 1, 2, 3, 4)

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError.at(self.path, None, "no such file; a tokenizer's model file is expected")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_file=str(self.path))
        except RuntimeError:
            raise InputError.at(self.path, None, "not a SentencePiece model") from None
        self.vocab_size: int = self._processor.vocab_size()
        pieces = [self._processor.id_to_piece(piece) for piece in range(self.vocab_size)]
        found = tuple(pieces[: len(SPECIAL_PIECES)])
        if found != SPECIAL_PIECES:
            raise InputError.at(self.path, None, f"the first pieces are {found}; {SPECIAL_PIECES} are expected")
        self.starts_word: NDArray[np.bool_] = np.array([piece.startswith(_WORD_START) for piece in pieces])

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read a model file that `train_tokenizer` wrote.

        Raises:
            InputError: It is not there, or is no such file.
        """
        return cls(path)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[Path]]:
        return Tokenizer, (self.path,)

    def encode(self, sentence: str) -> list[int]:
        """The token ids of a sentence, without any special piece but <unk>."""
        return self._processor.encode(sentence, out_type=int)

    def encode_batch(self, sentences: Sequence[str], *, num_threads: int = 1) -> list[list[int]]:
        """The token ids of each sentence, as `encode` gives them, several times as fast."""
        return self._processor.encode(list(sentences), out_type=int, num_threads=num_threads)

    def encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """The token ids of each word of a sentence; joined, they are the sentence's.

        A word of which normalisation leaves nothing (a lone zero-width space, say) has none.
        """
        return self.encode_batch(words)
