from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest

from raylab.data.location import digest_of, find_text
from raylab.errors import InputError


def _without(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is not None, reason=f"{package} is installed")


def _fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    return folder


def _names(location: str) -> dict[str, list[str]]:
    return {split: [Path(file.path).name for file in files] for split, files in find_text(location).items()}


def test_a_folder_with_splits(tmp_path: Path) -> None:
    _fill(tmp_path, "train.txt.gz", "valid.jsonl", "test.txt", "notes.pdf", "README.md")
    assert _names(str(tmp_path)) == {"train": ["train.txt.gz"], "valid": ["valid.jsonl"]}
    formats = {split: (files[0].format, files[0].compression) for split, files in find_text(str(tmp_path)).items()}
    assert formats == {"train": ("text", "gzip"), "valid": ("json", None)}


def test_a_folder_a_split(tmp_path: Path) -> None:
    _fill(tmp_path, "train/b.parquet", "train/a/c.json.zst", "train/_SUCCESS", "valid/x.txt", ".hidden/y.txt")
    assert _names(str(tmp_path)) == {"train": ["c.json.zst", "b.parquet"], "valid": ["x.txt"]}


def test_a_folder_as_of_a_data_set_of_the_hub(tmp_path: Path) -> None:
    _fill(tmp_path, *(f"train-0000{n}-of-00002.parquet" for n in range(2)), "validation-00000-of-00001.parquet")
    assert _names(str(tmp_path)) == {
        "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        "valid": ["validation-00000-of-00001.parquet"],
    }


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    _fill(tmp_path / "far", "shards/1.txt", "shards/2.txt", "held out.txt")
    folder = tmp_path / "near" / "en"
    folder.mkdir(parents=True)
    (folder / "train").symlink_to(tmp_path / "far" / "shards")
    (folder / "valid.txt").symlink_to(tmp_path / "far" / "held out.txt")
    (tmp_path / "linked").symlink_to(folder)
    for location in (folder, tmp_path / "linked"):
        assert _names(str(location)) == {"train": ["1.txt", "2.txt"], "valid": ["valid.txt"]}


def test_a_folder_without_splits_is_to_train_on(tmp_path: Path) -> None:
    _fill(tmp_path, "2.txt", "1.txt.bz2", "LICENSE", "deep/3.ndjson")
    assert _names(str(tmp_path)) == {"train": ["1.txt.bz2", "2.txt", "3.ndjson"]}


def test_globs_files_and_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path, "a1.txt", "a2.txt", "b1.txt", "corpus.gz")
    assert _names(f"{tmp_path}/a*.txt") == {"train": ["a1.txt", "a2.txt"]}
    assert _names(str(tmp_path / "corpus.gz")) == {"train": ["corpus.gz"]}
    assert _names(f"file://{tmp_path}/b1.txt") == {"train": ["b1.txt"]}
    monkeypatch.chdir(tmp_path)
    assert find_text("b1.txt")["train"][0].local == tmp_path / "b1.txt"


def test_a_name_with_brackets_is_no_glob(tmp_path: Path) -> None:
    _fill(tmp_path, "a[1].txt", "a1.txt")
    assert _names(f"{tmp_path}/a[1].txt") == {"train": ["a[1].txt"]}


def test_remote_text_is_told_by_what_its_store_says() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/location/train.txt", b"one\n")
    files = find_text("memory://location")
    assert files["train"][0].name == "memory:///location/train.txt"
    assert files["train"][0].local is None
    with pickle.loads(pickle.dumps(files))["train"][0].open() as stream:
        assert stream.read() == b"one\n"
    before = digest_of(files)
    assert digest_of(find_text("memory://location")) == before
    memory.pipe("/location/train.txt", b"two\n")
    assert digest_of(find_text("memory://location")) != before


def test_local_text_is_told_by_its_contents(tmp_path: Path) -> None:
    one, other = (_fill(tmp_path / name, "train.txt") for name in ("one", "other"))
    before = digest_of(find_text(str(one)))
    assert digest_of(find_text(str(other))) == before
    (other / "train.txt").rename(other / "train.jsonl")  # the same bytes mean something else
    assert digest_of(find_text(str(other))) != before
    (one / "train.txt").write_text("changed\n")
    assert digest_of(find_text(str(one))) != before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.txt", "train.txt.gz"], r"train\.txt and train\.txt\.gz both claim to be the train split; keep one"),
        (["valid.txt", "train.txt", "valid/x.txt"], r"valid\.txt and valid both claim to be the valid split"),
        (["train.txt", "train_old.txt"], r"train\.txt and train_old\.txt both claim to be the train split; keep one"),
        (["dev.txt", "train.txt", "valid.txt"], r"dev\.txt and valid\.txt both claim to be the valid split"),
        (["valid.txt"], r"no train split, only valid\.txt; train\.txt, or files of any other name, would do"),
        (["a.txt", "b.csv"], r"b\.csv: \.csv is not a kind of text that is read; \.txt, .*\.parquet.*\.gz"),
        (["a.parquet.gz"], r"a\.parquet\.gz: \.parquet\.gz is not a kind of text"),
        (["plain"], r"plain: no suffix is not a kind of text"),
        ([".hidden", "README.md"], r"no file of text in this folder; \.txt, "),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, names: list[str], message: str) -> None:
    _fill(tmp_path, *names)
    with pytest.raises(InputError, match=message) as found:
        find_text(str(tmp_path))
    assert str(found.value).startswith(str(tmp_path))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nowhere", r"nowhere: no such file or folder"),
        ("nowhere/*.txt", r"nowhere/\*\.txt: no file has such a name"),
        ("memory://nowhere/at/all", r"memory:///nowhere/at/all: no such file or folder"),
        ("gopher://host/text", r"gopher://host/text: cannot be read: Protocol not known: gopher"),
        ("http://127.0.0.1:1/train.txt", r"http://127\.0\.0\.1:1/train\.txt: "),
        pytest.param("s3://bucket/text", r"s3://bucket/text: .*; pip install 'raylab\[s3\]'", marks=_without("s3fs")),
        pytest.param(
            "adl://container/text",
            r"adl://container/text: .*; install the fsspec package for adl://",
            marks=_without("adlfs"),
        ),
    ],
)
def test_what_is_not_there_is_named(
    location: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as found:
        find_text(location)
    assert "\n" not in str(found.value)
