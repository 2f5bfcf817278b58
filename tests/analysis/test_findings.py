from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from measured_store import cosines
from scipy.special import stdtrit

import analysis
from analysis.contrasts import Asked, Average, average_differences
from analysis.examples import Examples, Outcomes
from analysis.findings import findings
from analysis.interference import interference
from analysis.runs import runs_table
from analysis.study import Study
from analysis.uncertainty import ScoreDraws
from raylab.mlflow_database import StoredRun


class Stub:
    """As much of `Results` as findings need, of scores that no store has."""

    runs = runs_table([])

    def __init__(self, best: pd.DataFrame, study: Study, draws: ScoreDraws | None = None) -> None:
        self._best, self.study, self._draws = best, study, draws
        self.table = pa.Table.from_pandas(best[["task", "metric"]], preserve_index=False)

    def best(self) -> pd.DataFrame:
        return self._best

    def interference(self) -> pd.DataFrame:
        return interference(self._best, self.study, draws=self._draws)

    def average_differences(self, asked: Sequence[Asked]) -> list[Average]:
        return average_differences(self._best, self.study, asked, self._draws)


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
    assert "Better within language at the price of transfer: ffn." in found["Trade-off"]
    assert "Both differences can be told from 0 for ffn." in found["Trade-off"]
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


def test_one_seed_has_intervals_from_test_examples(chosen_scores: Callable, study: Study) -> None:
    right = {"mono": 0.8, "joint": 0.7, "ffn": 0.71}
    random = np.random.default_rng(0)
    outcomes, cells = {}, {}
    for variant, share in right.items():
        for language in ("en", "fr"):
            hits = (random.random(2000) < share).astype(float)
            score = 100.0 * hits.mean()
            languages = language if variant == "mono" else "en-fr"
            cells[variant, languages, "ner", language, language] = {0: score}
            identity = ("ner", language, 1)
            outcomes[f"{variant} {languages}", language, "f1"] = Outcomes(hits, np.ones(2000), score, identity)
    best = chosen_scores(cells)
    best["key"] = best["variant"] + " " + best["languages"]
    found = texts(Stub(best, study, ScoreDraws(Examples(outcomes), 1000)))
    assert "1 seed, 2 cells" in found["Interference"]
    # The standard error of a mean over two test sets of the difference of two shares of 2000 is 0.97 points.
    low, high = map(float, re.search(r"95% interval \+([\d.]+) to \+([\d.]+), 1 seed", found["Interference"]).groups())  # type: ignore[union-attr]
    assert high - low == pytest.approx(2 * 1.96 * 0.97, rel=0.15)
    assert "this gain cannot be told from 0" in found["Mending"]
    assert "of what joint loses" in found["Mending"]
    assert "intervals are from test examples alone" in found["Doubt"]


def test_a_share_of_a_loss_that_may_be_zero_is_not_given(chosen_scores: Callable, study: Study) -> None:
    cells = scores(80.0, 78.0, 50.0, 79.0, 3)
    for language in ("en", "fr"):
        cells["mono", language, "ner", language, language] = {0: 70.0, 1: 80.0, 2: 90.0}
    found = texts(Stub(chosen_scores(cells), study))
    assert "1.0 point above joint" in found["Mending"]
    assert "of what joint loses" not in found["Mending"]


def test_scores_at_the_floor_are_pointed_out(chosen_scores: Callable, study: Study) -> None:
    found = texts(Stub(chosen_scores(scores(80.0, 78.0, 0.1, None, 3)), study))
    assert "In 1 of 1 cell in zero-shot every model scores below 2%: differences there say nothing." in found["Doubt"]


def test_what_is_missing_is_named(chosen_scores: Callable, study: Study) -> None:
    cells = {place: values for place, values in scores(80.0, 78.0, 50.0, None, 2).items() if place[0] != "mono"}
    found = texts(Stub(chosen_scores(cells), study))
    assert found == {
        "Interference": "Whether languages hurt each other cannot be told: the study has no scores of mono. "
        "What is missing may come by: python -m raylab.sweep toy.yaml"
    }


def test_a_renamed_metric_is_named_and_no_sweep_is_advised(chosen_scores: Callable, study: Study) -> None:
    stub = Stub(chosen_scores(scores(80.0, 78.0, 50.0, None, 1)).assign(metric="span_f1"), study)
    found = texts(stub)
    assert found["Metrics"].startswith("ner: no score in f1, by which it is compared; there are span_f1.")
    assert "raylab.sweep" not in found["Interference"]


def test_of_a_store(results: analysis.Results) -> None:
    found = texts(results)
    # Joint's NER differences are 2.5, 1.5, 3.0 and -2.0 with POS the same without hi: (5.0 + 7.0) / 7.
    assert "score 1.7 points lower" in found["Interference"]
    assert "Of 7 cells" in found["Interference"]
    assert found["Language sets"].startswith("en-fr loses most on average over its languages and tasks (+2.0,")
    assert "3.0 points" in found["Largest loss"]
    assert "missing" in found["Doubt"]


def probed(seeds: Sequence[int]) -> Stub:
    """A study of nothing but joint models of en-hi and en-sw, with both probes."""
    runs = []
    for languages, seed, probe in product(("en-hi", "en-sw"), seeds, ("gradients", "pruning")):
        tags = {"kind": "probe", "probe": probe, "variant": "joint", "languages": languages, "seed": str(seed)}
        metrics = {metric.key: metric.value for metric in cosines(probe, languages.split("-"), 2, seed)}
        runs.append(StoredRun(f"{languages} {seed} {probe}", "probe", "FINISHED", 0, 1, tags, {}, metrics))
    columns = ["variant", "languages", "task", "metric", "setting", "train_language", "eval_language", "seed", "value"]
    stub = Stub(pd.DataFrame(columns=columns), Study("probes", (("en", "hi"), ("en", "sw")), ("joint",), ()))
    stub.runs = runs_table(runs)
    return stub


def test_probes_have_sentences_with_intervals() -> None:
    found = texts(probed((0, 1, 2)))
    assert set(found) == {"Gradients", "Masks", "Layers"}
    # At the end, within and across: 0.27 and -0.21 of en-hi, 0.345 and -0.06 of en-sw, all by the seed's 0.02 higher.
    assert "lower across languages than within one in 6 of 6 models" in found["Gradients"]
    # The seed moves both cosines of a model alike, so all seeds have the same difference.
    assert "a difference of +0.44, 95% interval over 3 seeds +0.44 to +0.44." in found["Gradients"]
    assert "a difference of +0.24, 95% interval over 3 seeds +0.24 to +0.24." in found["Masks"]
    assert "lower in the highest layer than in the lowest in 6 of 6 models" in found["Layers"]
    assert "a difference of +0.05" in found["Layers"]


def test_probes_of_one_seed_have_intervals_over_language_sets() -> None:
    low, high = (0.24 + side * stdtrit(1, 0.975) * 0.05 for side in (-1, 1))  # of 0.29 and 0.19
    expected = f"95% interval over 2 language sets, of one seed {low:+.2f} to {high:+.2f}.".replace("-", "−")
    assert expected in texts(probed((0,)))["Masks"]


def test_averages_are_over_common_cells_and_seeds(chosen_scores: Callable) -> None:
    study = Study("toy", (("en", "fr"),), ("mono", "joint"), ("ner",))
    best = chosen_scores(
        {
            ("mono", "en", "ner", "en", "en"): {0: 10.0, 1: 12.0, 2: 99.0},
            ("mono", "fr", "ner", "fr", "fr"): {0: 20.0, 1: 20.0},
            ("joint", "en-fr", "ner", "en", "en"): {0: 9.0, 1: 9.0},
        }
    )
    asked = [Asked(setting, "mono", "joint") for setting in ("within", "zero_shot")]
    alone, nothing = average_differences(best, study, asked)
    assert (alone.mean, alone.seeds, alone.cells) == (2.0, 2, 1)
    assert alone.low < 2.0 < alone.high
    assert nothing.cells == 0
    assert math.isnan(nothing.mean)


def test_a_seed_that_has_begun_does_not_take_the_cells_of_the_first_one(chosen_scores: Callable) -> None:
    study = Study("toy", (("en", "fr"),), ("mono", "joint"), ("ner", "pos", "qa"))
    cells = {}
    for task in study.tasks:
        for language in ("en", "fr"):
            seeds = (0, 1) if (task, language) == ("ner", "en") else (0,)
            cells["mono", language, task, language, language] = dict.fromkeys(seeds, 50.0)
            cells["joint", "en-fr", task, language, language] = dict.fromkeys(seeds, 49.0)
    (average,) = average_differences(chosen_scores(cells), study, [Asked("within", "mono", "joint")])
    assert (average.mean, average.seeds, average.cells) == (1.0, 1, 6)
