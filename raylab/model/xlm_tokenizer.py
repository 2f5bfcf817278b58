"""The tokenizer of XLM (Lample and Conneau 2019), as one of the `tokenizers` library.

transformers has XLM's tokenizer in Python alone: it needs another library for Moses' rules, and does not say which
characters of a text a token stands for. The subwords are the same here, and so is the cleaning of the text. Words are
split from punctuation by one rule for all languages, in place of Moses' rules for each: they differ at apostrophes, at
full stops behind abbreviations and at a few signs. Text that comes in words, as NER and POS data do, is split as there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raylab.errors import InputError

_FILES = ("vocab.json", "merges.txt")
_END_OF_WORD = "</w>"

# What XLM's preprocessing writes in place of other signs (Moses' replace-unicode-punctuation and
# normalize-punctuation).
_SIGNS = {
    "，": ",",
    "。": ". ",
    "、": ",",
    "∶": ":",
    "：": ":",
    "？": "?",
    "《": '"',
    "》": '"',
    "）": ")",
    "！": "!",
    "（": "(",
    "；": ";",
    "」": '"',
    "「": '"',
    "．": ". ",
    "～": "~",
    "…": "...",
    "━": "-",
    "〈": "<",
    "〉": ">",
    "【": "[",
    "】": "]",
    "％": "%",
    "„": '"',
    "“": '"',
    "”": '"',
    "«": '"',
    "»": '"',
    "–": "-",
    "—": " - ",
    "´": "'",
    "‘": "'",
    "’": "'",
    "‚": "'",
    "`": "'",
    "''": '"',
    **{chr(ord("０") + digit): str(digit) for digit in range(10)},
}
# A sign by itself: any but . ' ` , - and letters, marks and digits; a comma that no digits stand on both sides of; full
# stops at a word's end, and several in a row; an apostrophe that no letters stand on both sides of.
_SPLIT = r"[^\p{L}\p{M}\p{N}\s.'`,\-]|(?<!\p{N}),|,(?!\p{N})|\.{2,}|\.(?=\s|$)|(?<!\p{L})'|'(?!\p{L})"
_APOSTROPHE = r"'(?=\p{L})"  # between letters it begins the second word, as in English


def is_xlm(folder: Path) -> bool:
    """Whether a folder holds an XLM model with the files of XLM's own tokenizer."""
    from raylab.model.loading import read_model_type

    return read_model_type(folder / "config.json") == "xlm" and all((folder / name).is_file() for name in _FILES)


def read(folder: Path) -> Any:
    """Make the tokenizer.

    Args:
        folder: With `vocab.json` and `merges.txt`. Whether text is lowercased and accents are removed stands in
            `tokenizer_config.json`; where it does not, a vocabulary without capital letters says so.

    Returns:
        A `transformers.PreTrainedTokenizerFast`; its sequences are those of transformers' XLMTokenizer. Subwords that
        `merges.txt` makes and `vocab.json` lacks have ids behind the vocabulary's; XLM knows them as <unk>.

    Raises:
        InputError: A file is not what it should be.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    vocabulary = _read_json(folder / "vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = (line.split()[:2] for line in lines if not line.startswith("#version"))
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    # The vocabulary lists what stands in XLM's training text; what is always merged further does not.
    inner = dict.fromkeys(token for a, b in merges for token in (a, b, a + b) if token not in vocabulary)
    subwords = {**vocabulary, **{token: len(vocabulary) + number for number, token in enumerate(inner)}}
    try:
        tokenizer = Tokenizer(BPE(vocab=subwords, merges=merges, unk_token="<unk>", end_of_word_suffix=_END_OF_WORD))
    except Exception as error:  # the library raises no narrower class
        raise InputError.at(folder / "merges.txt", None, f"does not fit vocab.json: {error}") from None
    steps: list[Any] = [normalizers.Replace(Regex(r"\s+"), " ")]
    steps += [normalizers.Replace(sign, plain) for sign, plain in _SIGNS.items()]
    steps += [normalizers.Replace(Regex(r"\p{C}"), "")]
    if _is_uncased(folder, vocabulary):
        steps += [normalizers.Lowercase(), normalizers.NFD(), normalizers.Replace(Regex(r"\p{Mn}"), "")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.Split(Regex(_APOSTROPHE), "merged_with_next"),
        ]
    )
    special = {role: name for role, name in _special_tokens(folder).items() if name in vocabulary}
    for role in ("bos_token", "sep_token", "pad_token", "unk_token"):
        if role not in special:
            raise InputError.at(folder / "vocab.json", None, f"has no {role}; an XLM vocabulary begins with it")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special.values()])
    begin, end = special["bos_token"], special["sep_token"]
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B {end}",
        special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "attention_mask"], **special
    )


def _special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens by role: XLM's, but where the folder says otherwise."""
    names = {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "</s>",
        "mask_token": "<special1>",
    }
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for role, token in (_read_json(folder / file) if (folder / file).is_file() else {}).items():
            name = token.get("content") if isinstance(token, dict) else token
            if role in names and isinstance(name, str):
                names[role] = name
    return names


def _is_uncased(folder: Path, vocabulary: dict[str, int]) -> bool:
    path = folder / "tokenizer_config.json"
    said = _read_json(path).get("do_lowercase_and_remove_accent") if path.is_file() else None
    return bool(said) if said is not None else all(token == token.lower() for token in vocabulary)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError.at(path, None, f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError.at(path, None, "not a JSON object; tokens and their ids are expected")
    return content
