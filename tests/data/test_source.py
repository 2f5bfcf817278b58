from __future__ import annotations

from pathlib import Path

import pytest

from raylab.config import DataConfig
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
    assert source.text("fr", "valid").read_text(encoding="utf-8") == "fr three\n"
    assert source.dataset("ner", "en", "train") == root / "ner" / "en" / "train.conll"
    assert source.dataset("ner", "en", "dev") is None
    assert source.dataset("pos", "en", "train") is None


def test_names_the_languages_that_exist(root: Path) -> None:
    with pytest.raises(InputError, match=r"text: no text for language 'de'; the languages there are: en, fr"):
        Source(root).text("de", "train")


def test_names_a_missing_split(root: Path) -> None:
    (root / "text" / "fr" / "valid.txt").unlink()
    with pytest.raises(InputError, match=r"fr/valid\.txt: the valid text of fr is missing"):
        Source(root).text("fr", "valid")


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


def test_opens_a_folder(root: Path, tmp_path: Path) -> None:
    assert open_source(DataConfig(source=str(root)), tmp_path / "storage").languages == ("en", "fr")


def test_a_folder_that_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.source: no folder .*nowhere"):
        open_source(DataConfig(source=str(tmp_path / "nowhere")), tmp_path)
    with pytest.raises(InputError, match=r"data\.source: .* has no text/LANG/train\.txt"):
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
    assert source.dataset("pos", "te", "dev") == kit / "pos" / "te" / "dev.conllu"
