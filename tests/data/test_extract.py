from __future__ import annotations

import gzip
import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.config import TextOptions
from raylab.data import extract as extract_module
from raylab.data.extract import PlainText, SeenNumbers, extract, relevant_options
from raylab.data.location import find_text
from raylab.data.readers import Reading
from raylab.errors import InputError


def _extract(location: Path, language: str = "en", **options: object) -> PlainText:
    return extract(find_text(str(location)), language, TextOptions.model_validate(options), location.parent / "cache")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same 200 documents of two sentences each in four kinds of files, and a valid split."""
    folder = tmp_path / "text"
    (folder / "train").mkdir(parents=True)
    documents = [f"This is document {n}. It has an end." for n in range(200)]
    (folder / "train" / "1.txt").write_text("\n".join(documents[:50]))
    (folder / "train" / "2.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents[50:100]))
    (folder / "train" / "3.txt.gz").write_bytes(gzip.compress("\n".join(documents[100:150]).encode()))
    pq.write_table(pa.table({"text": documents[150:]}), folder / "train" / "4.parquet")
    (folder / "valid.txt").write_text("Held out.\n")
    return folder


def test_a_mixed_folder_becomes_one_text(folder: Path) -> None:
    plain = _extract(folder)
    assert _lines(plain.train) == [f"This is document {n}. It has an end." for n in range(200)]
    assert _lines(plain.valid) == ["Held out."]
    assert plain.left_out == Reading(bytes=sum(path.stat().st_size for path in folder.rglob("*.*")))


def test_plain_files_are_taken_as_they_are(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text("one\n")
    plain = extract(find_text(str(tmp_path)), "en", TextOptions(), tmp_path / "cache")
    assert (plain.train, plain.valid) == (tmp_path / "train.txt", tmp_path / "valid.txt")
    assert not (tmp_path / "cache").exists()


def test_documents_become_sentences_once_each(folder: Path) -> None:
    plain = _extract(folder, sentence_split="rules", deduplicate=True)
    assert _lines(plain.train) == [
        "This is document 0.",
        "It has an end.",
        *(f"This is document {n}." for n in range(1, 200)),
    ]
    assert plain.left_out.dropped_duplicates == 199


def test_text_of_several_lines_is_several_sentences(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"text": " one \n\ntwo\u2028half\r\n e\u0301"}) + "\n" + json.dumps({"text": "x"}))
    (tmp_path / "valid.txt").write_text("v")
    assert _lines(_extract(tmp_path, normalization="nfc").train) == ["one", "two half", "\u00e9", "x"]


def test_without_a_valid_split_whole_documents_are_held_out(folder: Path) -> None:
    (folder / "valid.txt").unlink()
    options = {"sentence_split": "rules", "valid_fraction": 0.2}
    plain = _extract(folder / "train", **options)
    numbers = {split: set(_lines(getattr(plain, split))[::2]) for split in ("train", "valid")}
    assert not numbers["train"] & numbers["valid"]
    assert len(numbers["train"] | numbers["valid"]) == 200
    assert 15 < len(numbers["valid"]) < 65  # 4 standard deviations about 40
    assert set(_lines(plain.valid)[1::2]) == {"It has an end."}
    fewer = _extract(folder / "train", **{**options, "valid_fraction": 0.1})
    assert set(_lines(fewer.valid)[::2]) < numbers["valid"]


def test_what_was_extracted_is_kept(folder: Path) -> None:
    first = _extract(folder)
    marked = first.train.read_text() + "marker\n"
    first.train.write_text(marked)
    assert _extract(folder).train.read_text() == marked
    assert _extract(folder, valid_fraction=0.5, text_field="text").train.read_text() == marked
    assert _extract(folder, deduplicate=True).train != first.train
    assert _extract(folder, language="fr").train != first.train  # whose abbreviations differ
    (folder / "valid.txt").write_text("Another.\n")
    assert "marker" not in _extract(folder).train.read_text()


def test_options_that_cannot_matter_do_not_count(folder: Path) -> None:
    options = TextOptions(text_field="body", valid_fraction=0.3, normalization="nfc")
    assert relevant_options([find_text(str(folder))], options) == TextOptions(text_field="body", normalization="nfc")
    plain = find_text(str(folder / "train" / "1.txt"))
    assert relevant_options([plain], options) == TextOptions(valid_fraction=0.3, normalization="nfc")


def test_a_failure_leaves_nothing(folder: Path) -> None:
    (folder / "train" / "2.jsonl").write_text('{"text": "fine"}\n{"id": 1}\n')
    with pytest.raises(InputError, match=r"2\.jsonl:2: no field 'text'"):
        _extract(folder)
    assert [path.suffix for path in (folder.parent / "cache").iterdir()] == [".lock"]


def _wait_while_extracting(folder: Path) -> None:
    def hang(done: float) -> None:
        (folder.parent / "begun").touch()
        time.sleep(60)

    extract(find_text(str(folder)), "en", TextOptions(sentence_split="rules"), folder.parent / "cache", hang)


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_wait_while_extracting, args=(folder,))
    process.start()
    while not (folder.parent / "begun").exists() and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    cache = folder.parent / "cache"
    assert [path for path in cache.iterdir() if path.is_dir()]
    plain = _extract(folder, sentence_split="rules")
    assert [path for path in cache.iterdir() if path.is_dir()] == [plain.train.parent]


@pytest.mark.parametrize(
    ("train", "valid", "message"),
    [
        (b"\n", b"v", r"train\.jsonl: no sentence found in the train text; UTF-8 text is expected"),
        (b'{"text": "a"}', b"\n", r"valid\.txt: no sentence found in the valid text"),
        (b'{"text": "\xff"}', b"v", r"train\.jsonl: no sentence found in the train text: all 1 records are not UTF-8"),
        (
            b'{"text": "a"}',
            None,
            r"none of 1 sentences fell to the valid split; .*data\.valid_fraction: 0\.01 would do",
        ),
    ],
)
def test_a_split_that_comes_out_empty_is_refused(
    tmp_path: Path, train: bytes, valid: bytes | None, message: str
) -> None:
    (tmp_path / "train.jsonl").write_bytes(train)
    if valid is not None:
        (tmp_path / "valid.txt").write_bytes(valid)
    with pytest.raises(InputError, match=message):
        _extract(tmp_path, invalid_utf8="skip")


def test_progress_goes_up_to_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    extract(find_text(str(folder)), "en", TextOptions(), folder.parent / "cache", shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_processes_extract_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(3) as pool:
        found = pool.map(_extract, [folder] * 6)
    assert len({plain.train.stat().st_ino for plain in found}) == 1


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=30))
def test_numbers_are_new_once(batches: list[list[int]]) -> None:
    seen, counted = SeenNumbers(), Counter[int]()
    for batch in batches:
        expected = []
        for number in batch:
            expected.append(counted[number] == 0)
            counted[number] += 1
        assert seen.add(np.array(batch, dtype=np.uint64)).tolist() == expected
    assert len(seen) == len(counted)


def test_seen_numbers_take_eight_bytes_each() -> None:
    seen, rng = SeenNumbers(), np.random.default_rng(0)
    for _ in range(300):
        seen.add(rng.integers(0, 1 << 63, 1000, dtype=np.uint64))
    assert sum(run.nbytes for run in seen._runs) == 8 * len(seen) == 8 * 300_000
    assert len(seen._runs) < 12
    assert extract_module.content_numbers(["a"]) != extract_module.content_numbers(["b"])
