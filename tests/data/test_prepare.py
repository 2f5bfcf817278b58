from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto

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


def _text(source: Source, language: str, split: str) -> Path:
    return source.root / "text" / language / f"{split}.txt"


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
        valid = list(read_sentences(_text(source, language, "valid")))
        kept = [sentence for sentence in read_sentences(_text(source, language, "train")) if sentence not in valid]
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
    train = _text(source, "sw", "train")
    text = ("paka mbwa " * 50).strip() + "\n"
    train.write_bytes((text * 300 + "paka 日\n").encode() + b"\xff\n")
    valid = _text(source, "sw", "valid")
    valid.write_bytes(valid.read_bytes() + b"\xff\n")
    statistics = prepare(
        _job("sw", vocab_size=20, meta_fraction=0.0, invalid_utf8="skip"), source, tmp_path / "prepared"
    )["sw"]
    assert statistics["skipped_lines"] == 2
    subwords = statistics["tokens"]["train"] - statistics["sentences"]["train"]
    assert statistics["unknown_rate"] == pytest.approx(1 / subwords)
    assert statistics["words"] == 300 * 100 + 2


def test_the_tokenizer_reads_a_bounded_sample(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _text(source, "en", "train").write_text("\n".join(f"{n} {'xyz'[n % 3]}{n // 2}" for n in range(2000)))
    job = _job("en", vocab_size=400)
    prepare(job, source, tmp_path / "all")
    monkeypatch.setattr(prepare_module, "_TOKENIZER_BYTES", 500)
    with pytest.raises(InputError, match=r"at most \d\d\d? would do"):
        prepare(job, source, tmp_path / "sample")


def test_a_small_corpus_beside_a_large_one_keeps_its_characters(source: Source, tmp_path: Path) -> None:
    _text(source, "en", "train").write_text("\n".join(f"the cat sat on the mat {n}" for n in range(20_000)))
    _text(source, "sw", "train").write_text("\n".join(f"बिल्ली चटाई पर {n}" for n in range(20)), encoding="utf-8")
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
    _text(source, "en", "train").write_bytes(b"one\n\xff\n")
    with pytest.raises(InputError, match=r"en/train\.txt:2: byte 0xff"):
        prepare(_job("en"), source, tmp_path / "prepared")
    _text(source, "sw", "valid").write_bytes(b"\n")
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


def _killed_at(job: PrepareJob, source: Source, folder: Path, message: str) -> None:
    """Prepare until something is reported for the first time, and stop there."""

    def stop(what: str, done: float) -> None:
        if what == message:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(job, source, folder, stop)


def _files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_goes_on_from_what_was_done(source: Source, tmp_path: Path) -> None:
    job = _job("en", "sw")
    expected = prepare(job, source, tmp_path / "undisturbed")
    _killed_at(job, source, tmp_path / "killed", "writing the tokens of sw")
    before = _files(tmp_path / "killed")
    assert set(before) == {
        "done.json",
        "tokenizer.model",
        *(f"tokens/en/{s}.arrow" for s in ("train", "meta", "valid")),
    }
    reports: list[str] = []
    assert prepare(job, source, tmp_path / "killed", lambda what, done: reports.append(what)) == expected
    after = _files(tmp_path / "killed")
    assert all(after[name] == before[name] for name in before if name != "done.json")
    assert "writing the tokens of en" not in reports
    undisturbed = _files(tmp_path / "undisturbed")
    assert {name: contents for name, (_, contents) in after.items()} == {
        name: contents for name, (_, contents) in undisturbed.items()
    }


def test_what_another_job_left_is_not_kept(source: Source, tmp_path: Path) -> None:
    _killed_at(_job("en", "sw"), source, tmp_path / "killed", "writing the tokens of sw")
    before = _files(tmp_path / "killed")
    prepare(_job("en", "sw", meta_fraction=0.3), source, tmp_path / "killed")
    after = _files(tmp_path / "killed")
    assert after["tokens/en/train.arrow"] != before["tokens/en/train.arrow"]
    _text(source, "en", "train").write_text("the text changed\n" * 300)
    _killed_at(_job("sw"), source, tmp_path / "other", "writing the tokens of sw")
    prepare(_job("en", vocab_size=20), Source(source.root), tmp_path / "other")
    assert list(Prepared(tmp_path / "other").statistics) == ["en"]


def test_temporary_files_of_a_killed_process_are_removed_after_an_hour(source: Source, tmp_path: Path) -> None:
    left = tmp_path / "prepared" / "tokens" / "en" / f".train.arrow.{'0' * 32}"
    fresh = left.with_name(f".train.arrow.{'1' * 32}")
    left.parent.mkdir(parents=True)
    for path in (left, fresh):
        path.touch()
    os.utime(left, (0, time.time() - 4000))
    prepare(_job("en"), source, tmp_path / "prepared")
    assert not left.exists()
    assert fresh.exists()  # another process may be writing it


def test_text_that_is_not_plain(source: Source, tmp_path: Path) -> None:
    expected = prepare(_job("en", "sw"), source, tmp_path / "plain")
    for language in ("en", "sw"):
        for split in ("train", "valid"):
            path = _text(source, language, split)
            records = [json.dumps({"text": line}) for line in path.read_text().splitlines()]
            path.with_suffix(".jsonl.gz").write_bytes(gzip.compress("\n".join(records).encode()))
            path.unlink()
    reports: list[tuple[str, float]] = []
    found = prepare(
        _job("en", "sw"), Source(source.root), tmp_path / "packed", lambda what, done: reports.append((what, done))
    )
    assert found == expected
    shares = [done for _, done in reports]
    assert shares == sorted(shares)
    assert dict(reports)["extracting the text of sw"] == 0.25
    assert not (tmp_path / "packed" / "text").exists()
    cached = Source(source.root, cache=tmp_path / "cache")
    assert prepare(_job("en", "sw"), cached, tmp_path / "cached") == expected
    assert len(list((tmp_path / "cache").glob("*/train.txt"))) == 2


def test_repeated_sentences_are_dropped_and_counted(source: Source, tmp_path: Path) -> None:
    path = _text(source, "en", "train")
    path.write_text(path.read_text() + "\n" + path.read_text())
    kept = prepare(_job("en"), source, tmp_path / "kept")["en"]
    once = prepare(_job("en", deduplicate=True), Source(source.root), tmp_path / "once")["en"]
    assert kept["sentences"]["train"] == 2 * once["sentences"]["train"]
    assert (kept["dropped_duplicates"], once["dropped_duplicates"]) == (2, 201)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_kinds_of_tokenizers_that_are_trained(source: Source, tmp_path: Path, kind: str) -> None:
    prepare(_job("en", tokenizer=kind, vocab_size=45), source, tmp_path / "prepared")
    model = ModelProto.FromString(Prepared(tmp_path / "prepared").tokenizer_path.read_bytes())
    assert model.trainer_spec.model_type == model.trainer_spec.ModelType.Value(kind.upper())
    assert len(model.pieces) == 45


def test_the_tokenizer_temperature_decides_whose_words_get_pieces(source: Source, tmp_path: Path) -> None:
    _text(source, "en", "train").write_text("\n".join(f"cat dog tree house {n % 10}" for n in range(20_000)))
    words = {}
    for temperature in (1.0, 100.0):
        folder = tmp_path / f"{temperature}"
        prepare(_job("en", "sw", vocab_size=48, tokenizer_temperature=temperature), source, folder)
        words[temperature] = Prepared(folder).statistics["sw"]["tokens_per_word"]
    assert words[100.0] < words[1.0]


def test_an_existing_sentencepiece_model(source: Source, tmp_path: Path) -> None:
    prepare(_job("en"), source, tmp_path / "first")
    model = shutil.copy(tmp_path / "first" / "tokenizer.model", tmp_path / "mine.model")
    statistics = prepare(_job("en", tokenizer=str(model), vocab_size=None), source, tmp_path / "second")
    assert statistics == Prepared(tmp_path / "first").statistics
    Path(model).unlink()
    valid = _text(source, "en", "valid").read_text().splitlines()
    prepared = Prepared(tmp_path / "second")
    assert prepared.tokenizer_path == tmp_path / "second" / "tokenizer.model"
    assert _sentences(prepared.store("en", "valid")) == prepared.tokenizer.encode_batch(valid)


def _hugging_face(folder: Path, *, mask: str = "[MASK]") -> Path:
    """A small WordPiece tokenizer as transformers' save_pretrained writes it."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=90, special_tokens=special)
    tokenizer.train_from_iterator(["cat dog tree house paka mbwa mti nyumba 0123456789"] * 9, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": mask}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    (folder / "model.safetensors").write_bytes(b"weights that nobody needs here")
    return folder


def test_an_existing_tokenizer_of_hugging_face(source: Source, tmp_path: Path) -> None:
    mine = _hugging_face(tmp_path / "mine")
    statistics = prepare(_job("en", "sw", tokenizer=str(mine), vocab_size=None), source, tmp_path / "prepared")
    shutil.rmtree(mine)
    prepared = Prepared(tmp_path / "prepared")
    assert prepared.tokenizer_path == tmp_path / "prepared" / "tokenizer"
    assert sorted(path.name for path in prepared.tokenizer_path.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    ids = prepared.store("en", "valid").read(0, statistics["en"]["tokens"]["valid"]).tolist()
    assert ids == [
        token
        for sentence in _text(source, "en", "valid").read_text().splitlines()
        for token in [*prepared.tokenizer.encode(sentence), prepared.tokenizer.eos_id]
    ]


def test_a_tokenizer_that_is_not_there_or_cannot_mask_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"data\.tokenizer: no .*nowhere; bpe, unigram, a SentencePiece model file, or"
    ):
        prepare(_job("en", tokenizer=str(tmp_path / "nowhere"), vocab_size=None), source, tmp_path / "prepared")
    mine = _hugging_face(tmp_path / "mine", mask="[OTHER]")
    with pytest.raises(InputError, match=r"mine/tokenizer_config\.json: names no mask_token"):
        prepare(_job("en", tokenizer=str(mine), vocab_size=None), source, tmp_path / "prepared")
