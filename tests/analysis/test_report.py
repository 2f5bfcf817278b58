from __future__ import annotations

import base64
import html.parser
import re
from pathlib import Path

import matplotlib.image
import pandas as pd
import pyarrow.parquet
import pytest

import analysis
from analysis.report import main, study_name, write_report
from raylab.errors import InputError

FILES = [
    *("report.html", "table2.md", "table2.csv", "interference.csv"),
    *("interference.png", "tradeoff.png", "scores.parquet"),
]


@pytest.fixture(scope="module")
def report(results: analysis.Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    assert write_report(results, folder) == [folder / name for name in FILES]
    return folder


def test_files_read_back(report: Path, results: analysis.Results) -> None:
    assert sorted(path.name for path in report.iterdir()) == sorted(FILES)
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


def test_page_is_whole_in_itself(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(image) for image in images] == [
        (report / name).read_bytes() for name in ("interference.png", "tradeoff.png")
    ]
    assert "http" not in re.sub(r'src="[^"]+"', "", page)
    open_tags: list[str] = []

    class Balance(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Balance().feed(page)
    assert open_tags == []
    for part in ("Study toy", "78.0 (+2.5)", "JointPair", "pretrain.temperature"):
        assert part in page


def test_second_report_replaces_the_first(store: str, results: analysis.Results, tmp_path: Path) -> None:
    write_report(results, tmp_path)
    files = write_report(analysis.load("untagged", store), tmp_path)
    # The untagged study has no score of mono and another variant on one language, and no language with both settings.
    assert [path.name for path in files] == [name for name in FILES if not name.endswith("png")]
    assert not (tmp_path / "interference.png").exists()
    assert "untagged" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_command_prints_tables_and_files(
    store: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = elsewhere / "mine.yaml"
    study.write_text("study: toy\nlanguages: [[en, fr]]\n", encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert main([str(study)]) == 0
    printed = capsys.readouterr().out
    for part in ("78.0 (+2.5)", "+ share adpt", "warm", "\n  runs/reports/toy/report.html\n"):
        assert part in printed
    assert sorted(path.name for path in (elsewhere / "runs" / "reports" / "toy").iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toi"], "no study 'toi' in "),
        (["toy", "--output", "file"], "file: the report cannot be written there (File exists)"),
        (["missing.yaml"], "missing.yaml: cannot be read"),
        (["waiting"], "no finished finetuning run"),
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
