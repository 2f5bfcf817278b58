from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis
from analysis.averages import averages
from analysis.examples import Examples, Outcomes
from analysis.interference import compare, interference, transfer
from analysis.study import Study
from analysis.uncertainty import ScoreDraws, Uncertainty
from raylab.errors import InputError

# Half the width of the 95 % interval of two differences that are 1 apart: t(1) = 12.7062 times a standard error of 0.5.
MARGIN_OF_ONE = 6.3531

BY_SEED = st.dictionaries(st.integers(0, 4), st.floats(0, 100), max_size=5)
Make = Callable[[dict], pd.DataFrame]


def test_interference_of_the_known_study(results: analysis.Results) -> None:
    frame = results.interference()
    assert list(frame.columns) == [
        *("languages", "variant", "task", "metric", "language", "mono", "score", "difference", "relative"),
        *("low", "high", "seeds", *Uncertainty._fields, "p_adjusted", "family", "verdict"),
        *("recovery", "recovery_low", "recovery_high", "recovery_reason"),
    ]
    rows = frame.set_index(["languages", "variant", "task", "metric", "language"]).T
    numbers = ["mono", "score", "difference", "relative", "low", "high", "seeds"]

    # mono 80 and 81, joint 78 and 78: differences 2 and 3.
    expected = [80.5, 78.0, 2.5, 2.5 / 80.5, 2.5 - MARGIN_OF_ONE, 2.5 + MARGIN_OF_ONE, 2]
    assert rows["en-fr", "joint", "ner", "f1", "en"][numbers].to_list() == pytest.approx(expected, abs=1e-4)
    # mono 70 and 71, adapter 71 and 73: differences -1 and -2.
    expected = [70.5, 72.0, -1.5, -1.5 / 70.5, -1.5 - MARGIN_OF_ONE, -1.5 + MARGIN_OF_ONE, 2]
    assert rows["en-fr", "adapter", "ner", "f1", "fr"][numbers].to_list() == pytest.approx(expected, abs=1e-4)
    # mono 60 and 61, joint 62 and 63: both differences are -2.
    expected = [60.5, 62.5, -2.0, -2.0 / 60.5, -2.0, -2.0, 2]
    assert rows["en-hi", "joint", "ner", "f1", "hi"][numbers].to_list() == pytest.approx(expected)
    # The same English mono models stand in both sets.
    assert rows["en-hi", "joint", "pos", "accuracy", "en"][numbers[:3]].to_list() == [92.5, 89.5, 3.0]
    # Nobody trained adapter on en-hi: mono alone is known.
    missing = rows["en-hi", "adapter", "ner", "f1", "hi"]
    assert missing["mono"] == 60.5
    assert missing["seeds"] == 0
    assert all(math.isnan(missing[name]) for name in ("score", "difference", "relative", "low", "high"))
    # Hindi has no POS, so there is no such row.
    assert ("en-hi", "joint", "pos", "f1", "hi") not in rows.columns
    assert len(frame) == 2 * (2 + 2 * 2 + 2 + 2)


def test_rows_stand_in_the_studys_order(results: analysis.Results) -> None:
    frame = results.interference()
    assert frame["languages"].drop_duplicates().to_list() == ["en-fr", "en-hi"]
    pairs = frame[["task", "metric"]].drop_duplicates().itertuples(index=False, name=None)
    assert list(pairs) == [("ner", "f1"), ("pos", "f1"), ("pos", "accuracy")]
    assert frame["variant"].head(2).to_list() == ["joint", "adapter"]


def test_another_baseline_and_level(results: analysis.Results) -> None:
    frame = results.interference(baseline="joint", level=0.5).set_index(["languages", "variant", "task", "language"])
    row = frame[frame["metric"] == "f1"].loc["en-fr", "adapter", "ner", "fr"]
    # joint 69 and 69, adapter 71 and 73: differences -2 and -4; t(1) at 0.75 is exactly 1.
    assert (row["joint"], row["score"], row["difference"]) == (69.0, 72.0, -3.0)
    assert (row["low"], row["high"]) == pytest.approx((-4.0, -2.0))
    assert set(frame.index.get_level_values("variant")) == {"mono", "adapter"}


def test_unknown_baseline_names_those_there_are(results: analysis.Results) -> None:
    with pytest.raises(InputError, match="no variant 'ffn' to compare with; it has mono, joint, adapter"):
        results.interference("ffn")


def test_level_that_is_none(results: analysis.Results) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        results.interference(level=95)


def test_only_seeds_of_both_count(chosen_scores: Make) -> None:
    study = Study("s", (("en", "fr"),), ("mono", "joint"), ("ner",))
    cells = {
        ("mono", "en", "ner", "en", "en"): {0: 80.0, 1: 82.0, 2: 10.0},
        ("joint", "en-fr", "ner", "en", "en"): {0: 79.0, 1: 80.0, 3: 99.0},
        ("mono", "fr", "ner", "fr", "fr"): {0: 60.0},
        ("joint", "en-fr", "ner", "fr", "fr"): {1: 50.0, 2: 52.0},
    }
    frame = interference(chosen_scores(cells), study).set_index("language")
    assert frame.loc["en", ["mono", "score", "difference", "seeds"]].to_list() == [81.0, 79.5, 1.5, 2]
    # No seed in common: both means are shown, and no difference.
    assert frame.loc["fr", ["mono", "score", "seeds"]].to_list() == [60.0, 51.0, 0]
    assert math.isnan(frame.loc["fr", "difference"])


def test_study_without_mono_has_no_differences(chosen_scores: Make) -> None:
    study = Study("s", (("en", "fr"),), ("joint",), ("ner",))
    frame = interference(chosen_scores({("joint", "en-fr", "ner", "fr", "fr"): {0: 50.0}}), study)
    assert frame["score"].to_list() == [50.0]
    assert frame[["mono", "difference"]].isna().all(axis=None)


def test_score_of_nothing_has_no_relative_difference(chosen_scores: Make) -> None:
    study = Study("s", (("en", "fr"),), ("mono", "joint"), ("ner",))
    cells = {("mono", "fr", "ner", "fr", "fr"): {0: 0.0}, ("joint", "en-fr", "ner", "fr", "fr"): {0: 1.0}}
    frame = interference(chosen_scores(cells), study)
    assert frame["difference"].to_list() == [-1.0]
    assert frame["relative"].isna().all()


def test_transfer_of_the_known_study(results: analysis.Results) -> None:
    frame = results.transfer()
    rows = frame.set_index(["languages", "variant", "task", "metric", "source_language", "language"]).T
    numbers = ["zero_shot", "within", "gap", "low", "high", "seeds"]
    # joint on fr: zero-shot 50 and 51, within 69 and 69: gaps 19 and 18.
    expected = [50.5, 69.0, 18.5, 18.5 - MARGIN_OF_ONE, 18.5 + MARGIN_OF_ONE, 2]
    assert rows["en-fr", "joint", "ner", "f1", "en", "fr"][numbers].to_list() == pytest.approx(expected, abs=1e-4)
    expected = [64.0, 84.0, 20.0]
    assert rows["en-fr", "adapter", "pos", "accuracy", "en", "fr"][numbers[:3]].to_list() == expected
    # Two variants on fr in three metrics; joint on hi in one.
    assert len(frame) == 2 * 3 + 1


def test_transfer_to_each_of_several_targets(chosen_scores: Make) -> None:
    study = Study("s", (("en", "hi", "mr"),), ("joint",), ("ner",))
    cells = {
        ("joint", "en-hi-mr", "ner", "en", "en"): {0: 80.0},
        ("joint", "en-hi-mr", "ner", "en", "hi"): {0: 40.0},
        ("joint", "en-hi-mr", "ner", "en", "mr"): {0: 30.0},
        ("joint", "en-hi-mr", "ner", "mr", "mr"): {0: 50.0},
    }
    frame = transfer(chosen_scores(cells), study).set_index("language")
    assert frame["zero_shot"].to_dict() == {"hi": 40.0, "mr": 30.0}
    assert frame.loc["mr", "gap"] == 20.0
    assert math.isnan(frame.loc["hi", "gap"])


@settings(deadline=None)
@given(BY_SEED, BY_SEED)
def test_comparison_is_antisymmetric_and_consistent(first: dict[int, float], second: dict[int, float]) -> None:
    one, other = compare(first, second), compare(second, first)
    assert one.difference.size == other.difference.size == len(first.keys() & second.keys())
    if one.difference.size:
        assert one.difference.mean == pytest.approx(-other.difference.mean, abs=1e-9)
        assert one.difference.mean == pytest.approx(one.first - one.second, abs=1e-9)
        assert one.difference.low == pytest.approx(-other.difference.high, abs=1e-6, nan_ok=True)


PAIRS = (("en", "fr"), ("en", "hi"))
COUNT = 400


def made_up(rates: dict[str, float], seeds: int = 3, over_seeds: float = 1.0) -> tuple[Study, pd.DataFrame, ScoreDraws]:
    """A study whose model of each variant is right on about so many percent of the examples, by seed more or less."""
    random = np.random.default_rng(0)
    rows, outcomes = [], {}
    for variant, rate in rates.items():
        for languages in (("en",), ("fr",), ("hi",)) if variant == "mono" else PAIRS:
            for seed in range(seeds):
                shift = random.normal(0.0, over_seeds)
                name = "-".join(languages)
                for train in languages:
                    for language in languages if train == "en" else (train,):
                        key = f"{variant}-{name}-{train}-{seed}"
                        percent = rate + shift - (0.0 if language == train else 20.0)
                        right = (np.random.default_rng(len(outcomes)).random(COUNT) * 100 < percent).astype(float)
                        one = Outcomes(right, np.ones(COUNT), 100.0 * right.mean(), ("nli", language, 0))
                        outcomes[key, language, "accuracy"] = one
                        rows.append((key, variant, name, "nli", "accuracy", train, language, seed, one.score))
    columns = ["key", "variant", "languages", "task", "metric", "train_language", "eval_language", "seed", "value"]
    study = Study("s", PAIRS, tuple(rates), ("nli",))
    return study, pd.DataFrame(rows, columns=columns), ScoreDraws(Examples(outcomes), 2000)


def test_verdicts_say_what_is_interference_and_what_may_be_chance() -> None:
    study, best, draws = made_up({"mono": 70.0, "joint": 45.0, "ffn": 70.0, "adapter": 93.0})
    frame = interference(best, study, draws=draws)
    assert frame.groupby("variant")["verdict"].unique().explode().to_dict() == {
        "joint": "interference",
        "ffn": "not told from zero",
        "adapter": "gain",
    }
    assert set(frame["basis"]) == {"3 seeds and examples"}
    assert set(frame["examples"]) == {COUNT}
    assert set(frame["family"]) == {"12 comparisons: main metrics"}
    assert (frame["p_adjusted"] >= frame["p"]).all()
    inside = (frame["total_low"] <= frame["difference"]) & (frame["difference"] <= frame["total_high"])
    assert inside.all()
    false_discoveries = interference(best, study, draws=draws, correction="benjamini_hochberg")
    assert (false_discoveries["p_adjusted"] <= frame["p_adjusted"]).all()


def test_unknown_correction(results: analysis.Results) -> None:
    with pytest.raises(InputError, match="no correction 'bonferroni' for many comparisons; one of holm, benjamini"):
        results.interference(correction="bonferroni")


def test_metrics_are_families_of_their_own(results: analysis.Results) -> None:
    frame = results.interference()
    assert set(frame["family"]) == {"11 comparisons: main metrics", "5 comparisons: accuracy"}


def test_missing_baseline_is_named_with_the_command_that_runs_it(chosen_scores: Make) -> None:
    cells = {
        ("mono", "en", "ner", "en", "en"): {0: 1.0},
        ("joint", "en-fr", "ner", "en", "en"): {1: 2.0},
        ("joint", "en-fr", "ner", "fr", "fr"): {0: 3.0},
    }
    for variants, command in (
        (("mono", "joint"), "python -m raylab.sweep s.yaml"),
        (("joint",), 'python -m raylab.sweep s.yaml --set "variants=[mono, joint]"'),
    ):
        study = Study("s", (("en", "fr"),), variants, ("ner",))
        frame = interference(chosen_scores(cells), study).set_index("language")
        assert frame.loc["fr", "reason"] == f"no score of mono on fr; {command}"
        assert frame.loc["en", "reason"] == f"no seed in common on en: mono has seed 0, joint has seed 1; {command}"
        assert set(frame["verdict"]) == {"unknown"}


def test_command_names_the_sizing_of_a_study_that_comes_with_raylab() -> None:
    study = Study("variants-pocket", (("en", "fr"),), ("mono",), ("ner",))
    assert study.command() == "python -m raylab.sweep variants --sizing pocket"
    assert Study("my-study", (("en", "fr"),), ("mono",), ("ner",)).command() == "python -m raylab.sweep my-study.yaml"


def test_recovery_is_the_share_of_the_loss_that_comes_back() -> None:
    study, best, draws = made_up({"mono": 80.0, "joint": 40.0, "adapter": 60.0})
    frame = interference(best, study, draws=draws)
    by_variant = {name: rows.reset_index(drop=True) for name, rows in frame.groupby("variant")}
    joint, adapter = by_variant["joint"], by_variant["adapter"]
    assert (joint[["recovery", "recovery_low", "recovery_high"]] == 0.0).all(axis=None)
    expected = (adapter["score"] - joint["score"]) / (joint["mono"] - joint["score"])
    np.testing.assert_allclose(adapter["recovery"], expected)
    assert ((adapter["recovery_low"] < adapter["recovery"]) & (adapter["recovery"] < adapter["recovery_high"])).all()
    assert ((adapter["recovery_low"] < 0.5) & (adapter["recovery_high"] > 0.5)).all()
    assert set(adapter["recovery_reason"]) == {""}


def test_recovery_has_no_meaning_where_joint_loses_nothing_for_sure() -> None:
    study, best, draws = made_up({"mono": 70.0, "joint": 70.0, "adapter": 75.0})
    frame = interference(best, study, draws=draws)
    unsure = frame["recovery"].isna()
    assert unsure.sum() >= 6
    reasons = frame.loc[unsure, "recovery_reason"]
    assert reasons.str.contains("not told from zero|too little").all()


def test_recovery_where_joint_gains_or_is_not_there(chosen_scores: Make) -> None:
    study, best, draws = made_up({"mono": 40.0, "joint": 80.0, "adapter": 60.0}, seeds=1)
    frame = interference(best, study, draws=draws)
    assert set(frame["recovery_reason"]) == {"joint is above mono here: a share of what joint gains"}
    assert frame["recovery"].notna().all()
    without = interference(best[best["variant"] != "joint"], study, draws=draws)
    assert set(without["recovery_reason"]) == {"mono - joint is not known here"}
    other = interference(best, study, "joint", draws=draws)
    assert set(other["recovery_reason"]) == {"recovery is of what joint loses to mono, not to joint"}


def test_recovery_of_a_tiny_loss(chosen_scores: Make) -> None:
    study = Study("s", (("en", "fr"),), ("mono", "joint"), ("ner",))
    cells = {
        ("mono", "fr", "ner", "fr", "fr"): {0: 70.0, 1: 71.0},
        ("joint", "en-fr", "ner", "fr", "fr"): {0: 69.95, 1: 70.951},
    }
    frame = interference(chosen_scores(cells), study)
    assert frame["recovery_reason"].to_list() == ["mono - joint is +0.05 points: too little to take a share of"]


def test_interval_of_recovery_covers_the_truth() -> None:
    covered = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        rows = [
            (variant, "fr" if variant == "mono" else "en-fr", "ner", "f1", "fr", "fr", number, random.normal(mean, 0.5))
            for variant, mean in (("mono", 80.0), ("joint", 70.0), ("adapter", 76.0))
            for number in range(4)
        ]
        columns = ["variant", "languages", "task", "metric", "train_language", "eval_language", "seed", "value"]
        study = Study("s", (("en", "fr"),), ("mono", "joint", "adapter"), ("ner",))
        row = interference(pd.DataFrame(rows, columns=columns), study).set_index("variant").loc["adapter"]
        covered.append(row["recovery_low"] <= 0.6 <= row["recovery_high"])
    assert 0.86 <= np.mean(covered) <= 1.0


def test_transfer_gap_has_the_same_uncertainty() -> None:
    study, best, draws = made_up({"joint": 70.0})
    frame = transfer(best, study, draws=draws)
    assert set(frame["verdict"]) == {"gap"}
    assert set(frame["basis"]) == {"3 seeds and examples"}
    assert set(frame["family"]) == {"2 comparisons: main metrics"}
    assert ((frame["total_low"] < 20.0) & (frame["total_high"] > 20.0)).all()


def test_averages_are_computed_over_the_cells() -> None:
    study, best, draws = made_up({"mono": 70.0, "joint": 60.0, "adapter": 70.0})
    cells = interference(best, study, draws=draws)
    frame = averages(best, study, draws=draws).set_index(["over", "task", "variant"])
    for over, members in (("languages", cells), ("targets", cells[cells["language"] != "en"])):
        for variant in ("joint", "adapter"):
            row = frame.loc[over, "nli", variant]
            own = members[members["variant"] == variant]
            assert row["difference"] == pytest.approx(own["difference"].mean())
            assert row["cells"] == len(own)
            assert row["examples_high"] - row["examples_low"] < (own["examples_high"] - own["examples_low"]).min()
    assert frame["verdict"].to_dict()["targets", "nli", "joint"] == "interference"
    assert frame["verdict"].to_dict()["targets", "nli", "adapter"] == "not told from zero"
    # Three test sets, of which English is that of two cells.
    assert frame.loc[("languages", "nli", "joint"), "examples"] == 3 * COUNT


def test_average_of_a_variant_that_lacks_a_cell_is_none(results: analysis.Results) -> None:
    frame = results.averages().set_index(["over", "task", "variant"])
    row = frame.loc["targets", "ner", "adapter"]
    assert math.isnan(row["difference"])
    assert row["reason"] == "1 of 2 cells are missing; python -m raylab.sweep toy.yaml"
    row = frame.loc["targets", "ner", "joint"]
    # French: 1 and 2; Hindi: -2 and -2.
    assert (row["difference"], row["cells"], row["seeds"]) == (-0.25, 2, 2)
    assert (row["low"], row["high"]) == pytest.approx((-0.25 - 3.1766, -0.25 + 3.1766), abs=1e-3)
    assert (row["languages_low"], row["languages_high"]) == pytest.approx((-0.25 - 22.2359, -0.25 + 22.2359), abs=1e-3)


def test_views_are_made_once_and_their_readers_cannot_change_them(results: analysis.Results) -> None:
    first = results.interference(examples=False)
    first["difference"] = 0.0
    assert results.interference(examples=False)["difference"].abs().max() > 0.0
