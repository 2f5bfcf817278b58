from __future__ import annotations

import pickle
from pathlib import Path

import fsspec
import pytest

from raylab.config import DataConfig
from raylab.data.labelled import Labelled
from raylab.data.source import Source, open_source
from raylab.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for language in ("fr", "en"):
        _write(tmp_path / "text" / language / "train.txt", f"{language} one\n{language} two\n")
        _write(tmp_path / "text" / language / "valid.txt", f"{language} three\n")
    _write(tmp_path / "ner" / "en" / "train.conll", "Oslo\tB-LOC\n")
    _write(tmp_path / "ner" / "en" / "test.conll", "Bergen\tB-LOC\n")
    _write(tmp_path / "text" / "README.txt", "no language")
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_finds_text_and_datasets(root: Path) -> None:
    source = Source(root)
    assert source.languages == ("en", "fr")
    assert {split: [file.local for file in files] for split, files in source.text("fr").items()} == {
        split: [root / "text" / "fr" / f"{split}.txt"] for split in ("train", "valid")
    }
    assert source.dataset("ner", "en", "train") == Labelled(root / "ner" / "en" / "train.conll")
    assert source.dataset("ner", "en", "dev") is None
    assert source.dataset("pos", "en", "train") is None


def test_the_folder_of_a_language_may_be_a_link(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    _write(elsewhere / "train.txt", "hi one\n")
    (root / "text" / "hi").symlink_to(elsewhere)
    source = Source(root)
    assert source.languages == ("en", "fr", "hi")
    assert [file.local for file in source.text("hi")["train"]] == [root / "text" / "hi" / "train.txt"]


def test_names_the_languages_that_exist(root: Path) -> None:
    with pytest.raises(InputError, match=r"text: no text for language 'de'; the languages there are: en, fr"):
        Source(root).text("de")


def test_text_without_a_valid_split(root: Path) -> None:
    (root / "text" / "fr" / "valid.txt").unlink()
    assert list(Source(root).text("fr")) == ["train"]
    (root / "text" / "fr" / "train.txt").unlink()
    with pytest.raises(InputError, match=r"text/fr: no file of text in this folder"):
        Source(root).text("fr")


def test_text_of_a_language_may_lie_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "corpus.jsonl.gz"
    elsewhere.write_bytes(b"")
    config = DataConfig(source=str(root), text={"fr": str(elsewhere), "de": str(elsewhere)})
    source = open_source(config, root / "storage")
    assert source.languages == ("de", "en", "fr")
    assert source.text("fr")["train"][0].local == elsewhere
    assert source.text("en")["train"][0].local == root / "text" / "en" / "train.txt"


def test_labelled_data_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    _write(tmp_path / "other" / "pos" / "en" / "train.conllu", "")
    source = open_source(DataConfig(source=str(root), labelled=str(tmp_path / "other")), tmp_path / "storage")
    assert source.dataset("ner", "en", "train") is None
    assert source.dataset("pos", "en", "train") is not None
    with pytest.raises(InputError, match=r"data\.labelled: no folder .*nowhere"):
        open_source(DataConfig(source=str(root), labelled=str(tmp_path / "nowhere")), tmp_path)


def test_a_source_may_be_a_url(root: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in root.rglob("*.*"):
        if path.is_file():
            memory.pipe(f"/source/{path.relative_to(root)}", path.read_bytes())
    source = open_source(DataConfig(source="memory://source"), tmp_path)
    assert source.languages == ("en", "fr")
    assert source.text("fr")["valid"][0].name == "memory:///source/text/fr/valid.txt"
    labelled = source.dataset("ner", "en", "train")
    assert labelled is not None
    assert labelled.path.read_text() == "Oslo\tB-LOC\n"
    assert not (source.root / "text").exists()
    assert open_source(DataConfig(source="memory://source"), tmp_path).root == source.root
    memory.pipe("/source/ner/en/train.conll", b"Rome\tB-LOC\n")
    assert open_source(DataConfig(source="memory://source"), tmp_path).root != source.root
    with pytest.raises(
        InputError, match=r"data\.source: nothing at memory:///nowhere; text/LANG/train\.txt is expected"
    ):
        open_source(DataConfig(source="memory://nowhere"), tmp_path)


def test_remote_labelled_data_are_copied_on_each_machine(root: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in root.rglob("*.*"):
        if path.is_file():
            memory.pipe(f"/shared/{path.relative_to(root)}", path.read_bytes())
    source = open_source(DataConfig(source="memory://shared"), tmp_path / "driver")
    assert source.dataset("ner", "en", "train") is not None
    assert source.on_this_node(tmp_path / "driver") is source
    own = source.on_this_node(tmp_path / "worker")
    labelled = own.dataset("ner", "en", "train")
    assert labelled is not None
    assert tmp_path / "worker" in labelled.path.parents
    assert own.cache == tmp_path / "worker" / "text"
    assert own.text_fingerprint("en") == source.text_fingerprint("en")
    memory.pipe("/shared/ner/en/train.conll", b"Rome\tB-LOC\n")
    with pytest.raises(InputError, match=r"data\.source: memory://shared has changed since the sweep began"):
        source.on_this_node(tmp_path / "late")
    plain = open_source(DataConfig(source=str(root)), tmp_path / "driver").on_this_node(tmp_path / "worker")
    assert plain.root == root
    assert plain.cache == tmp_path / "worker" / "text"


def test_a_source_keeps_what_it_found_when_it_travels(root: Path) -> None:
    source = Source(root)
    before = source.text_fingerprint("en")
    _write(root / "text" / "en" / "train.txt", "changed\n")
    assert pickle.loads(pickle.dumps(source)).text_fingerprint("en") == before


def test_two_files_for_one_split_are_refused(root: Path) -> None:
    _write(root / "ner" / "en" / "train.tsv", "")
    with pytest.raises(InputError, match=r"train\.conll and train\.tsv both claim to be the train split"):
        Source(root).dataset("ner", "en", "train")


def test_fingerprints_follow_contents_alone(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = Source(root)
    text, ner = source.text_fingerprint("en"), source.dataset_fingerprint("ner", "en")
    assert source.text_fingerprint("fr") != text
    assert source.dataset_fingerprint("ner", "fr") is None

    copy = tmp_path_factory.mktemp("copy") / "elsewhere"
    root.rename(copy)
    assert Source(copy).text_fingerprint("en") == text
    assert Source(copy).dataset_fingerprint("ner", "en") == ner

    _write(copy / "text" / "en" / "valid.txt", "en other\n")
    (copy / "ner" / "en" / "test.conll").rename(copy / "ner" / "en" / "dev.conll")
    assert Source(copy).text_fingerprint("en") != text
    assert Source(copy).dataset_fingerprint("ner", "en") != ner


def test_fingerprints_are_computed_once(root: Path) -> None:
    source = Source(root)
    text, ner = source.text_fingerprint("en"), source.dataset_fingerprint("ner", "en")
    _write(root / "text" / "en" / "train.txt", "changed\n")
    _write(root / "ner" / "en" / "train.conll", "changed\n")
    assert source.text_fingerprint("en") == text
    assert source.dataset_fingerprint("ner", "en") == ner


def test_an_alias_is_a_language_with_all_that_another_has(root: Path, tmp_path: Path) -> None:
    source = open_source(DataConfig(source=str(root), aliases={"en_l": "en"}), tmp_path / "storage")
    assert source.languages == ("en", "en_l", "fr")
    assert source.text("en_l") == source.text("en")
    assert source.text_fingerprint("en_l") == source.text_fingerprint("en") != source.text_fingerprint("fr")
    assert source.dataset("ner", "en_l", "train") == source.dataset("ner", "en", "train") is not None
    assert source.dataset_fingerprint("ner", "en_l") == source.dataset_fingerprint("ner", "en")


def test_opens_a_folder(root: Path, tmp_path: Path) -> None:
    assert open_source(DataConfig(source=str(root)), tmp_path / "storage").languages == ("en", "fr")


def test_a_folder_that_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.source: no folder .*nowhere"):
        open_source(DataConfig(source=str(tmp_path / "nowhere")), tmp_path)
    with pytest.raises(InputError, match=r"data\.source: .* has no text/LANG; one folder a language"):
        open_source(DataConfig(source=str(tmp_path)), tmp_path)


def test_the_demo_is_written_once_per_scale_and_seed(tmp_path: Path) -> None:
    config = DataConfig(demo_scale=1e-5)
    source = open_source(config, tmp_path)
    assert "en" in source.languages
    assert source.root.parent == tmp_path / "demo"
    marker = source.root / "marker"
    marker.touch()
    assert open_source(config, tmp_path).root == source.root
    assert marker.exists()
    assert open_source(DataConfig(demo_scale=1e-5, demo_seed=1), tmp_path).root != source.root
    assert len(list((tmp_path / "demo").iterdir())) == 2


def test_the_kit_is_a_source(kit: Path) -> None:
    source = Source(kit)
    assert source.languages == ("ar", "en", "fr", "hi", "kn", "mr", "ru", "sw", "te")
    assert source.dataset("pos", "te", "dev") == Labelled(kit / "pos" / "te" / "dev.conllu")
