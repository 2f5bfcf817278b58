from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylab.config import PrepareJob
from raylab.data import prepare as prepare_module
from raylab.data.batches import Stream
from raylab.data.corpus import read_sentences, split_meta
from raylab.data.prepare import Prepared, prepare
from raylab.data.source import Source
from raylab.data.store import TokenStore
from raylab.errors import InputError


def _job(*languages: str, **options: object) -> PrepareJob:
    defaults = {"vocab_size": 80, "subsample": {}, "meta_fraction": 0.1, "invalid_utf8": "stop"}
    return PrepareJob.model_validate({"languages": languages, **defaults, **options})


@pytest.fixture
def source(tmp_path: Path) -> Source:
    for language, words in (("en", ["cat", "dog", "tree", "house"]), ("sw", ["paka", "mbwa", "mti", "nyumba"])):
        folder = tmp_path / "source" / "text" / language
        folder.mkdir(parents=True)
        sentences = [f"{words[n % 4]} {words[n // 4 % 4]} {n}" for n in range(200)]
        (folder / "train.txt").write_text("\n".join(sentences), encoding="utf-8")
        (folder / "valid.txt").write_text(f"{sentences[7]}\n{words[0]} only here\n", encoding="utf-8")
    return Source(tmp_path / "source")


def _sentences(store: TokenStore) -> list[list[int]]:
    """The sentences of a store, without their </s>."""
    sentences: list[list[int]] = [[]]
    for token in store.read(0, len(store)).tolist():
        if token == 3:
            sentences.append([])
        else:
            sentences[-1].append(token)
    assert sentences.pop() == []
    return sentences


def test_text_to_tokens(source: Source, tmp_path: Path) -> None:
    statistics = prepare(_job("en", "sw"), source, tmp_path / "prepared")
    prepared = Prepared(tmp_path / "prepared")
    assert prepared.statistics == statistics
    assert prepared.tokenizer.vocab_size == 80
    assert sorted(
        path.relative_to(tmp_path / "prepared").as_posix() for path in (tmp_path / "prepared").rglob("*.*")
    ) == [
        "statistics.json",
        "tokenizer.model",
        *(f"tokens/{language}/{split}.arrow" for language in ("en", "sw") for split in ("meta", "train", "valid")),
    ]
    for language in ("en", "sw"):
        valid = list(read_sentences(source.text(language, "valid")))
        kept = [sentence for sentence in read_sentences(source.text(language, "train")) if sentence not in valid]
        train = [sentence for sentence in kept if not split_meta(sentence, 0.1)]
        meta = [sentence for sentence in kept if split_meta(sentence, 0.1)]
        for split, expected in (("train", train), ("meta", meta), ("valid", valid)):
            store = prepared.store(language, split)
            assert _sentences(store) == prepared.tokenizer.encode_batch(expected)
            assert statistics[language]["sentences"][split] == len(expected) == store.num_sentences
            assert statistics[language]["tokens"][split] == len(store)
        subwords = len(prepared.store(language, "train")) - len(train)
        assert statistics[language]["words"] == sum(len(sentence.split()) for sentence in train)
        assert statistics[language]["tokens_per_word"] == subwords / statistics[language]["words"]
        assert statistics[language]["unknown_rate"] == 0
        assert statistics[language]["skipped_lines"] == 0
        assert statistics[language]["dropped_duplicates"] == 1
        assert prepared.sizes[language] == len(train)


def test_the_result_depends_on_the_text_alone(source: Source, tmp_path: Path) -> None:
    for name in ("one", "two"):
        prepare(_job("en", "sw"), source, tmp_path / name)
    files = sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 8
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_a_subsample_counts_all_that_the_model_sees(source: Source, tmp_path: Path) -> None:
    statistics = prepare(_job("en", "sw", subsample={"sw": 150, "fr": 1}), source, tmp_path / "prepared")
    assert statistics["sw"]["sentences"]["train"] + statistics["sw"]["sentences"]["meta"] == 150
    assert statistics["en"]["sentences"]["train"] + statistics["en"]["sentences"]["meta"] == 199


def test_counts_unknown_tokens_and_skipped_lines(source: Source, tmp_path: Path) -> None:
    train = source.text("sw", "train")
    text = ("paka mbwa " * 50).strip() + "\n"
    train.write_bytes((text * 300 + "paka 日\n").encode() + b"\xff\n")
    valid = source.text("sw", "valid")
    valid.write_bytes(valid.read_bytes() + b"\xff\n")
    statistics = prepare(
        _job("sw", vocab_size=20, meta_fraction=0.0, invalid_utf8="skip"), source, tmp_path / "prepared"
    )["sw"]
    assert statistics["skipped_lines"] == 2
    subwords = statistics["tokens"]["train"] - statistics["sentences"]["train"]
    assert statistics["unknown_rate"] == pytest.approx(1 / subwords)
    assert statistics["words"] == 300 * 100 + 2


def test_the_tokenizer_reads_a_bounded_sample(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.text("en", "train").write_text("\n".join(f"{n} {'xyz'[n % 3]}{n // 2}" for n in range(2000)))
    job = _job("en", vocab_size=400)
    prepare(job, source, tmp_path / "all")
    monkeypatch.setattr(prepare_module, "_TOKENIZER_BYTES", 500)
    with pytest.raises(InputError, match=r"at most \d\d\d? would do"):
        prepare(job, source, tmp_path / "sample")


def test_a_small_corpus_beside_a_large_one_keeps_its_characters(source: Source, tmp_path: Path) -> None:
    source.text("en", "train").write_text("\n".join(f"the cat sat on the mat {n}" for n in range(20_000)))
    source.text("sw", "train").write_text("\n".join(f"बिल्ली चटाई पर {n}" for n in range(20)), encoding="utf-8")
    statistics = prepare(_job("en", "sw", meta_fraction=0.0), source, tmp_path / "prepared")
    assert statistics["sw"]["unknown_rate"] == 0


def test_reports_progress(source: Source, tmp_path: Path) -> None:
    reports: list[tuple[str, float]] = []
    prepare(_job("en", "sw"), source, tmp_path / "prepared", lambda message, done: reports.append((message, done)))
    shares = [done for _, done in reports]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    last = dict(reports)
    assert last["writing the tokens of en"] == pytest.approx(0.65, abs=0.02)  # the texts are about equally long
    assert last["writing the tokens of sw"] == pytest.approx(1.0)


def test_a_tiny_corpus_gives_full_batches(source: Source, tmp_path: Path) -> None:
    prepare(_job("en"), source, tmp_path / "prepared")
    for split in ("train", "meta", "valid"):
        store = Prepared(tmp_path / "prepared").store("en", split)
        stream = Stream(store, batch_size=32, sequence_length=64, seed=0, name=f"{split}/en")
        assert stream.batch(5).shape == (32, 64)


def test_names_the_largest_vocabulary_and_the_languages(source: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.vocab_size: 5000 .* training text of en, sw supports; at most \d+"):
        prepare(_job("en", "sw", vocab_size=5000), source, tmp_path / "prepared")


def test_bad_text_is_named(source: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no text for language 'de'"):
        prepare(_job("en", "de"), source, tmp_path / "prepared")
    source.text("en", "train").write_bytes(b"one\n\xff\n")
    with pytest.raises(InputError, match=r"en/train\.txt:2: byte 0xff"):
        prepare(_job("en"), source, tmp_path / "prepared")
    source.text("sw", "valid").write_bytes(b"\n")
    with pytest.raises(InputError, match=r"sw/valid\.txt: no sentence found"):
        prepare(_job("sw"), source, tmp_path / "prepared")
    with pytest.raises(InputError, match="not a complete one"):
        Prepared(tmp_path / "prepared")


def test_a_split_that_is_not_there_is_named(source: Source, tmp_path: Path) -> None:
    prepare(_job("en"), source, tmp_path / "prepared")
    prepared = Prepared(tmp_path / "prepared")
    with pytest.raises(InputError, match="no train split of sw; train, meta, valid of en are there"):
        prepared.store("sw", "train")
    with pytest.raises(InputError, match="no test split of en"):
        prepared.store("en", "test")


def test_the_kit(kit: Path, tmp_path: Path) -> None:
    job = _job("en", "hi", vocab_size=4000, subsample={"en": 4000, "hi": 3000}, meta_fraction=0.02)
    statistics = prepare(job, Source(kit), tmp_path / "prepared")
    assert json.loads((tmp_path / "prepared" / "statistics.json").read_text()) == statistics
    for language in ("en", "hi"):
        assert 1 < statistics[language]["tokens_per_word"] < 3
        assert statistics[language]["unknown_rate"] < 0.01
