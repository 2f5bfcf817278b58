from __future__ import annotations

import io
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.tables import csv, escaped, latex, markdown, number, text


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = pd.MultiIndex.from_tuples(
        [("within", "mono"), ("within", "joint"), ("zero_shot", "joint")], names=["a", "b"]
    )
    columns = pd.MultiIndex.from_tuples([("NER", "fr"), ("NER", "avg")])
    return pd.DataFrame([[1.25, 100.0], [math.nan, 2.0], [-0.04, 3.0]], index=rows, columns=columns)


def test_text_is_aligned_and_leaves_repeats_blank(frame: pd.DataFrame) -> None:
    assert text(frame).splitlines() == [
        "a          b      NER fr  NER avg",
        "---------------------------------",
        "within     mono      1.2    100.0",
        "           joint       –      2.0",
        "zero_shot  joint     0.0      3.0",
    ]


def test_markdown(frame: pd.DataFrame) -> None:
    assert markdown(frame, decimals=2).splitlines() == [
        "| a | b | NER fr | NER avg |",
        "| --- | --- | ---: | ---: |",
        "| within | mono | 1.25 | 100.00 |",
        "|  | joint | – | 2.00 |",
        "| zero_shot | joint | -0.04 | 3.00 |",
    ]


def test_text_in_blocks(frame: pd.DataFrame) -> None:
    assert text(frame, blocks=True).splitlines() == [
        "          NER",
        "b       fr    avg",
        "-----------------",
        "within",
        "mono   1.2  100.0",
        "joint    –    2.0",
        "-----------------",
        "zero_shot",
        "joint  0.0    3.0",
        "-----------------",
    ]


def test_a_long_heading_widens_its_columns() -> None:
    columns = pd.MultiIndex.from_tuples([("a", "x"), ("a long heading", "y"), ("a long heading", "z")])
    frame = pd.DataFrame([[1.0, 2.0, 3.0]], index=pd.Index(["row"], name="i"), columns=columns)
    assert text(frame, blocks=True).splitlines() == [
        "      a   a long heading",
        "i      x    y          z",
        "------------------------",
        "row  1.0  2.0        3.0",
    ]


def test_latex(frame: pd.DataFrame) -> None:
    assert latex(frame, caption="Scores.", label="tab:s").splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\begin{tabular}{llrr}",
        r"\toprule",
        r" &  & \multicolumn{2}{c}{NER} \\",
        r"\cmidrule(lr){3-4}",
        r"a & b & fr & avg \\",
        r"\midrule",
        r"within & mono & 1.2 & 100.0 \\",
        r" & joint & -- & 2.0 \\",
        r"zero\_shot & joint & 0.0 & 3.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\caption{Scores.}",
        r"\label{tab:s}",
        r"\end{table}",
    ]


def test_latex_in_blocks(frame: pd.DataFrame) -> None:
    assert latex(frame, blocks=True).splitlines()[4:] == [
        r"b & fr & avg \\",
        r"\midrule",
        r"\multicolumn{3}{l}{\textit{within}} \\",
        r"\midrule",
        r"mono & 1.2 & 100.0 \\",
        r"joint & -- & 2.0 \\",
        r"\midrule",
        r"\multicolumn{3}{l}{\textit{zero\_shot}} \\",
        r"\midrule",
        r"joint & 0.0 & 3.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_latex_escapes() -> None:
    assert escaped(r"50% & $_{#}^\~<>|") == (
        r"50\% \& \$\_\{\#\}\textasciicircum{}\textbackslash{}\textasciitilde{}\textless{}\textgreater{}\textbar{}"
    )
    flat = latex(pd.DataFrame({"a_b": ["x&y"], "−": [1.5]}))
    assert r"a\_b & $-$ \\" in flat
    assert r"x\&y & 1.5 \\" in flat


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20))
def test_no_cell_breaks_a_latex_row(cell: str) -> None:
    body = latex(pd.DataFrame({"a": [cell], "b": [1.0]})).splitlines()[4]
    plain = body.replace(r"\\", "").replace(r"\&", "").replace(r"\{", "").replace(r"\}", "")
    assert plain.count("&") == 1
    assert plain.count("{") == plain.count("}")


def test_markdown_escapes_bars() -> None:
    assert markdown(pd.DataFrame({"x": ["a|b"]})).splitlines()[-1] == r"| a\|b |"


def test_csv_reads_back_with_all_digits(frame: pd.DataFrame) -> None:
    back = pd.read_csv(io.StringIO(csv(frame)))
    assert list(back.columns) == ["a", "b", "NER fr", "NER avg"]
    assert back["a"].to_list() == ["within", "within", "zero_shot"]
    assert back["NER fr"].to_list() == pytest.approx([1.25, math.nan, -0.04], abs=0, nan_ok=True)


def test_frame_without_rows() -> None:
    empty = pd.DataFrame({"a": [], "b": []})
    assert text(empty).splitlines()[0] == "a  b"
    assert len(markdown(empty).splitlines()) == 2


def test_first_level_repeats_only_within_its_group() -> None:
    rows = pd.MultiIndex.from_tuples([("en-fr", "en"), ("en-hi", "en"), ("en-hi", "hi")], names=["set", "language"])
    lines = text(pd.DataFrame({"x": [1, 2, 3]}, index=rows)).splitlines()[2:]
    assert [line.split() for line in lines] == [["en-fr", "en", "1"], ["en-hi", "en", "2"], ["hi", "3"]]


@pytest.mark.parametrize(
    ("value", "signed", "printed"),
    [
        (2.04, True, "+2.0"),
        (-2.06, True, "-2.1"),
        (-0.04, True, "0.0"),
        (0.04, True, "0.0"),
        (math.nan, True, "–"),
        (7, False, "7.0"),
    ],
)
def test_number(value: float, signed: bool, printed: str) -> None:
    assert number(value, signed=signed) == printed


@given(st.floats(-1e6, 1e6), st.integers(0, 6), st.booleans())
def test_number_reads_back(value: float, decimals: int, signed: bool) -> None:
    printed = number(value, decimals, signed=signed)
    assert float(printed) == pytest.approx(value, abs=0.51 * 10.0**-decimals)
    assert not printed.startswith("-0") or float(printed) != 0.0
    assert printed.startswith("+") == (signed and float(printed) > 0)
