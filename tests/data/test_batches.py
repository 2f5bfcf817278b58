from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.data import store
from raylab.data.batches import Stream
from raylab.data.store import TokenStore, write_tokens
from raylab.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches")


def _counting_store(folder: Path, length: int, chunk_tokens: int = 1 << 20) -> TokenStore:
    """A store whose tokens are 0, 1, 2, ...: a token tells its place."""
    sentences = ([*range(first, min(first + 9, length) - 1)] for first in range(0, length, 9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_CHUNK_TOKENS", chunk_tokens)
        patch.setattr(store, "_ROWS_AT_ONCE", 1)
        write_tokens(folder / f"{length}.arrow", sentences, vocab_size=1 << 16, end_id=0)
    counting = TokenStore(folder / f"{length}.arrow")
    assert len(counting) == length
    counting._chunks = [chunk.copy() for chunk in counting._chunks]
    place = 0
    for chunk in counting._chunks:
        chunk[:] = range(place, place + len(chunk))
        place += len(chunk)
    return counting


def _windows(stream: Stream, epoch: int, batch_size: int) -> list[list[int]]:
    """The windows of one epoch, whatever batches they are in."""
    first, last = epoch * stream.windows_per_epoch, (epoch + 1) * stream.windows_per_epoch
    rows = torch.cat([stream.batch(index) for index in range(first // batch_size, (last - 1) // batch_size + 1)])
    skipped = first // batch_size * batch_size
    return rows[first - skipped : last - skipped].tolist()


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 300),
    batch_size=st.integers(1, 7),
    sequence_length=st.integers(1, 40),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 100),
)
def test_an_epoch_visits_every_window_once(
    folder: Path, length: int, batch_size: int, sequence_length: int, epoch: int, seed: int
) -> None:
    counting = _counting_store(folder, length, chunk_tokens=50)
    stream = Stream(counting, batch_size=batch_size, sequence_length=sequence_length, seed=seed, name="train/en")
    windows = _windows(stream, epoch, batch_size)
    assert len(windows) == stream.windows_per_epoch == max(1, length // sequence_length)
    for window in windows:
        assert window == [(window[0] + place) % length for place in range(sequence_length)]
    if length >= sequence_length:
        places = [place for window in windows for place in window]
        assert len(places) == len(set(places)) == length // sequence_length * sequence_length


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 200),
    batch_size=st.integers(1, 9),
    reads=st.lists(st.integers(0, 60), min_size=1, max_size=10),
)
def test_a_batch_does_not_depend_on_what_was_read_before(
    folder: Path, length: int, batch_size: int, reads: list[int]
) -> None:
    counting = _counting_store(folder, length)

    def fresh() -> Stream:
        return Stream(counting, batch_size=batch_size, sequence_length=8, seed=3, name="train/en")

    used = fresh()
    for index in reads:
        batch = used.batch(index)
        assert batch.dtype == torch.int64
        assert batch.shape == (batch_size, 8)
        assert torch.equal(batch, fresh().batch(index))


def test_epochs_seeds_and_names_shuffle_differently(folder: Path) -> None:
    counting = _counting_store(folder, 1000)

    def windows(seed: int, name: str, epoch: int) -> list[list[int]]:
        return _windows(Stream(counting, batch_size=4, sequence_length=10, seed=seed, name=name), epoch, 4)

    base = windows(0, "train/en", 0)
    assert base == windows(0, "train/en", 0)
    for other in (windows(0, "train/en", 1), windows(1, "train/en", 0), windows(0, "train/fr", 0)):
        assert base != other
    steps = [(after[0] - before[0]) % 1000 for before, after in pairwise(base)]
    assert steps.count(10) < 20  # of 99: the order is not the text's
    assert len({window[0] % 10 for epoch in range(10) for window in windows(0, "train/en", epoch)}) > 3


def test_a_small_corpus_wraps_around(folder: Path) -> None:
    counting = _counting_store(folder, 200 * 9)
    stream = Stream(counting, batch_size=32, sequence_length=64, seed=0, name="train/sw")
    assert stream.windows_per_epoch == 28
    for index in range(20):
        batch = stream.batch(index)
        assert batch.shape == (32, 64)
        assert len({tuple(row) for row in batch.tolist()}) >= 28


def test_a_store_shorter_than_a_window_repeats(folder: Path) -> None:
    stream = Stream(_counting_store(folder, 5), batch_size=2, sequence_length=12, seed=0, name="train/sw")
    for row in stream.batch(3).tolist():
        assert row == [(row[0] + place) % 5 for place in range(12)]
    assert [batch.tolist() for batch in stream.in_order(4)] == [[[0, 1, 2, 3, 4]]]


def test_in_order_reads_the_text_once(folder: Path) -> None:
    stream = Stream(_counting_store(folder, 107), batch_size=4, sequence_length=10, seed=0, name="valid/en")
    batches = stream.in_order(8)
    assert [tuple(batch.shape) for batch in batches] == [(4, 10), (4, 10), (2, 10)]
    assert torch.cat(batches).ravel().tolist() == list(range(100))


def test_in_order_spreads_over_the_text(folder: Path) -> None:
    stream = Stream(_counting_store(folder, 1000), batch_size=2, sequence_length=10, seed=0, name="valid/en")
    batches = stream.in_order(5)
    assert [row[0] for batch in batches for row in batch.tolist()] == list(range(0, 1000, 100))
    assert all(torch.equal(a, b) for a, b in zip(batches, stream.in_order(5), strict=True))


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    write_tokens(tmp_path / "meta.arrow", [], vocab_size=10, end_id=3)
    with pytest.raises(InputError, match=r"meta\.arrow: no tokens for meta/sw; .* data\.meta_fraction"):
        Stream(TokenStore(tmp_path / "meta.arrow"), batch_size=1, sequence_length=1, seed=0, name="meta/sw")
