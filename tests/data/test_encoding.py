from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raylab.data import encoding
from raylab.data.encoding import StoreEncoder, encodes_words_apart
from raylab.data.tokenizer import ModelType, Tokenizer, train_tokenizer
from raylab.errors import InputError

SYLLABLES = [a + b for a in "bcdfgklmn" for b in ("a", "e", "io", "u")]
WORDS = [SYLLABLES[n % 36] + SYLLABLES[n * 7 // 5 % 36] + SYLLABLES[n * n % 36] for n in range(400)]
TEXT = [f"the cat {WORDS[n % 400]} {WORDS[n * 3 % 400]} {n} चटाई पर बिल्ली – ﬁne é e\u0301 x\u00a0y" for n in range(800)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in ("bpe", "unigram"):
        train_tokenizer(TEXT, folder / f"{kind}.model", 120, model_type=kind)  # type: ignore[arg-type]
    for name, options in (
        ("unigram_across", {"split_by_whitespace": False, "model_type": "unigram"}),
        ("across", {"split_by_whitespace": False}),
        ("spaces", {"remove_extra_whitespaces": False}),
        ("no_prefix", {"add_dummy_prefix": False}),
        ("suffix", {"treat_whitespace_as_suffix": True}),
        ("bytes", {"byte_fallback": True, "vocab_size": 400}),
        ("as_it_is", {"normalization_rule_name": "identity"}),
    ):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT),
            model_prefix=str(folder / name),
            **{"vocab_size": 120, "model_type": "bpe", "minloglevel": 2, **options},
        )
    return {path.stem: Tokenizer.load(path) for path in sorted(folder.glob("*.model"))}


def _sentences(tokenizer: Tokenizer, encoder: StoreEncoder, texts: list[str]) -> list[list[int]]:
    tokens, lengths = encoder.encode([text.encode() for text in texts])
    assert len(lengths) == len(texts)
    rows, start = [], 0
    for length in lengths.tolist():
        assert tokens[start + length - 1] == tokenizer.eos_id
        rows.append(tokens[start : start + length - 1].tolist())
        start += length
    assert start == len(tokens)
    return rows


NAMES = ["bpe", "unigram", "unigram_across", "across", "spaces", "no_prefix", "suffix", "bytes", "as_it_is"]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@example(texts=["▁ a", "a▁ ▁", "▁"])
@given(
    texts=st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n"), max_size=30),
            st.text(alphabet="aceht  \t\u00a0\u0301\u3000▁चटाÀ日\u200b\ufb01·¨", max_size=30),
        ),
        max_size=8,
    )
)
def test_sentences_have_the_tokens_that_their_tokenizer_gives(
    tokenizers: dict[str, Tokenizer], name: str, texts: list[str]
) -> None:
    tokenizer = tokenizers[name]
    encoder = StoreEncoder(tokenizer)
    for _ in range(2):  # the second time from memory
        assert _sentences(tokenizer, encoder, texts) == [tokenizer.encode(text) for text in texts]


def test_words_are_remembered_only_where_they_are_encoded_apart(tokenizers: dict[str, Tokenizer]) -> None:
    assert {name for name in NAMES if encodes_words_apart(tokenizers[name])} == {"bpe", "bytes"}


@pytest.mark.parametrize("name", ["bpe", "unigram"])
@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_threads_give_what_one_gives(
    tokenizers: dict[str, Tokenizer], name: str, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "_CACHE_BYTES", 5_000)
    blocks = [(f"block {n}", [f"the {n} {n * m} cat" for m in range(n % 7)]) for n in range(60)]
    encoder = StoreEncoder(tokenizers[name])
    encoded = encoder.encode_all(((label, [*map(str.encode, texts)]) for label, texts in blocks), num_threads)
    for (label, texts), (found, (tokens, lengths)) in zip(blocks, encoded, strict=True):
        expected = [[*row, tokenizers[name].eos_id] for row in tokenizers[name].encode_batch(texts)]
        assert (found, lengths.tolist()) == (label, list(map(len, expected)))
        assert tokens.tolist() == list(chain.from_iterable(expected))


def test_an_error_of_the_text_passes_through_threads(tokenizers: dict[str, Tokenizer]) -> None:
    def blocks() -> Iterator[tuple[str, list[bytes]]]:
        yield "train", [b"the cat"]
        raise InputError("no more text")

    with pytest.raises(InputError, match="no more text"):
        list(StoreEncoder(tokenizers["unigram"]).encode_all(blocks(), 2))


@pytest.mark.parametrize("name", ["bpe", "unigram", "suffix"])
def test_another_version_of_sentencepiece_gives_the_same(
    tokenizers: dict[str, Tokenizer], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text.encode() for text in [*TEXT, "", " "]]
    before = tokenizers[name].encode_joined(texts).tolist()
    monkeypatch.setattr(tokenizers[name], "_encode_to_buffers", None)
    assert tokenizers[name].encode_joined(texts).tolist() == before


def test_memory_is_bounded(tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_CACHE_BYTES", 20_000)
    encoder = StoreEncoder(tokenizers["bpe"])
    for start in range(0, 5000, 50):
        texts = [f"the {n} cat" for n in range(start, start + 50)]
        assert _sentences(tokenizers["bpe"], encoder, texts) == tokenizers["bpe"].encode_batch(texts)
        assert len(encoder._words) < 200


def test_no_sentence(tokenizers: dict[str, Tokenizer]) -> None:
    for name in ("bpe", "across"):
        tokens, lengths = StoreEncoder(tokenizers[name]).encode([])
        assert len(tokens) == len(lengths) == 0


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_kit(kit: Path, tmp_path: Path, kind: ModelType) -> None:
    texts = [
        line
        for language in ("en", "ru", "ar", "hi", "te")
        for line in (kit / "text" / language / "valid.txt").read_text(encoding="utf-8").splitlines()
    ]
    train_tokenizer(texts, tmp_path / "tokenizer.model", 4000, model_type=kind)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.model")
    assert _sentences(tokenizer, StoreEncoder(tokenizer), texts) == tokenizer.encode_batch(texts)
