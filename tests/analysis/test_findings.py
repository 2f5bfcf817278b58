from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

import analysis
from analysis.contrasts import average_difference, cell_scores
from analysis.findings import findings
from analysis.interference import interference
from analysis.study import Study


class Stub:
    """As much of `Results` as findings need, of scores that no store has."""

    def __init__(self, best: pd.DataFrame, study: Study) -> None:
        self._best, self.study = best, study

    def best(self) -> pd.DataFrame:
        return self._best

    def interference(self) -> pd.DataFrame:
        return interference(self._best, self.study)


def texts(results: Any) -> dict[str, str]:
    return {finding.topic: finding.text for finding in findings(results)}


def scores(mono: float, joint: float, zero_shot: float, ffn: float | None, seeds: int) -> dict[tuple, dict[int, float]]:
    """Mono, joint and perhaps ffn of en-fr; ffn transfers 3 points worse. Seeds differ a little."""
    cells: dict[tuple, dict[int, float]] = {}
    for language in ("en", "fr"):
        for variant, languages, value in (("mono", language, mono), ("joint", "en-fr", joint), ("ffn", "en-fr", ffn)):
            if value is not None:
                values = {seed: value + (0.01 * seed if variant == "joint" else 0.0) for seed in range(seeds)}
                cells[variant, languages, "ner", language, language] = values
    cells["joint", "en-fr", "ner", "en", "fr"] = dict.fromkeys(range(seeds), zero_shot)
    if ffn is not None:
        cells["ffn", "en-fr", "ner", "en", "fr"] = {seed: zero_shot - 3.0 + 0.1 * seed for seed in range(seeds)}
    return cells


@pytest.fixture
def study() -> Study:
    return Study("toy", (("en", "fr"),), ("mono", "joint", "ffn"), ("ner",))


def test_sentences_follow_the_numbers(chosen_scores: Callable, study: Study) -> None:
    found = texts(Stub(chosen_scores(scores(80.0, 78.0, 50.0, 79.0, 3)), study))
    assert "the joint models score 2.0 points lower" in found["Interference"]
    assert "Of 2 cells" in found["Interference"]
    assert "2 can be told to lose and 0 to gain" in found["Interference"]
    assert found["Mending"].startswith("ffn scores highest of the variants within language, 1.0 point above joint")
    assert "50% of what joint loses" in found["Mending"]
    assert "No variant transfers better than joint" in found["Transfer"]
    assert found["Trade-off"].endswith("Better within language at the price of transfer: ffn.")
    assert "at most 3 seeds, not of test examples" in found["Doubt"]


def test_sentences_turn_with_the_sign(chosen_scores: Callable, study: Study) -> None:
    found = texts(Stub(chosen_scores(scores(78.0, 80.0, 50.0, 79.0, 3)), study))
    assert "2.0 points higher" in found["Interference"]
    assert "0 can be told to lose and 2 to gain" in found["Interference"]
    assert "Largest loss" not in found
    assert "No variant scores above the joint models within language; ffn comes nearest" in found["Mending"]
    assert "No variant is better than joint both within language and in zero-shot." in found["Trade-off"]


def test_one_seed_says_that_it_is_one(chosen_scores: Callable, study: Study) -> None:
    found = texts(Stub(chosen_scores(scores(80.0, 78.0, 50.0, 79.0, 1)), study))
    assert "2 are lower and 0 higher, without intervals" in found["Interference"]
    assert "With one seed, this gain may be chance." in found["Mending"]
    assert "There is one seed" in found["Doubt"]


def test_what_is_missing_is_named(chosen_scores: Callable, study: Study) -> None:
    cells = {place: values for place, values in scores(80.0, 78.0, 50.0, None, 2).items() if place[0] != "mono"}
    found = texts(Stub(chosen_scores(cells), study))
    assert found == {
        "Interference": "Whether languages hurt each other cannot be told: the study has no scores of mono."
    }


def test_of_a_store(results: analysis.Results) -> None:
    found = texts(results)
    # Joint's NER differences are 2.5, 1.5, 3.0 and -2.0 with POS the same without hi: (5.0 + 7.0) / 7.
    assert "score 1.7 points lower" in found["Interference"]
    assert "Of 7 cells" in found["Interference"]
    assert "en-fr" in found["Pairs"] or "en-hi" in found["Pairs"]
    assert "3.0 points" in found["Largest loss"]
    assert "missing" in found["Doubt"]


def test_averages_are_over_common_cells_and_seeds(chosen_scores: Callable) -> None:
    study = Study("toy", (("en", "fr"),), ("mono", "joint"), ("ner",))
    best = chosen_scores(
        {
            ("mono", "en", "ner", "en", "en"): {0: 10.0, 1: 12.0, 2: 99.0},
            ("mono", "fr", "ner", "fr", "fr"): {0: 20.0, 1: 20.0},
            ("joint", "en-fr", "ner", "en", "en"): {0: 9.0, 1: 9.0},
        }
    )
    (mean, low, high, seeds), cells = average_difference(cell_scores(best, study, "within"), "mono", "joint")
    assert (mean, seeds, cells) == (2.0, 2, 1)
    assert low < 2.0 < high
    nothing = average_difference(cell_scores(best, study, "zero_shot"), "mono", "joint")
    assert nothing.cells == 0
    assert math.isnan(nothing.interval.mean)
