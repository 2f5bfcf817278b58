from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas as pd
import pyarrow.parquet
import pytest

import analysis
from analysis.report import chosen_formats, main, study_name, write_report
from raylab.errors import InputError

FILES = {
    *("report.html", "summary.md", "scores.parquet", "table2.csv", "table2.md", "interference.csv", "interference.md"),
    *("transfer.csv", "transfer.md", "recipes.csv", "recipes.md", "interference.png", "tradeoff.png"),
}


@pytest.fixture(scope="module")
def report(results: analysis.Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    files = write_report(results, folder)
    assert files[0] == folder / "report.html"
    assert sorted(files) == sorted(folder.iterdir())
    return folder


def test_files_read_back(report: Path, results: analysis.Results) -> None:
    assert {path.name for path in report.iterdir()} >= FILES
    scores = pyarrow.parquet.read_table(report / "scores.parquet")
    assert scores.schema.equals(results.table.schema, check_metadata=True)
    pd.testing.assert_frame_equal(scores.to_pandas(), results.to_pandas())
    interference = pd.read_csv(report / "interference.csv")
    written = results.interference().replace("", None)  # CSV has nothing where there is no text
    pd.testing.assert_frame_equal(interference, written, check_dtype=False)
    table = pd.read_csv(report / "table2.csv")
    assert table.loc[0, ["setting", "model", "NER (F1) fr"]].to_list() == ["Within-language Monolingual", "Mono", 70.5]
    lines = (report / "table2.md").read_text(encoding="utf-8").splitlines()
    assert "| Zero-shot Cross-lingual | JointPair | 50.5 | 40.0 | 45.2 | 60.5 | 60.5 |" in lines
    for name in ("interference.png", "tradeoff.png"):
        assert matplotlib.image.imread(report / name).shape[0] > 500


def test_page_has_the_numbers(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    for part in ("Study toy", ">+2.5<", "JointPair", "pretrain.temperature"):
        assert part in page


def test_second_report_replaces_the_first(store: str, results: analysis.Results, tmp_path: Path) -> None:
    write_report(results, tmp_path)
    files = write_report(analysis.load("untagged", store), tmp_path)
    # The untagged study has no score of mono and another variant on one language, and no language with both settings.
    assert not [path for path in files if path.stem == "tradeoff"]
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert "untagged" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("names", "endings"), [("tex,pdf", {"tex", "pdf"}), (" SVG ,txt,svg", {"svg", "txt"})])
def test_formats_are_those_asked_for(results: analysis.Results, tmp_path: Path, names: str, endings: set[str]) -> None:
    files = write_report(results, tmp_path, chosen_formats(names))
    assert {path.suffix[1:] for path in files} - {"html", "md", "parquet"} == endings
    assert [path.name for path in files if path.suffix == ".md"] == ["summary.md"]
    assert all(path.stat().st_size for path in files)
    assert chosen_formats(None) == ("csv", "md", "png")
    assert set(chosen_formats("all")) == {"csv", "md", "txt", "tex", "png", "svg", "pdf"}


def test_command_prints_tables_and_files(
    store: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = elsewhere / "mine.yaml"
    study.write_text("study: toy\nlanguages: [[en, fr]]\n", encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert main([str(study), "--no-mlflow"]) == 0
    printed = capsys.readouterr().out
    for part in ("78.0 (+2.5)", "+ share adpt", "warm", "\n  runs/reports/toy/report.html\n"):
        assert part in printed
    assert {path.name for path in (elsewhere / "runs" / "reports" / "toy").iterdir()} >= FILES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toi"], "no study 'toi' in "),
        (["toy", "--output", "file"], "file: the report cannot be written there (File exists)"),
        (["missing.yaml"], "missing.yaml: cannot be read"),
        (["waiting"], "no finished finetuning run"),
        (
            ["toy", "--format", "csv,docx"],
            "there is no format 'docx'; there are csv, md, txt, tex, png, svg, pdf, or all",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    store: str, elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (elsewhere / "file").write_text("")
    assert main([*arguments, "--tracking-uri", store]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("raylab: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1\nb: 2\n", r"study\.yaml:2: not YAML"),
        ("languages: []\n", r"study\.yaml: the field `study`"),
        ("study: 3\n", r"study\.yaml: the field `study`"),
        ("- study\n", r"study\.yaml: the field `study`"),
    ],
)
def test_study_file_without_a_name(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        study_name(str(file))
