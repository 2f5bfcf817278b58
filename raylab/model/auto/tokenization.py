"""A checkpoint's SentencePiece tokenizer, as transformers' AutoTokenizer gives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sentencepiece
from transformers import AddedToken, AutoTokenizer
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from raylab.data.tokenizer import Tokenizer
from raylab.model.auto.config import RaylabConfig

_ROLES = {"pad_token": "pad_id", "unk_token": "unk_id", "eos_token": "eos_id", "mask_token": "mask_id"}


class RaylabTokenizer(SentencePieceBackend):
    """The ids of `raylab.data.tokenizer`; a sequence is `</s> A </s>`, a pair `</s> A </s> B </s>`.

    Other than there, a special token that stands in the text (`<mask>`, say) is read as such, as transformers does;
    `split_special_tokens=True` reads it as text.

    Args:
        vocab_file: The SentencePiece model.
        **kwargs: Special tokens by role, and all else that transformers' tokenizers take.
    """

    def __init__(self, vocab_file: str, **kwargs: Any):
        tokens = _special_tokens(Path(vocab_file))
        for role in _ROLES:
            kwargs[role] = tokens[role][1]
        kwargs["cls_token"] = kwargs["sep_token"] = kwargs["eos_token"]
        kwargs["special_tokens_pattern"] = "cls_sep"
        kwargs["added_tokens_decoder"] = {
            **{number: AddedToken(name, special=True, normalized=False) for number, name in tokens.values()},
            **kwargs.get("added_tokens_decoder", {}),
        }
        super().__init__(vocab_file=vocab_file, **kwargs)


def _special_tokens(path: Path) -> dict[str, tuple[int, str]]:
    """Id and name of the special token in each role; one that the model lacks is named for its role."""
    ids = Tokenizer.load(path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    found = {}
    for role, attribute in _ROLES.items():
        number = getattr(ids, attribute)
        inside = number < processor.vocab_size()
        found[role] = number, processor.id_to_piece(number) if inside else f"<{role.removesuffix('_token')}>"
    return found


def register() -> None:
    """Make the tokenizer known to transformers."""
    AutoTokenizer.register(RaylabConfig, RaylabTokenizer, exist_ok=True)
