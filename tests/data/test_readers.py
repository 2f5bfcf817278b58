"""Readers of text: what they give, what they refuse, and that no bytes whatever bring anything but an `InputError`."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.data import readers
from raylab.data.location import find_text
from raylab.data.readers import LONGEST_LINE, Reading, read_records, split_lines, split_utf8
from raylab.errors import InputError

SENTENCES = ["one", "zwei é", "三 日本"]


def _read(path: Path, reading: Reading | None = None, field: str = "text", invalid: str = "stop") -> list[str]:
    (file,) = find_text(str(path))["train"]
    reading = reading or Reading()
    blocks = read_records(file, text_field=field, invalid_utf8=invalid, reading=reading)  # type: ignore[arg-type]
    return [text for block in blocks for text in block]


def _contents(suffix: str, texts: list[str]) -> bytes:
    """A file of this kind."""
    if suffix == ".parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), sink)
        return bytes(sink.getvalue())
    kind, _, compression = suffix.removeprefix(".").partition(".")
    lines = [json.dumps({"id": 1, "text": text}) if kind == "jsonl" else text for text in texts]
    data = "".join(f"{line}\n" for line in lines).encode()
    codec = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}.get(compression)
    return data if codec is None else _compress(data, codec)


def _compress(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return bytes(sink.getvalue())


SUFFIXES = [".txt", ".txt.gz", ".txt.zst", ".txt.bz2", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_gives_its_records(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(_contents(suffix, SENTENCES))
    reading = Reading()
    assert _read(path, reading) == SENTENCES
    assert reading == Reading(bytes=path.stat().st_size)


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".jsonl.zst", ".parquet"])
def test_records_do_not_depend_on_the_blocks(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"sentence {'é' * (n % 50)} {n}" for n in range(1000)]
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(_contents(suffix, texts))
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 17)
    monkeypatch.setattr(readers, "_ROWS_AT_ONCE", 3)
    assert _read(path) == texts


@given(st.text(alphabet="a \t\r\n\v\f\x1c\x85\u2028é"))
def test_lines_end_at_line_feeds_alone(text: str) -> None:
    lines = [line.strip() for line in text.split("\n")]
    found = split_lines(text)
    assert len(found) == len([line for line in lines if line])
    assert all(len(line.splitlines()) == 1 for line in found)
    assert [line.split() for line in found] == [line.split() for line in lines if line]


SPACES = "".join(character for character in map(chr, range(0x3001)) if character.isspace())


@settings(max_examples=500)
@given(
    st.lists(st.one_of(st.sampled_from([*SPACES, "\n", "a", "é", "“", "ア"]), st.characters(exclude_categories=["Cs"])))
)
def test_utf8_is_split_as_text_is(characters: list[str]) -> None:
    text = "".join(characters)
    assert split_utf8(text.encode()) == [line.encode() for line in split_lines(text)]


def test_compressed_files_may_have_several_parts(tmp_path: Path) -> None:
    for suffix in (".txt.gz", ".txt.zst", ".txt.bz2"):
        path = tmp_path / f"corpus{suffix}"
        path.write_bytes(_contents(suffix, ["one"]) + _contents(suffix, ["two"]))
        assert _read(path) == ["one", "two"]


def test_another_field(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('\ufeff{"text": 1, "body": "one"}\n\n{"body": null}\n{"body": ""}\n{"body": "two\\nlines"}')
    assert _read(path, field="body") == ["one", "two\nlines"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"corpus\.jsonl:2: not JSON \(Expecting property name .*\); an object a line is expected"),
        ("[1]", r":2: found a JSON array; an object with the field 'text' is expected"),
        ("null", r":2: found a JSON null; an object"),
        ('{"body": "x", "id": 1}', r":2: no field 'text'; those there are 'body', 'id'; data\.text_field names it"),
        ('{"text": 3}', r":2: the field 'text' is a JSON number; a string is expected"),
        ("[" * 100_000, r":2: not JSON \(.*recursion"),
        ('{"text": "\\ud800"}', r":2: half of a surrogate pair in 'text' is not Unicode; .*data\.invalid_utf8: skip"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(InputError, match=message):
        _read(path)


def test_records_that_are_not_utf8_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "\xff"}\n{"text": "\\udfff"}\n{"text": "two"}\n')
    reading = Reading()
    assert _read(path, reading, invalid="skip") == ["one", "two"]
    assert reading.skipped_lines == 2
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"text": pa.array([b"one", b"\xff", None, b"two"]).view(pa.string())}), path)
    with pytest.raises(InputError, match=r"corpus\.parquet: row 2 is not UTF-8"):
        _read(path)
    reading = Reading()
    assert _read(path, reading, invalid="skip") == ["one", "two"]
    assert reading.skipped_lines == 1


def test_a_parquet_file_without_the_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), path)
    with pytest.raises(InputError, match=r"corpus\.parquet: no column 'text'; those there are 'id', 'body'"):
        _read(path)
    with pytest.raises(InputError, match=r"the column 'id' is of type int64; strings are expected"):
        _read(path, field="id")
    pq.write_table(pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode()}), path)
    assert _read(path) == ["a", "b", "a"]


@pytest.mark.parametrize("suffix", [".txt.gz", ".txt.zst", ".jsonl.gz", ".parquet"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(_contents(suffix, [f"sentence {n}" for n in range(1000)])[:-9])
    with pytest.raises(InputError) as found:
        _read(path)
    assert str(found.value).startswith(f"{path}: cannot be read: ")
    assert "\n" not in str(found.value)


def test_a_line_of_any_length_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    with path.open("wb") as stream:
        stream.write(b"fine\n")
        stream.truncate(1 << 30)  # a line of 1 GiB, which takes no room on the disk
    code = (
        "import resource, sys; from pathlib import Path; from raylab.data.corpus import read_sentences\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: list(read_sentences(Path(sys.argv[1])))\n"
        "except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    message, grown = done.stdout.splitlines()
    assert message == f"{path}:2: the line is longer than 8 MiB; one sentence, or document, a line would do"
    assert int(grown) < 64 << 10  # KiB


def test_the_longest_line_is_read(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"one\n" + b"x" * LONGEST_LINE + b"\ntwo\n")
    assert [len(text) for text in _read(path)] == [3, LONGEST_LINE, 3]
    path.write_bytes(b"one\n" + b"x" * (LONGEST_LINE + 1) + b"\ntwo\n")
    with pytest.raises(InputError, match=r":2: the line is longer"):
        _read(path)


def test_a_file_that_is_refused_leaves_no_memory_behind(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n")[:-4] + b"\0\0\0\0")

    def allocated() -> int:
        """Bytes of the process's memory of its own, touched or not."""
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[5]) * os.sysconf("SC_PAGE_SIZE")

    before = allocated()
    for _ in range(300):
        with pytest.raises(InputError):
            _read(path)
    assert allocated() - before < 100 << 20


def _mutated(draw: random.Random, valid: bytes) -> bytes:
    """Random bytes, or a valid file with some of its bytes changed, cut out, doubled or moved."""
    if draw.random() < 0.2:
        return draw.randbytes(draw.randrange(200))
    data = bytearray(valid)
    for _ in range(draw.randrange(1, 6)):
        place, length = draw.randrange(len(data) + 1), draw.randrange(1, 20)
        match draw.randrange(4):
            case 0:
                data[place : place + length] = draw.randbytes(length)
            case 1:
                del data[place : place + draw.randrange(len(data) + 1)]
            case 2:
                data[place:place] = data[place : place + length]
            case _:
                data[place : place + 1] = draw.choice([b"\0", b"\xff", b"\n", b'"', b"\x7f", b"{"])
    return bytes(data)


def _fuzz(path: Path, seeds: Iterator[int]) -> int:
    """Read mutated files; returns how many were refused."""
    suffix = "".join(path.suffixes)
    valid = [_contents(suffix, texts) for texts in (SENTENCES, ["a"], [f"word {n} é" for n in range(30)])]
    messages = []
    for seed in seeds:
        draw = random.Random(seed)
        path.write_bytes(_mutated(draw, draw.choice(valid)))
        try:
            texts = _read(path, invalid=draw.choice(["stop", "skip"]))
        except InputError as error:
            messages.append(str(error))
        else:
            "\n".join(texts).encode()  # what is given is Unicode
    assert all("\n" not in message for message in messages)
    return len(messages)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=20, deadline=None)
@given(first=st.integers(0, 1 << 40))
def test_no_bytes_bring_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, first: int
) -> None:
    _fuzz(tmp_path_factory.mktemp("fuzz") / f"corpus{suffix}", iter(range(first, first + 10)))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ten_thousand_inputs_bring_nothing_but_an_input_error(tmp_path: Path, suffix: str) -> None:
    refused = _fuzz(tmp_path / f"corpus{suffix}", iter(range(10_000)))
    assert 100 < refused < 10_000
