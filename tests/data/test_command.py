"""`python -m raylab.data`: what `prepare` makes is what a sweep would have made, and `describe` says what it is."""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from raylab.data.__main__ import main
from raylab.data.source import open_source
from raylab.data.tokenizer import train_tokenizer
from raylab.errors import InputError
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


@pytest.mark.slow
def test_processes_prepare_what_one_does(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {}
    for workers in ("1", "2"):
        assert main(["prepare", study, "--storage", str(tmp_path / workers), "--workers", workers]) == 0
        root = tmp_path / workers / "jobs"
        jobs[workers] = {
            path.relative_to(root): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.name != "result.json"
        }
    assert len(jobs["1"]) == 18  # three sets, in all four languages
    assert jobs["1"] == jobs["2"]


def test_an_error_in_a_process_is_one_line(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--set", "data.vocab_size=100000", "--workers", "2", "--storage", str(tmp_path / "runs")]
    assert main(["prepare", study, *options]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("raylab: ")]
    assert len(error) == 1
    assert "data.vocab_size: 100000 pieces are more than" in error[0]


def test_a_killed_command_goes_on(corpus_folder: Path, tmp_path: Path) -> None:
    content = {
        "study": "packed",
        "data": {"source": str(tmp_path / "source"), "vocab_size": 150},
        "languages": [["aa", "bb"]],
        "variants": ["joint"],
        "finetune": None,
    }
    path = tmp_path / "packed.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    for language in ("aa", "bb"):
        folder = tmp_path / "source" / "text" / language
        folder.mkdir(parents=True)
        lines = (corpus_folder / "text" / language / "train.txt").read_text().splitlines()
        text = "".join(f"{line} {n}\n" for n in range(200) for line in lines)
        (folder / "train.txt.gz").write_bytes(gzip.compress(text.encode(), 1))
    storage = tmp_path / "runs"
    command = [sys.executable, "-m", "raylab.data", "prepare", str(path), "--storage", str(storage), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not list(storage.glob("jobs/*/tokens/bb/.train.arrow.*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = [*storage.glob("text/*/train.txt"), *storage.glob("jobs/*/tokens/aa/*.arrow")]
    before = {file: file.stat().st_mtime_ns for file in kept}
    assert len(before) == 5
    assert main(["prepare", str(path), "--storage", str(storage)]) == 0
    assert {file: file.stat().st_mtime_ns for file in kept} == before
    assert len(list(storage.glob("jobs/*/tokens/bb/*.arrow"))) == 3


def test_a_full_disk_is_one_line(study: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "raylab.data", "prepare", study, "--storage", str(tmp_path / "runs")]
    limit = (20_000, 20_000)  # bytes of a file: as a full disk, writing fails
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("raylab: [Errno")
    assert done.stderr.splitlines()[-1].endswith("the same command goes on from here")
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_describes_what_a_study_reads(study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [study, "--storage", str(tmp_path / "runs"), "--set", "pretrain.temperature=2"]
    assert main(["describe", *options, "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    sets = {prepared["languages"]: prepared for prepared in description["text"]}
    assert list(sets) == ["aa", "bb", "aa-bb"]
    both = sets["aa-bb"]["by_language"]
    sizes = {language: both[language]["sentences"]["train"] for language in both}
    assert both["aa"]["probability"] == pytest.approx(sizes["aa"] ** 0.5 / sum(n**0.5 for n in sizes.values()))
    assert sets["aa"]["vocabulary"] == 150
    assert description["labelled"]["ner"]["bb"] == {"train": 40, "dev": 40, "test": 40}
    assert main(["describe", *options]) == 0
    output = capsys.readouterr().out
    assert f"{sizes['aa']:,}" in output
    assert "pos aa: 30 train, 30 dev, 30 test examples" in output


def test_wrong_arguments_are_named(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", study, "--workers", "0"])
    assert "found '0'; a whole number from 1 on is needed" in capsys.readouterr().err


def _keys(study: str, tmp_path: Path, **fields: object) -> set[str]:
    config = load_study(study, [f"data.{name}={json.dumps(value)}" for name, value in fields.items()])
    jobs = plan(config, open_source(config.data, tmp_path / "storage")).jobs.values()
    return {job.key for job in jobs if job.kind == "prepare"}


def test_keys_are_of_what_matters(study: str, corpus_folder: Path, tmp_path: Path) -> None:
    before = _keys(study, tmp_path)
    assert _keys(study, tmp_path, text_field="body", valid_fraction=0.5) == before  # plain text with a valid split
    assert len(_keys(study, tmp_path, tokenizer_temperature=1.0) & before) == 2  # one language needs none
    for name, value in (("normalization", "nfc"), ("deduplicate", True), ("tokenizer", "unigram"), ("vocab_size", 99)):
        assert not _keys(study, tmp_path, **{name: value}) & before
    elsewhere = tmp_path / "elsewhere" / "aa"
    shutil.copytree(corpus_folder / "text" / "aa", elsewhere)
    assert _keys(study, tmp_path, text={"aa": str(elsewhere)}) == before


def test_keys_are_of_the_contents_of_an_existing_tokenizer(study: str, tmp_path: Path) -> None:
    models = {name: tmp_path / f"{name}.model" for name in ("one", "copy", "other")}
    train_tokenizer([f"aab {n}" for n in range(99)], models["one"], 20)
    train_tokenizer([f"aab {n}" for n in range(99)], models["other"], 19)
    shutil.copy(models["one"], models["copy"])
    one = _keys(study, tmp_path, tokenizer=str(models["one"]))
    assert _keys(study, tmp_path, tokenizer=str(models["copy"]), vocab_size=7, tokenizer_temperature=1.0) == one
    assert not _keys(study, tmp_path, tokenizer=str(models["other"])) & one
    with pytest.raises(InputError, match=r"data\.tokenizer: no .*nowhere; bpe, unigram, "):
        _keys(study, tmp_path, tokenizer=str(tmp_path / "nowhere"))
