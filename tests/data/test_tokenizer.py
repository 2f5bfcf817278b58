from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordPiece

from raylab.data.tokenizer import SPECIAL_PIECES, Tokenizer, train_tokenizer
from raylab.errors import InputError

TEXT = ["the cat sat on the mat", "a dog and a cat sat here", "hello world, hello again", "über Öl und Maß"] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(TEXT, path, 60)
    return Tokenizer.load(path)


def test_special_ids_are_fixed(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.eos_id, tokenizer.mask_id) == (0, 1, 3, 4)
    assert tokenizer.begin == tokenizer.between == tokenizer.end == (3,)
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
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a Hugging Face tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    train_tokenizer(TEXT, path, 60)
    first = Tokenizer.load(path)
    assert Tokenizer.load(path) is first
    train_tokenizer(TEXT, path, 50)
    assert Tokenizer.load(path).vocab_size == 50


def test_unigram_models_are_trained_too(tmp_path: Path) -> None:
    for name in ("unigram", "again"):
        train_tokenizer(TEXT, tmp_path / name, 34, model_type="unigram")
    assert (tmp_path / "unigram").read_bytes() == (tmp_path / "again").read_bytes()
    unigram = Tokenizer.load(tmp_path / "unigram")
    assert unigram.vocab_size == 34
    assert unigram.special_ids == (0, 1, 2, 3, 4)
    assert unigram.unk_id not in unigram.encode("the cat sat")
    with pytest.raises(InputError, match=r"data\.vocab_size: 1000 .* at most \d+ would"):
        train_tokenizer(TEXT, tmp_path / "large", 1000, model_type="unigram")
    with pytest.raises(InputError, match=r"data\.vocab_size: 10 .* too few .* at least \d+ are needed"):
        train_tokenizer(TEXT, tmp_path / "small", 10, model_type="unigram")


def test_special_tokens_that_a_model_lacks_come_behind_its_pieces(tmp_path: Path) -> None:
    path = tmp_path / "other.model"
    with path.open("wb") as stream:  # as XLM-R's: no <pad>, no <mask>, <unk> first
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT), model_writer=stream, vocab_size=32, minloglevel=2
        )
    other = Tokenizer.load(path)
    assert (other.unk_id, other.eos_id, other.pad_id, other.mask_id, other.vocab_size) == (0, 2, 32, 33, 34)
    assert other.special_ids == (0, 1, 2, 32, 33)
    assert len(other.starts_word) == 34
    assert max(other.encode("the cat sat")) < 32


def _hugging_face(folder: Path, kind: str) -> Tokenizer:
    """A small tokenizer as the models of this kind have it, saved as transformers saves it."""
    vocabulary = {"bert": WordPiece, "xlm-r": Unigram, "roberta": BPE}[kind]
    if kind == "bert":
        names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    else:
        names = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    model = vocabulary() if kind == "xlm-r" else vocabulary(unk_token=names["unk"])
    made = tokenizers.Tokenizer(model)
    specials = list(names.values())
    if kind == "bert":
        made.normalizer = normalizers.BertNormalizer()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=80, special_tokens=specials, show_progress=False)
    elif kind == "xlm-r":
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=80, special_tokens=specials, unk_token="<unk>", show_progress=False
        )
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=specials,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    made.train_from_iterator(TEXT, trainer)
    cls, sep = ((names[role], made.token_to_id(names[role])) for role in ("cls", "sep"))
    if kind == "bert":
        made.post_processor = processors.BertProcessing(sep, cls)
    else:
        made.post_processor = processors.RobertaProcessing(sep, cls)
    made.enable_truncation(8)  # as the files of real models often ask
    made.save(str(folder / "tokenizer.json"))
    config = {f"{role}_token": name for role, name in names.items()}
    config["mask_token"] = {"content": names["mask"], "lstrip": True}  # type: ignore[assignment]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder)


@pytest.mark.parametrize("kind", ["bert", "xlm-r", "roberta"])
def test_hugging_face_tokenizers(tmp_path: Path, kind: str) -> None:
    tokenizer = _hugging_face(tmp_path, kind)
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    original.no_truncation()
    text = "the cat sat on a mat and hello world"
    assert tokenizer.encode(text) == original.encode(text, add_special_tokens=False).ids
    alone, pair = original.encode("the").ids, original.encode("the", "a cat").ids
    the, cat = tokenizer.encode("the"), tokenizer.encode("a cat")
    assert [*tokenizer.begin, *the, *tokenizer.end] == alone
    assert [*tokenizer.begin, *the, *tokenizer.between, *cat, *tokenizer.end] == pair
    assert len(tokenizer.between) == (1 if kind == "bert" else 2)
    ids = [tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id, tokenizer.eos_id]
    assert [original.id_to_token(number).strip("<>[]").lower() for number in ids[:3]] == ["pad", "unk", "mask"]
    assert tokenizer.end[-1] == tokenizer.eos_id
    assert set(ids) <= set(tokenizer.special_ids)
    assert tokenizer.vocab_size == original.get_vocab_size()
    assert pickle.loads(pickle.dumps(tokenizer)).encode(text) == tokenizer.encode(text)
    words = tokenizer.encode_words(text.split())
    whole = tokenizer.encode(" " + text if kind == "roberta" else text)
    assert [piece for word in words for piece in word] == whole
    assert tokenizer.starts_word[whole].sum() == len(text.split())


@pytest.mark.parametrize("kind", ["own", "bert", "xlm-r", "roberta"])
def test_spans_are_the_characters_of_the_text_as_given(tmp_path: Path, tokenizer: Tokenizer, kind: str) -> None:
    if kind != "own":
        tokenizer = _hugging_face(tmp_path, kind)
    text = "  The cat  sat,\u200b über\u00a0ﬁ２ 日本 mat "
    ((ids, spans),) = tokenizer.encode_spans([text])
    assert ids == tokenizer.encode(text)
    assert len(spans) == len(ids)
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert spans == sorted(spans)
    pieces = [text[start:end] for start, end in spans]
    assert all(piece == piece.strip() for piece in pieces if piece.strip())
    covered = {place for start, end in spans for place in range(start, end)}
    assert {place for place, letter in enumerate(text) if letter.isalnum()} <= covered


@pytest.mark.parametrize("kind", ["bert", "xlm-r", "roberta"])
def test_names_of_special_tokens_in_text_are_just_text(tmp_path: Path, kind: str) -> None:
    tokenizer = _hugging_face(tmp_path, kind)
    text = "the [SEP] cat </s> sat <mask> on [MASK] a <s> mat [CLS]"
    never_text = set(tokenizer.special_ids) - {tokenizer.unk_id}
    assert not never_text & set(tokenizer.encode(text))
    assert not never_text & {number for ids in tokenizer.encode_words(text.split()) for number in ids}
    assert tokenizer.encode_spans([text])[0][0] == tokenizer.encode(text)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    _hugging_face(tmp_path, "bert")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["mask_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    os.utime(tmp_path / "tokenizer.json", ns=(1, 1))  # nothing of the whole one is kept
    with pytest.raises(InputError, match=r"tokenizer_config\.json: names no mask_token"):
        Tokenizer.load(tmp_path)
