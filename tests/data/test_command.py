"""`python -m raylab.data prepare`: what it makes is what a sweep would have made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from raylab.data.__main__ import main
from raylab.data.source import open_source
from raylab.search.plan import plan
from raylab.search.storage import Storage
from raylab.study import load_study


@pytest.fixture
def study(corpus_folder: Path, tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    content = {"study": "tiny", "data": {"source": str(corpus_folder), "vocab_size": 150}, "languages": [["aa", "bb"]]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_a_sweep_finds_what_was_prepared(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = tmp_path / "runs"
    assert main(["prepare", study, "--storage", str(storage)]) == 0
    config = load_study(study)
    jobs = plan(config, open_source(config.data, storage)).jobs.values()
    prepared = {job.labels["languages"]: Storage(storage).is_finished(job.key) for job in jobs if job.kind == "prepare"}
    assert prepared == {"aa": True, "bb": True, "aa-bb": True}
    output = capsys.readouterr().out
    assert "tokens a word" in output
    before = {path: path.stat().st_mtime_ns for path in storage.rglob("*") if path.is_file()}
    assert main(["prepare", study, "--storage", str(storage)]) == 0
    assert {path: path.stat().st_mtime_ns for path in storage.rglob("*") if path.is_file()} == before


def test_text_that_is_not_utf8_is_one_line_or_skipped(
    study: str, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    broken = tmp_path / "corpus" / "text" / "bb" / "train.txt"
    lines = broken.read_bytes().splitlines()
    lines[6] = b"\xff\xfe"
    broken.write_bytes(b"\n".join(lines))
    options = [study, "--set", f"data.source={tmp_path / 'corpus'}", "--storage", str(tmp_path / "runs")]
    assert main(["prepare", *options]) == 2
    error = capsys.readouterr().err
    assert f"{broken}:7: " in error
    assert error.count("\n") == 1
    assert main(["prepare", *options, "--set", "data.invalid_utf8=skip"]) == 0


def test_an_empty_corpus_is_one_line(
    study: str, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus_folder, tmp_path / "corpus")
    empty = tmp_path / "corpus" / "text" / "bb" / "train.txt"
    empty.write_text("\n\n", encoding="utf-8")
    options = [study, "--set", f"data.source={tmp_path / 'corpus'}", "--storage", str(tmp_path / "runs")]
    assert main(["prepare", *options]) == 2
    assert str(empty) in capsys.readouterr().err
