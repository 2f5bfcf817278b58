from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from paper_study import STUDIES, known, paper_as_best
from scipy.stats import kendalltau, spearmanr

import analysis
from analysis.claims import claims
from analysis.comparison import agreement, compare_with_paper, comparison, comparison_text, rank_agreement
from analysis.contrasts import average_differences
from analysis.paper import layout
from analysis.paper.layouts import Known
from analysis.study import Study
from analysis.uncertainty import ScoreDraws, measure
from raylab.errors import InputError

Make = Callable[[dict], pd.DataFrame]


def results_of(best: pd.DataFrame, study: Study, places: Known | None = None) -> analysis.Results:
    """As much of the results as a comparison reads."""
    return SimpleNamespace(  # type: ignore[return-value]
        study=study,
        best=lambda: best,
        layout_of_paper=lambda number: layout(number, study, places or known(best)),
        uncertainty=lambda differences: measure(differences, ScoreDraws()),
        average_differences=lambda asked: average_differences(best, study, asked),
    )


@pytest.fixture
def small(chosen_scores: Make) -> analysis.Results:
    """NER of en-hi; the paper: mono 89.1, joint 88.3, ffn 88.9, zero-shot joint 61.4, ffn 10.5."""
    cells = {
        ("mono", "hi", "ner", "hi", "hi"): {0: 60.0, 1: 62.0},
        ("joint", "en-hi", "ner", "hi", "hi"): {0: 58.0, 1: 59.0},
        ("ffn", "en-hi", "ner", "hi", "hi"): {0: 61.0, 1: 63.0},
        ("joint", "en-hi", "ner", "en", "hi"): {0: 30.0},
        ("ffn", "en-hi", "ner", "en", "hi"): {0: 35.0},
    }
    return results_of(chosen_scores(cells), Study("small", (("en", "hi"),), ("mono", "joint", "ffn"), ("ner",)))


def test_a_hand_made_case(small: analysis.Results) -> None:
    frame = compare_with_paper(small, 2).set_index(["setting", "variant"])
    columns = ["value", "paper", "below_mono", "paper_below_mono", "above_joint", "paper_above_joint"]
    nan = math.nan
    expected = {
        ("within", "mono"): [61.0, 89.1, nan, nan, nan, nan],
        ("within", "joint"): [58.5, 88.3, 2.5, 0.8, nan, nan],
        ("within", "ffn"): [62.0, 88.9, -1.0, 0.2, 3.5, 0.6],
        ("zero_shot", "joint"): [30.0, 61.4, nan, nan, nan, nan],
        ("zero_shot", "ffn"): [35.0, 10.5, nan, nan, 5.0, -50.9],
    }
    for place, values in expected.items():
        assert frame.loc[place, columns].to_list() == pytest.approx(values, nan_ok=True), place
    assert frame["below_mono_agrees"].dropna().to_dict() == {
        ("within", "joint"): True,
        ("within", "ffn"): False,
    }
    assert frame["above_joint_agrees"].dropna().to_dict() == {("within", "ffn"): True, ("zero_shot", "ffn"): False}
    # Mono minus ffn is -1 with both seeds, mono minus joint 2 and 3.
    assert frame.loc[("within", "ffn"), "below_mono_low"] < -1.0 < frame.loc[("within", "ffn"), "below_mono_high"] < 0.0
    assert frame.loc[("within", "ffn"), "below_mono_basis"] == "2 seeds alone"
    assert frame.loc[("within", "joint"), "below_mono_low"] < 0 < frame.loc[("within", "joint"), "below_mono_high"]


def test_a_task_without_a_score_yet_is_left_out(chosen_scores: Make) -> None:
    study = Study("under way", (("en", "hi"),), ("mono", "joint"), ("ner", "pos"))
    best = chosen_scores({("mono", "hi", "ner", "hi", "hi"): {0: 60.0}})
    begun = frozenset({("ner", "hi"), ("pos", "hi")})
    text = comparison_text(results_of(best, study, begun))
    assert "60.0 (89.1)" in text
    assert "POS (F1)" not in text


def test_equal_scores_have_no_sign(chosen_scores: Make) -> None:
    cells = {
        ("joint", "en-hi", "ner", "en", "hi"): {0: 0.0},
        ("ffn", "en-hi", "ner", "en", "hi"): {0: 0.0},
    }
    study = Study("floor", (("en", "hi"),), ("mono", "joint", "ffn"), ("ner",))
    (row,) = agreement(compare_with_paper(results_of(chosen_scores(cells), study), 2)).to_dict("records")
    assert (row["above_joint"], row["above_joint_of"]) == (0.0, 0)


def test_claims_of_the_paper_have_a_verdict_each(chosen_scores: Make) -> None:
    cells: dict = {}
    for language in ("en", "hi"):
        of_variant = {"mono": 60.0, "joint": 58.0, "ffn": 57.0, "attn": 57.1, "adapter": 58.1}
        for variant, score in of_variant.items():
            seeds = {seed: score + 0.01 * seed * len(variant) for seed in range(4)}
            cells[variant, language if variant == "mono" else "en-hi", "ner", language, language] = seeds
    cells["attn", "en-hi", "ner", "hi", "hi"] = {0: 50.0, 1: 60.0, 2: 57.0, 3: 63.0}
    study = Study("claims", (("en", "hi"),), ("mono", "joint", "ffn", "attn", "adapter"), ("ner",))
    frame = claims(results_of(chosen_scores(cells), study)).set_index("claim")
    assert frame["verdict"].to_dict() == {
        "mono above joint": "agrees",
        "ffn above attn": "not told",
        "adapter near joint": "agrees",
    }
    assert frame.loc["mono above joint", "ours"] == pytest.approx(2.0, abs=0.02)
    assert frame.loc["mono above joint", "paper"] == pytest.approx(41.6 / 15)  # Tables 2 and 3, added up by hand


def test_agreement_is_counted(small: analysis.Results) -> None:
    (row,) = agreement(comparison(small)).to_dict("records")
    assert (row["table"], row["cells"]) == (2, 5)
    assert (row["below_mono_same"], row["below_mono_of"]) == (1, 2)
    assert (row["below_mono_clear"], row["below_mono_clear_same"]) == (1, 0)
    assert (row["above_joint_same"], row["above_joint_of"]) == (1, 2)
    assert row["below_mono"] == pytest.approx((2.5 - 1.0) / 2)
    assert row["paper_below_mono"] == pytest.approx(0.5)
    assert row["difference"] == pytest.approx(np.mean([61 - 89.1, 58.5 - 88.3, 62 - 88.9, 30 - 61.4, 35 - 10.5]))


def test_ranks_are_scipys(small: analysis.Results) -> None:
    (row,) = rank_agreement(comparison(small)).to_dict("records")
    assert (row["setting"], row["language"], row["variants"]) == ("within", "hi", 3)
    ours, theirs = [61.0, 58.5, 62.0], [89.1, 88.3, 88.9]
    assert row["kendall"] == pytest.approx(kendalltau(ours, theirs).statistic)
    assert row["spearman"] == pytest.approx(spearmanr(ours, theirs).statistic)


def test_the_comparison_as_text(small: analysis.Results) -> None:
    text = comparison_text(small)
    assert "Mono minus the variant, percentage points, mean over cells: 1 of 2 signs are the paper's" in text
    assert "The variant minus joint, percentage points, mean over cells: 1 of 2 signs are the paper's" in text
    assert "62.0 (88.9)" in text
    assert "Models here" not in text


def test_a_study_of_mono_alone_has_nothing_to_agree_with(chosen_scores: Make) -> None:
    cells = {("mono", "hi", "ner", "hi", "hi"): {0: 60.0}}
    text = comparison_text(results_of(chosen_scores(cells), Study("alone", (("en", "hi"),), ("mono",), ("ner",))))
    assert "60.0 (89.1)" in text
    assert "signs" not in text.replace("compare signs and order", "")
    assert "\n\n\n" not in text


def test_the_text_says_what_differs(small: analysis.Results) -> None:
    configuration = {
        "model": {"num_layers": 2, "dim": 128},
        "pretrain": {"steps": 1400, "batch_size": 16},
        "data": {"source": "demo"},
    }
    text = comparison_text(results_of(small.best(), replace(small.study, configuration=configuration)))
    assert "2 layers of 128, 1,400 steps of 16 sequences; the paper's: 8 layers of 512, 500,000 steps of 512" in text
    assert "languages here are generated" in text


@pytest.mark.parametrize("name", list(STUDIES))
def test_the_paper_agrees_with_itself(name: str) -> None:
    study = STUDIES[name]
    frame = comparison(results_of(paper_as_best(study), study)).dropna(subset="value")
    np.testing.assert_array_equal(frame["value"], frame["paper"])
    for difference in ("below_mono", "above_joint"):
        both = frame[frame[difference].notna()]
        np.testing.assert_allclose(both[difference], both[f"paper_{difference}"])
        assert frame[f"{difference}_agrees"].dropna().all()
    assert (rank_agreement(frame)["kendall"].dropna() > 1 - 1e-9).all()


def test_every_score_of_the_paper_is_compared_but_those_of_xlm() -> None:
    study = STUDIES["variants"]
    best = paper_as_best(study)
    rows = comparison(results_of(best, study)).groupby("table").size().to_dict()
    assert rows == {2: 13 * 11, 3: 13 * 4, 5: 2 * 4 + 2 * 2 + 6, 6: 6 * 5, 7: 13 * 8}
    of_xlm = replace(study, configuration={"external": {"model": "FacebookAI/xlm-mlm-100-1280"}})
    rows = comparison(results_of(best, of_xlm)).groupby("table").size().to_dict()
    assert rows[2] == 15 * 11


def test_three_languages_are_compared_with_two() -> None:
    study = STUDIES["language_similarity"]
    frame = compare_with_paper(results_of(paper_as_best(study), study), 4)
    trios = frame[frame["above_joint"].notna()].set_index(["setting", "task", "language"])["above_joint"]
    assert trios["zero_shot", "ner", "te"] == pytest.approx(47.6 - 45.2)
    assert len(trios) == 8
    equal = frame[(frame["task"] == "pos") & (frame["language"] == "te") & (frame["setting"] == "within")]
    assert equal["above_joint_agrees"].isna().all()  # 88.7 both: no sign to agree with


def test_a_score_that_two_tables_print_counts_once() -> None:
    study = STUDIES["variants"]
    frame = comparison(results_of(paper_as_best(study), study))
    assert frame["table"].nunique() > 1
    by_setting = agreement(frame, ("setting",)).set_index("setting")["cells"]
    assert by_setting["within"] == 7 * 11 + 7 * 8 + 6  # Tables 2 and 7, and English of Table 5
    assert by_setting["zero_shot"] == 6 * 11 + 6 * 8 + 6 * 5


def test_studies_without_the_papers_languages_are_told(chosen_scores: Make) -> None:
    cells = {("mono", "de", "ner", "de", "de"): {0: 60.0}, ("joint", "en-de", "ner", "de", "de"): {0: 60.0}}
    study = Study("german", (("en", "de"),), ("mono", "joint"), ("ner",))
    with pytest.raises(InputError, match="study 'german' has no score that the paper prints"):
        comparison(results_of(chosen_scores(cells), study))


def test_pairs_of_another_source_are_not_compared(chosen_scores: Make) -> None:
    cells = {("joint", "fr-hi", "ner", "hi", "hi"): {0: 60.0}}
    study = Study("french", (("fr", "hi"),), ("joint",), ("ner",))
    with pytest.raises(InputError, match="no score in common"):
        compare_with_paper(results_of(chosen_scores(cells), study), 2)
