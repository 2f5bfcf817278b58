from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import pytest

import analysis
from analysis.paper import table_2
from analysis.study import Study
from raylab.errors import InputError

WITHIN, ZERO_SHOT = "Within-language Monolingual", "Zero-shot Cross-lingual"
Make = Callable[[dict], pd.DataFrame]


def test_table_2_of_the_known_study(results: analysis.Results) -> None:
    table = results.table_of_paper(2)
    models = ["JointPair", "+ ffn", "+ attn", "+ adpt", "+ share adpt", "+ meta adpt"]
    assert table.index.to_list() == [
        (WITHIN, "Mono"),
        *((WITHIN, m) for m in models),
        *((ZERO_SHOT, m) for m in models),
    ]
    # English is the source and has no column; Hindi has no POS.
    columns = [("NER (F1)", "fr"), ("NER (F1)", "hi"), ("NER (F1)", "avg"), ("POS (F1)", "fr"), ("POS (F1)", "avg")]
    assert table.columns.to_list() == columns
    assert table.loc[(WITHIN, "Mono")].to_list() == [70.5, 60.5, 65.5, 80.5, 80.5]
    assert table.loc[(WITHIN, "JointPair")].to_list() == [69.0, 62.5, 65.75, 79.0, 79.0]
    assert table.loc[(ZERO_SHOT, "JointPair")].to_list() == [50.5, 40.0, 45.25, 60.5, 60.5]
    # Without Hindi, no average that could be compared with the other rows'.
    assert table.loc[(WITHIN, "+ adpt")].to_list() == pytest.approx([72.0, math.nan, math.nan, 82.0, 82.0], nan_ok=True)
    assert table.loc[[(WITHIN, "+ ffn"), (ZERO_SHOT, "+ meta adpt")]].isna().all(axis=None)


def test_average_of_the_paper_is_computed(chosen_scores: Make) -> None:
    # Table 2, JointPair, zero-shot POS; printed average: 62.9.
    scores = {"ar": 58.5, "fr": 44.2, "ru": 80.1, "hi": 58.9, "te": 72.8}
    cells = {("joint", f"en-{target}", "pos", "en", target): {0: score} for target, score in scores.items()}
    study = Study("s", tuple(("en", target) for target in (*scores, "sw")), ("joint",), ("pos",))
    table = table_2(chosen_scores(cells), study)
    assert table.loc[(ZERO_SHOT, "JointPair"), ("POS (F1)", "avg")] == pytest.approx(62.9, abs=0.05)
    assert "sw" not in table["POS (F1)"].columns


def test_target_of_several_sets_has_a_column_for_each(chosen_scores: Make) -> None:
    # Table 4, NER within language.
    cells = {
        ("mono", "hi", "ner", "hi", "hi"): {0: 89.1},
        ("joint", "en-hi", "ner", "hi", "hi"): {0: 88.3},
        ("joint", "en-hi-mr", "ner", "hi", "hi"): {0: 87.8},
        ("joint", "en-hi-mr", "ner", "mr", "mr"): {0: 80.0},
    }
    study = Study("s", (("en", "hi"), ("en", "hi", "mr")), ("mono", "joint"), ("ner",))
    table = table_2(chosen_scores(cells), study)["NER (F1)"]
    assert table.columns.to_list() == ["hi", "hi (en-hi-mr)", "mr", "avg"]
    assert table.loc[(WITHIN, "Joint")].to_list()[:3] == [88.3, 87.8, 80.0]
    assert table.loc[(WITHIN, "Mono")].to_list()[:2] == [89.1, 89.1]


@pytest.mark.parametrize(
    ("sets", "label"),
    [
        ((("en", "hi"),), "JointPair"),
        ((("en", "hi", "mr"), ("en", "te", "kn")), "JointTri"),
        ((("a", "b", "c", "d"),), "Joint"),
    ],
)
def test_joint_row_is_named_by_the_size_of_the_sets(
    chosen_scores: Make, sets: tuple[tuple[str, ...], ...], label: str
) -> None:
    cells = {("joint", "-".join(sets[0]), "ner", sets[0][1], sets[0][1]): {0: 1.0}}
    table = table_2(chosen_scores(cells), Study("s", sets, ("joint",), ("ner",)))
    assert (WITHIN, label) in table.index


def test_other_variants_stand_last(chosen_scores: Make) -> None:
    cells = {("external", "en-hi", "ner", "hi", "hi"): {0: 1.0, 1: 2.0}}
    table = table_2(chosen_scores(cells), Study("s", (("en", "hi"),), ("external",), ("ner",)))
    assert table.loc[WITHIN].index[-1] == "External"
    assert table.loc[(WITHIN, "External"), ("NER (F1)", "hi")] == 1.5


def test_other_tables_are_told(results: analysis.Results) -> None:
    with pytest.raises(InputError, match="table 7 of the paper has no layout here; these have: 2"):
        results.table_of_paper(7)
