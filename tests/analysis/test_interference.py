from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis.interference import compare, interference, transfer
from analysis.study import Study
from raylab.errors import InputError

# Half the width of the 95 % interval of two differences that are 1 apart: t(1) = 12.7062 times a standard error of 0.5.
MARGIN_OF_ONE = 6.3531

BY_SEED = st.dictionaries(st.integers(0, 4), st.floats(0, 100), max_size=5)
Make = Callable[[dict], pd.DataFrame]


def test_interference_of_the_known_study(results: analysis.Results) -> None:
    frame = results.interference()
    assert list(frame.columns) == [
        *("languages", "variant", "task", "metric", "language", "mono", "score", "difference", "relative"),
        *("low", "high", "seeds"),
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


@given(BY_SEED, BY_SEED)
def test_comparison_is_antisymmetric_and_consistent(first: dict[int, float], second: dict[int, float]) -> None:
    one, other = compare(first, second), compare(second, first)
    assert one.difference.size == other.difference.size == len(first.keys() & second.keys())
    if one.difference.size:
        assert one.difference.mean == pytest.approx(-other.difference.mean, abs=1e-9)
        assert one.difference.mean == pytest.approx(one.first - one.second, abs=1e-9)
        assert one.difference.low == pytest.approx(-other.difference.high, abs=1e-6, nan_ok=True)
