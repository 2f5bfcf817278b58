from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.data import store
from raylab.data.store import TokenStore, open_writer, write_tokens

SENTENCES = st.lists(st.lists(st.integers(4, 99), max_size=9), min_size=1, max_size=30)


def _run(sentences: list[list[int]], end: int = 3) -> list[int]:
    return [identifier for sentence in sentences for identifier in [*sentence, end]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@settings(max_examples=60, deadline=None)
@given(sentences=SENTENCES, chunk_tokens=st.integers(1, 50), rows=st.integers(1, 7), data=st.data())
def test_reads_what_was_written(
    folder: Path, sentences: list[list[int]], chunk_tokens: int, rows: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_CHUNK_TOKENS", chunk_tokens)
        patch.setattr(store, "_ROWS_AT_ONCE", rows)
        counts = write_tokens(folder / "tokens.arrow", iter(sentences), vocab_size=100, end_id=3)
    run = _run(sentences)
    assert (counts.sentences, counts.tokens) == (len(sentences), len(run))
    assert counts.frequencies.tolist() == np.bincount(run, minlength=100).tolist()

    tokens = TokenStore(folder / "tokens.arrow")
    assert (len(tokens), tokens.num_sentences) == (len(run), len(sentences))
    start = data.draw(st.integers(0, len(run)))
    count = data.draw(st.integers(0, len(run) - start))
    assert tokens.read(start, count).tolist() == run[start : start + count]

    starts = data.draw(st.lists(st.integers(0, len(run) - 1), max_size=5))
    length = data.draw(st.integers(1, 3 * len(run)))
    windows = tokens.windows(np.array(starts, dtype=np.int64), length)
    assert windows.dtype == np.int64
    ring = run * 4
    assert windows.tolist() == [ring[start : start + length] for start in starts]


def test_a_large_file_has_several_chunks(tmp_path: Path) -> None:
    sentences = np.arange(3_000_000, dtype=np.int64).reshape(-1, 100) % 5000
    write_tokens(tmp_path / "tokens.arrow", sentences.tolist(), vocab_size=5000, end_id=4999)
    assert pa.ipc.open_file(tmp_path / "tokens.arrow").num_record_batches == 3
    tokens = TokenStore(tmp_path / "tokens.arrow")
    expected = np.concatenate([sentences, np.full((30_000, 1), 4999)], axis=1).ravel()
    assert np.array_equal(tokens.read(0, len(tokens)), expected)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_ids_take_as_few_bytes_as_they_can(tmp_path: Path, vocab_size: int, dtype: type[np.unsignedinteger]) -> None:
    write_tokens(tmp_path / "tokens.arrow", [[vocab_size - 1]], vocab_size=vocab_size, end_id=3)
    tokens = TokenStore(tmp_path / "tokens.arrow").read(0, 2)
    assert tokens.dtype == dtype
    assert tokens.tolist() == [vocab_size - 1, 3]


def test_is_mapped_not_loaded(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.arrow", [[5] * 100_000], vocab_size=100, end_id=3)
    before = pa.total_allocated_bytes()
    tokens = TokenStore(tmp_path / "tokens.arrow")
    assert pa.total_allocated_bytes() - before < 10_000
    assert not tokens.read(0, 100_000).flags.owndata


def test_a_file_is_plain_arrow(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.arrow", [[5, 6], [], [7]], vocab_size=100, end_id=3)
    table = pa.ipc.open_file(tmp_path / "tokens.arrow").read_all()
    assert table.to_pydict() == {"tokens": [[5, 6, 3], [3], [7, 3]]}


def test_an_empty_store(tmp_path: Path) -> None:
    counts = write_tokens(tmp_path / "tokens.arrow", [], vocab_size=100, end_id=3)
    tokens = TokenStore(tmp_path / "tokens.arrow")
    assert (counts.tokens, len(tokens), tokens.num_sentences) == (0, 0, 0)
    assert tokens.read(0, 0).tolist() == []


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, 4), (3, 1), (0, -1)])
def test_reading_outside_is_an_error(tmp_path: Path, start: int, count: int) -> None:
    write_tokens(tmp_path / "tokens.arrow", [[5, 6]], vocab_size=100, end_id=3)
    with pytest.raises(ValueError, match="which has 3"):
        TokenStore(tmp_path / "tokens.arrow").read(start, count)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with open_writer(tmp_path / "tokens.arrow", vocab_size=100, end_id=3) as writer:
            writer.write([[5, 6]])
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []
