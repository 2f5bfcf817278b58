"""XLM's subwords; expectations are those of transformers' XLMTokenizer, which needs a library that raylab does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.model import import_model, load_encoder

Folder = Callable[[str], Path]


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words that the text was split into, from the characters that each subword stands for."""
    library = json.loads((tokenizer.path / "tokenizer.json").read_text())
    names = {number: token for token, number in library["model"]["vocab"].items()}
    ids, spans = tokenizer.encode_spans([text])[0]
    words, start = [], None
    for number, (begin, end) in zip(ids, spans, strict=True):
        start = begin if start is None else start
        if names[number].endswith("</w>"):
            words.append(text[start:end])
            start = None
    return words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the cat sees.", ["the", "cat", "sees", "."]),
        ("a cat, a dog", ["a", "cat", ",", "a", "dog"]),
        ("it's good", ["it", "'s", "good"]),
        ("  the\tcat\n", ["the", "cat"]),
        ("नया घर, мир.", ["नया", "घर", ",", "мир", "."]),
    ],
)
def test_words(text: str, words: list[str], stored: Folder) -> None:
    assert words_of(Tokenizer.load(stored("xlm") / "tokenizer"), text) == words


def test_signs_are_written_in_one_way(stored: Folder) -> None:
    tokenizer = Tokenizer.load(stored("xlm") / "tokenizer")
    for text, same in (("it’s", "it's"), ("cat， dog。", "cat, dog. "), ("c\u200dat", "cat"), ("`s", "'s")):
        assert tokenizer.encode(text) == tokenizer.encode(same)


def test_sequences_are_those_of_transformers(stored: Folder) -> None:
    tokenizer = Tokenizer.load(stored("xlm") / "tokenizer")
    assert (tokenizer.begin, tokenizer.between, tokenizer.end) == ((0,), (1,), (1,))
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (2, 3, 5)


@pytest.mark.parametrize(("said", "lowered"), [(True, True), (False, False), (None, False)])
def test_lowercase_where_the_model_is_uncased(
    said: bool | None, lowered: bool, external: Folder, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(external("xlm"), tmp_path / "source"))  # its vocabulary has capital letters
    if said is not None:
        (source / "tokenizer_config.json").write_text(json.dumps({"do_lowercase_and_remove_accent": said}))
    import_model(str(source), tmp_path / "job")
    tokenizer = Tokenizer.load(tmp_path / "job" / "tokenizer")
    assert (tokenizer.encode("the CÁT") == tokenizer.encode("the cat")) == lowered


def test_subwords_that_the_vocabulary_lacks_are_unknown(external: Folder, stored: Folder) -> None:
    """Merges pass through subwords that XLM's vocabulary does not list; the model reads one as <unk>."""
    listed = json.loads((external("xlm") / "vocab.json").read_text())
    tokenizer = Tokenizer.load(stored("xlm") / "tokenizer")
    assert tokenizer.vocab_size > len(listed)
    vocabulary = json.loads((tokenizer.path / "tokenizer.json").read_text())["model"]["vocab"]
    inner = next(token for token, number in vocabulary.items() if number >= len(listed))
    encoder = load_encoder(stored("xlm") / "model")
    input_ids = torch.tensor([[0, vocabulary[inner], 7, 1]])
    unknown = torch.tensor([[0, tokenizer.unk_id, 7, 1]])
    assert torch.equal(encoder(input_ids, None, "en"), encoder(unknown, None, "en"))
    assert max(tokenizer.encode("the small cat sees a tree")) < len(listed)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", "[]", r"vocab\.json: not a JSON object"),
        ("vocab.json", "{", r"vocab\.json: not JSON"),
        ("vocab.json", '{"a": 0}', r"vocab\.json: has no bos_token"),
    ],
)
def test_bad_files_are_refused(name: str, content: str, message: str, external: Folder, tmp_path: Path) -> None:
    source = Path(shutil.copytree(external("xlm"), tmp_path / "source"))
    (source / name).write_text(content)
    with pytest.raises(InputError, match=message):
        import_model(str(source), tmp_path / "job")
