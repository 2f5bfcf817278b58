from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import pytest

import analysis
from analysis.study import Study
from analysis.tradeoff import tradeoff

Make = Callable[[dict], pd.DataFrame]


def test_tradeoff_of_the_known_study(results: analysis.Results) -> None:
    frame = tradeoff(results.best(), results.study).set_index(["task", "variant"])
    # Adapter lacks Hindi, so all means are over French.
    assert set(frame["targets"]) == {"fr"}
    assert frame["within"].to_dict() == {
        ("ner", "mono"): 70.5,
        ("ner", "joint"): 69.0,
        ("ner", "adapter"): 72.0,
        ("pos", "mono"): 80.5,
        ("pos", "joint"): 79.0,
        ("pos", "adapter"): 82.0,
    }
    assert frame.loc[("ner", "joint"), "zero_shot"] == 50.5
    assert math.isnan(frame.loc[("ner", "mono"), "zero_shot"])
    # Standard deviations of 69 and 69, and of 50 and 51.
    deviations = frame.loc[("ner", "joint"), ["within_deviation", "zero_shot_deviation"]]
    assert deviations.to_list() == pytest.approx([0.0, math.sqrt(0.5)])


def test_deviation_is_of_the_mean_over_targets(chosen_scores: Make) -> None:
    # Seed 0 is better on fr, seed 1 on hi: the means over targets are equal.
    cells = {
        ("joint", "en-fr", "ner", "fr", "fr"): {0: 60.0, 1: 50.0},
        ("joint", "en-fr", "ner", "en", "fr"): {0: 30.0, 1: 20.0},
        ("joint", "en-hi", "ner", "hi", "hi"): {0: 70.0, 1: 80.0},
        ("joint", "en-hi", "ner", "en", "hi"): {0: 10.0, 1: 26.0},
    }
    study = Study("s", (("en", "fr"), ("en", "hi")), ("joint",), ("ner",))
    row = tradeoff(chosen_scores(cells), study).iloc[0]
    assert (row["within"], row["within_deviation"], row["targets"]) == (65.0, 0.0, "fr, hi")
    # Zero-shot means by seed: 20 and 23.
    assert (row["zero_shot"], row["zero_shot_deviation"]) == pytest.approx((21.5, math.sqrt(4.5)))


def test_nothing_to_compare(chosen_scores: Make) -> None:
    study = Study("s", (("en", "fr"),), ("mono", "joint"), ("ner",))
    assert tradeoff(chosen_scores({("mono", "fr", "ner", "fr", "fr"): {0: 60.0}}), study).empty
    # Zero-shot alone: no target has both scores.
    assert tradeoff(chosen_scores({("joint", "en-fr", "ner", "en", "fr"): {0: 60.0}}), study).empty
