from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylab.data.tokenizer import SPECIAL_PIECES, Tokenizer, train_tokenizer
from raylab.errors import InputError

TEXT = ["the cat sat on the mat", "a dog and a cat sat here", "hello world, hello again", "über Öl und Maß"] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(TEXT, path, 60)
    return Tokenizer.load(path)


def test_special_ids_are_fixed(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert tokenizer.vocab_size == 60


def test_special_pieces_in_text_are_just_text(tokenizer: Tokenizer) -> None:
    identifiers = tokenizer.encode(" ".join(SPECIAL_PIECES))
    assert set(identifiers) & {0, 2, 3, 4} == set()


def test_encodes_unseen_characters_as_unknown(tokenizer: Tokenizer) -> None:
    assert tokenizer.unk_id in tokenizer.encode("日本")
    assert tokenizer.unk_id not in tokenizer.encode("the mat")


@given(words=st.lists(st.text(alphabet="abcdehlotü日,", min_size=1, max_size=8), max_size=8))
def test_words_joined_are_the_sentence(tokenizer: Tokenizer, words: list[str]) -> None:
    pieces = tokenizer.encode_words(words)
    joined = [identifier for word in pieces for identifier in word]
    assert len(pieces) == len(words)
    assert joined == tokenizer.encode(" ".join(words)) == tokenizer.encode_batch([" ".join(words)], num_threads=2)[0]
    assert tokenizer.starts_word[joined].sum() == len(words)


def test_a_word_may_have_no_tokens(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.encode_words(["the", "\u200b", "mat"])
    assert [len(word) > 0 for word in pieces] == [True, False, True]


def test_pickles_as_its_path(tokenizer: Tokenizer) -> None:
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < 500
    assert pickle.loads(pickled).encode(TEXT[0]) == tokenizer.encode(TEXT[0])


def test_training_is_deterministic_and_silent(
    tmp_path: Path, tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    train_tokenizer(iter(TEXT), tmp_path / "again.model", 60)
    assert (tmp_path / "again.model").read_bytes() == tokenizer.path.read_bytes()
    assert capfd.readouterr() == ("", "")


def test_names_the_largest_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(
        InputError, match=r"data\.vocab_size: 1000 .* than the text of en supports; at most \d+ would"
    ) as error:
        train_tokenizer(TEXT, path, 1000, text_name="the text of en")
    assert list(tmp_path.iterdir()) == []
    largest = _number(r"at most (\d+)", error)
    train_tokenizer(TEXT, path, largest)
    assert Tokenizer.load(path).vocab_size == largest
    with pytest.raises(InputError):
        train_tokenizer(TEXT, path, largest + 1)


def test_names_the_smallest_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(
        InputError, match=r"data\.vocab_size: 10 pieces are too few .* at least \d+ are needed"
    ) as error:
        train_tokenizer(TEXT, path, 10)
    smallest = _number(r"at least (\d+)", error)
    train_tokenizer(TEXT, path, smallest)
    with pytest.raises(InputError):
        train_tokenizer(TEXT, path, smallest - 1)
    with pytest.raises(InputError, match="does not even hold the 5 special pieces"):
        train_tokenizer(TEXT, path, 4)


def _number(pattern: str, error: pytest.ExceptionInfo[InputError]) -> int:
    found = re.search(pattern, str(error.value))
    assert found
    return int(found[1])


@pytest.mark.parametrize("text", [[], [" "], ["x" * 100_000]])
def test_no_text_is_refused(tmp_path: Path, text: list[str]) -> None:
    with pytest.raises(InputError, match="nothing to train a tokenizer on"):
        train_tokenizer(text, tmp_path / "tokenizer.model", 100)


def test_errors_of_the_text_pass_through(tmp_path: Path) -> None:
    def sentences() -> Iterator[str]:
        yield "one"
        raise InputError("corpus.txt:2: bad")

    with pytest.raises(InputError, match=r"^corpus\.txt:2: bad$"):
        train_tokenizer(sentences(), tmp_path / "tokenizer.model", 100)


def test_refuses_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(InputError, match=r"tokenizer\.model: no such file"):
        Tokenizer.load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"tokenizer\.model: not a SentencePiece model"):
        Tokenizer.load(path)
