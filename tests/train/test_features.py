from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_language import ner_sentences, pos_sentences, write_conll, write_conllu

from raylab.errors import InputError
from raylab.train.features import kept_features, load_features


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    kept_features.cache_clear()


@pytest.fixture
def load(world: Path, tmp_path: Path) -> Any:
    def load(
        dataset: Path | None = None,
        max_length: int = 24,
        stride: int = 0,
        folder: Path | None = tmp_path / "features",
        task: str = "ner",
    ) -> Any:
        path = dataset or world / "ner.aa.train"
        return load_features(task, path, world / "tokenizer.model", max_length, stride, folder)

    return load


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix != ".lock")


def content(features: Any) -> list[Any]:
    return [
        value.tolist() if isinstance(value, np.ndarray) else value
        for value in (features.tokens.values, features.tokens.offsets, features.first, features.tags, features.gold)
    ]


def test_what_is_read_back_is_what_was_made(load: Any, tmp_path: Path) -> None:
    expected = content(load(folder=None))
    made = load()
    kept_features.cache_clear()
    read = load()
    assert read is not made
    assert content(made) == content(read) == expected
    for features in (made, read):  # both are shared
        with pytest.raises(ValueError, match="read-only"):
            features.tokens.values[0] = 1
    assert len(files(tmp_path / "features")) == 1


def test_a_process_keeps_what_it_has_read(load: Any) -> None:
    assert load() is load()
    assert kept_features.cache_info().maxsize is not None


def test_equal_contents_are_made_once_wherever_they_lie(load: Any, world: Path, tmp_path: Path) -> None:
    load()
    copy = tmp_path / "ner.aa.train"
    copy.write_bytes((world / "ner.aa.train").read_bytes())
    load(copy)
    assert len(files(tmp_path / "features")) == 1


@pytest.mark.parametrize("change", [{"max_length": 12}, {"stride": 3}])
def test_what_features_depend_on_is_in_their_name(load: Any, tmp_path: Path, change: dict[str, int]) -> None:
    load()
    load(**change)
    assert len(files(tmp_path / "features")) == 2


def test_a_changed_file_is_read_anew_even_with_its_size_and_date(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "some"
    for number in range(40):  # some of them so soon after the one before that the clock of file times has not moved on
        tag = ("B-PER", "B-LOC")[number % 2]
        write_conll(path, [[("kana", tag)]])
        os.utime(path, (0, 0))
        assert load(path).gold == [[tag]]


def test_an_old_file_that_changes_is_read_anew(load: Any, world: Path, tmp_path: Path) -> None:
    path = tmp_path / "some"
    os.link(world / "ner.aa.dev", path)  # its contents' fingerprint may be known by now
    before = load(path).gold
    path.unlink()
    write_conll(path, ner_sentences(9, 30))
    assert load(path).gold != before


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_file_that_is_not_whole_is_made_anew(load: Any, tmp_path: Path, data: st.DataObject) -> None:
    expected = content(load(folder=None))
    load()
    (file,) = files(tmp_path / "features")
    whole = file.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from(
            [
                whole[:place],
                whole + b"more",
                whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
                whole[place:],
                b"other",
            ]
        )
    )
    file.unlink()
    file.write_bytes(damaged)
    kept_features.cache_clear()
    assert content(load()) == expected
    assert file.read_bytes() == whole


def test_features_outlive_their_file(load: Any, tmp_path: Path) -> None:
    features = load()
    expected = content(load(folder=None))
    (file,) = files(tmp_path / "features")
    file.unlink()
    assert content(features) == expected


def test_what_cannot_be_read_is_not_kept(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_text("word\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(InputError, match=f"{path}:1: 1 column"):
            load(path)
    assert not files(tmp_path / "features")
    with pytest.raises(InputError, match=f"{tmp_path}/absent: cannot be read"):
        load(tmp_path / "absent")


def load_and_count(
    dataset: Path, tokenizer: Path, folder: Path, barrier: Barrier, made: multiprocessing.Queue[tuple[int, int]]
) -> None:
    """Count how often this process tokenizes, while it loads the same features as others."""
    count = 0

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        code = frame.f_code
        count += event == "call" and code.co_name == "features" and code.co_filename.endswith("token_classification.py")

    barrier.wait()
    sys.setprofile(watch)
    features = load_features("pos", dataset, tokenizer, 24, 0, folder)
    sys.setprofile(None)
    made.put((count, len(features.gold)))


@pytest.mark.slow
def test_processes_that_ask_at_once_make_features_once(world: Path, tmp_path: Path) -> None:
    dataset = write_conllu(tmp_path / "many", pos_sentences(0, 3000))
    context = multiprocessing.get_context("spawn")
    barrier, made = context.Barrier(3), context.Queue()
    processes = [
        context.Process(
            target=load_and_count, args=(dataset, world / "tokenizer.model", tmp_path / "features", barrier, made)
        )
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = sorted(made.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert found == [(0, 3000), (0, 3000), (1, 3000)]
