from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.data import readers
from raylab.data.corpus import Reading, open_corpus, read_blocks, read_sentences, split_meta
from raylab.errors import InputError

WORDS = st.text(alphabet="abcdé日", min_size=1, max_size=4)


def _splits(train: Path, valid: Path, reading: Reading | None = None, **options: object) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {"train": [], "meta": [], "valid": []}
    for split, sentences in open_corpus(train, valid, **options).blocks(reading):  # type: ignore[arg-type]
        splits[split] += map(bytes.decode, sentences)
    return splits


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    train, valid = tmp_path / "train.txt", tmp_path / "valid.txt"
    train.write_text("".join(f"sentence {number}\n" for number in range(1000)), encoding="utf-8")
    valid.write_text("held out\n", encoding="utf-8")
    return train, valid


def test_reads_lines_as_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffone \r\n\n  \t\n two\u2028half\nlast é".encode())
    assert list(read_sentences(path)) == ["one", "two half", "last é"]


def test_blocks_end_at_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 7)
    path = tmp_path / "text.txt"
    sentences = ["é" * length for length in range(1, 20)]
    path.write_text("\n".join(sentences), encoding="utf-8")
    blocks = list(read_blocks(path))
    assert len(blocks) > 10
    assert [sentence for block in blocks for sentence in map(bytes.decode, block)] == sentences


@pytest.mark.parametrize("block_bytes", [1 << 18, 5])
def test_invalid_utf8_stops_at_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(readers, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\n\nthree\nbad \xff line\nfive\n\xc3\nseven")
    with pytest.raises(
        InputError, match=r"text\.txt:4: byte 0xff at position 5 of the line .* data\.invalid_utf8: skip"
    ):
        list(read_sentences(path))


@pytest.mark.parametrize("block_bytes", [1 << 18, 5])
def test_invalid_utf8_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(readers, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\n\nthree\nbad \xff line\nfive\n\xc3\nseven")
    reading = Reading()
    assert list(read_sentences(path, invalid_utf8="skip", reading=reading)) == ["one", "three", "five", "seven"]
    assert reading.skipped_lines == 2
    assert reading.bytes == path.stat().st_size


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(InputError, match=r"text\.txt: no such file"):
        list(read_sentences(path))
    path.write_text(" \n\n")
    with pytest.raises(InputError, match=r"text\.txt: no sentence found: the file is empty"):
        list(read_sentences(path))
    path.write_bytes(b"\xff\n\xfe\n")
    with pytest.raises(InputError, match="all 2 lines with text are not UTF-8"):
        list(read_sentences(path, invalid_utf8="skip"))


def test_splits_are_disjoint_and_complete(files: tuple[Path, Path]) -> None:
    splits = _splits(*files, meta_fraction=0.1)
    assert not set(splits["train"]) & set(splits["meta"])
    assert sorted(splits["train"] + splits["meta"]) == sorted(f"sentence {number}" for number in range(1000))
    assert splits["train"] == [f"sentence {n}" for n in range(1000) if not split_meta(f"sentence {n}", 0.1)]
    assert 60 < len(splits["meta"]) < 140  # 4 standard deviations about 100
    assert splits["valid"] == ["held out"]


def test_splits_are_the_same_everywhere() -> None:
    found = [number for number in range(100) if split_meta(f"sentence {number}", 0.1)]
    assert found == [2, 18, 21, 31, 48, 52, 65, 77, 81, 95, 96]


def test_no_meta_split_without_a_fraction(files: tuple[Path, Path]) -> None:
    assert not _splits(*files)["meta"]


@given(sentence=WORDS, fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_meta_split_has_the_smaller(sentence: str, fractions: tuple[float, float]) -> None:
    smaller, larger = sorted(fractions)
    assert split_meta(sentence, smaller) <= split_meta(sentence, larger)


@settings(max_examples=50, deadline=None)
@given(
    sentences=st.lists(st.sampled_from("abcdeé日"), min_size=1, max_size=40),
    valid=st.lists(st.sampled_from("abxyz"), min_size=1, max_size=3),
    counts=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    block_bytes=st.integers(1, 30),
)
def test_subsamples_are_nested_and_exact(
    tmp_path_factory: pytest.TempPathFactory,
    sentences: list[str],
    valid: list[str],
    counts: tuple[int, int],
    block_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    train_path, valid_path = folder / "train.txt", folder / "valid.txt"
    train_path.write_text("\n".join([*sentences, "zzz"]), encoding="utf-8")
    valid_path.write_text("\n".join(valid), encoding="utf-8")
    available = [sentence for sentence in [*sentences, "zzz"] if sentence not in valid]
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_BLOCK_BYTES", block_bytes)
        for count in sorted(counts):
            reading = Reading()
            kept.append(_splits(train_path, valid_path, reading, subsample=count)["train"])
            assert len(kept[-1]) == min(count, len(available))
            assert reading.dropped_duplicates == len(sentences) + 1 - len(available)
    smaller, larger = map(Counter, kept)
    assert smaller <= larger <= Counter(available)


def test_a_subsample_does_not_depend_on_the_order_of_lines(files: tuple[Path, Path]) -> None:
    train, valid = files
    before = _splits(train, valid, subsample=100, meta_fraction=0.1)
    assert len(before["train"]) + len(before["meta"]) == 100
    train.write_text("".join(reversed(train.read_text().splitlines(keepends=True))))
    after = _splits(train, valid, subsample=100, meta_fraction=0.1)
    assert {split: sorted(sentences) for split, sentences in before.items()} == {
        split: sorted(sentences) for split, sentences in after.items()
    }


def test_subsample_and_meta_split_are_independent(files: tuple[Path, Path]) -> None:
    splits = _splits(*files, subsample=500, meta_fraction=0.3)
    assert 100 < len(splits["meta"]) < 200  # 4 standard deviations about 150


def test_no_sentence_left_to_train_on_is_refused(files: tuple[Path, Path]) -> None:
    train, valid = files
    train.write_text("held out\nheld out \n")
    with pytest.raises(InputError, match=r"train\.txt: no sentence is left .* all 2 also stand in valid\.txt"):
        _splits(train, valid)
    train.write_text("another\n")
    with pytest.raises(InputError, match=r"all 1 fell to the meta split; lower data\.meta_fraction"):
        _splits(train, valid, meta_fraction=1.0)


def test_the_tokenizer_sample_is_of_the_train_split(files: tuple[Path, Path]) -> None:
    opened = open_corpus(*files, meta_fraction=0.2)
    train = [sentence for split, block in opened.blocks() if split == "train" for sentence in map(bytes.decode, block)]
    assert list(opened.tokenizer_sample(1.0)) == train
    sample = list(opened.tokenizer_sample(0.25))
    assert set(sample) < set(train)
    assert 150 < len(sample) < 250  # 4 standard deviations about 200
    assert list(opened.tokenizer_sample(2.25)) == [*train, *train, *sample]


def test_sizes_are_of_what_is_kept(files: tuple[Path, Path]) -> None:
    train, valid = files
    assert open_corpus(train, valid).train_size == train.stat().st_size
    assert open_corpus(train, valid, subsample=250).train_size == round(train.stat().st_size / 4)
    reading = Reading()
    opened = open_corpus(train, valid)
    list(opened.blocks(reading))
    assert reading.bytes == opened.size
