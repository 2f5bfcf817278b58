from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import analysis
from analysis.runs import RUNS
from analysis.scores import SCHEMA
from analysis.study import Study
from analysis.summary import searched_recipes

Make = Callable[[dict], pd.DataFrame]


def results_of(scores: pd.DataFrame, study: Study, store: str) -> analysis.Results:
    """Results whose every score is of the one grid point and recipe that there is."""
    rows = [
        {**row, "run_id": str(place), "split": split, "recipe": "only"}
        for place, row in enumerate(scores.to_dict("records"))
        for split in ("dev", "test")
    ]
    return analysis.Results(study, pa.Table.from_pylist(rows, schema=SCHEMA), RUNS.empty_table(), store)


def test_summaries_of_the_known_study(results: analysis.Results) -> None:
    summaries = {(row["languages"], row["variant"]): row for row in analysis.summarise(results)}
    assert set(summaries) == {
        *(("en-fr", variant) for variant in ("mono", "joint", "adapter")),
        *(("en-hi", variant) for variant in ("mono", "joint")),
    }
    assert summaries["en-fr", "joint"]["metrics"] == pytest.approx(
        {
            "within/ner/f1/en": 78.0,
            "within/ner/f1/fr": 69.0,
            "within/pos/f1/en": 88.0,
            "within/pos/f1/fr": 79.0,
            "within/pos/accuracy/en": 90.0,
            "within/pos/accuracy/fr": 81.0,
            "zero_shot/ner/f1/fr": 50.5,
            "zero_shot/pos/f1/fr": 60.5,
            "zero_shot/pos/accuracy/fr": 62.5,
            "within/mean": (78.0 + 69.0 + 88.0 + 79.0) / 4,
            "zero_shot/mean": (50.5 + 60.5) / 2,
            "interference/mean": 2.0,
            "interference/ner/en": 2.5,
            "interference/ner/fr": 1.5,
            "interference/pos/en": 2.5,
            "interference/pos/fr": 1.5,
        }
    )
    assert summaries["en-hi", "mono"]["metrics"] == pytest.approx(
        {
            "within/ner/f1/en": 80.5,
            "within/ner/f1/hi": 60.5,
            "within/pos/f1/en": 90.5,
            "within/pos/accuracy/en": 92.5,
            "within/mean": (80.5 + 60.5 + 90.5) / 3,
        }
    )
    assert summaries["en-fr", "adapter"]["recipe"] == "warm"
    assert summaries["en-fr", "adapter"]["params"]["pretrain.temperature"] == "5.0"
    assert summaries["en-fr", "mono"]["recipe"] == "mono"


def test_a_variant_that_lacks_a_score_has_no_mean(chosen_scores: Make, store: str) -> None:
    cells = {
        ("mono", "en", "ner", "en", "en"): {0: 80.0},
        ("mono", "fr", "ner", "fr", "fr"): {0: 40.0},
        ("joint", "en-fr", "ner", "en", "en"): {0: 79.0},
        ("joint", "en-fr", "ner", "fr", "fr"): {0: 39.0},
        ("adapter", "en-fr", "ner", "en", "en"): {0: 79.5},
    }
    study = Study("under way", (("en", "fr"),), ("mono", "joint", "adapter"), ("ner",))
    summaries = analysis.summarise(results_of(chosen_scores(cells), study, store))
    means = {
        row["variant"]: (row["metrics"].get("within/mean"), row["metrics"].get("interference/mean"))
        for row in summaries
    }
    assert means == {"mono": (60.0, None), "joint": (59.0, 1.0), "adapter": (None, None)}


def test_text_of_the_known_study(results: analysis.Results) -> None:
    text = analysis.interference_text(results)
    assert text.splitlines() == [
        "Negative interference, study toy",
        "Test score in percent, finetuned and tested on the language; in brackets mono minus the model, in points:",
        "positive is interference (the language does better alone), negative a gain from being trained together.",
        "",
        "languages  language  task      mono         joint       adapter",
        "---------------------------------------------------------------",
        "en-fr      en        NER (F1)  80.5  78.0 (+2.5)~   80.5 (0.0)~",
        "                     POS (F1)  90.5  88.0 (+2.5)~   90.5 (0.0)~",
        "           fr        NER (F1)  70.5  69.0 (+1.5)~  72.0 (-1.5)~",
        "                     POS (F1)  80.5  79.0 (+1.5)~  82.0 (-1.5)~",
        "en-hi      en        NER (F1)  80.5  77.5 (+3.0)             –",
        "                     POS (F1)  90.5  87.5 (+3.0)             –",
        "           hi        NER (F1)  60.5  62.5 (-2.0)             –",
        "mean                           79.1  77.4 (+1.7)~            –",
        "",
        "~ cannot be told from zero: p > 0.05, adjusted for 11 comparisons by Holm's method.",
        "Without a mark: can be told from zero.",
        "Accounted for: other seeds (from 2 seeds); not other test examples: /storage is out of reach.",
        "Missing (3 cells): no score of adapter on en; python -m raylab.sweep toy.yaml",
        "",
        "Zero-shot transfer",
        "Test score in percent, finetuned on the source language and tested on the language.",
        "",
        "languages  language  task      joint  adapter",
        "---------------------------------------------",
        "en-fr      fr        NER (F1)   50.5     52.0",
        "                     POS (F1)   60.5     62.0",
        "en-hi      hi        NER (F1)   40.0        –",
        "mean                            50.3        –",
    ]


def test_text_with_one_seed_and_no_predictions_knows_nothing(chosen_scores: Make, store: str) -> None:
    cells = {("mono", "fr", "ner", "fr", "fr"): {0: 70.0}, ("joint", "en-fr", "ner", "fr", "fr"): {0: 60.0}}
    study = Study("small", (("en", "fr"),), ("mono", "joint"), ("ner",))
    text = analysis.interference_text(results_of(chosen_scores(cells), study, store))
    assert "60.0 (+10.0)?" in text
    assert "? not known whether it is chance: one seed, and MLflow does not say where the job's folder is." in text
    assert "Zero-shot" not in text


def test_text_with_one_seed_is_of_examples_alone(store: str, tmp_path: Path) -> None:
    gold = [["B-A"]] * 100
    rows = []
    for variant, languages, right in (("mono", "fr", 90), ("joint", "en-fr", 40), ("ffn", "en-fr", 88)):
        (tmp_path / variant).mkdir()
        predicted = [["B-A" if number < right else "B-B"] for number in range(100)]
        table = {"language": ["fr"] * 100, "split": ["test"] * 100, "gold": gold, "predicted": predicted}
        pq.write_table(pa.table(table), tmp_path / variant / "predictions.parquet")
        place = {"variant": variant, "languages": languages, "task": "ner", "metric": "f1", "setting": "within"}
        value = {"train_language": "fr", "eval_language": "fr", "seed": 0, "value": float(right), "key": variant}
        rows.append({**place, **value, "output": str(tmp_path / variant)})
    study = Study("small", (("en", "fr"),), ("mono", "joint", "ffn"), ("ner",))
    lines = analysis.interference_text(results_of(pd.DataFrame(rows), study, store)).splitlines()
    assert "en-fr fr NER (F1) 90.0 40.0 (+50.0) 88.0 (+2.0)~" in [" ".join(line.split()) for line in lines]
    assert "One seed: other test examples are accounted for, another seed is not and may change more." in lines


def test_text_says_when_no_difference_is_certain(chosen_scores: Make, store: str) -> None:
    cells = {
        ("mono", "fr", "ner", "fr", "fr"): {0: 70.0, 1: 70.0},
        ("joint", "en-fr", "ner", "fr", "fr"): {0: 60.0, 1: 75.0},
    }
    study = Study("small", (("en", "fr"),), ("mono", "joint"), ("ner",))
    text = analysis.interference_text(results_of(chosen_scores(cells), study, store))
    assert "67.5 (+2.5)~" in text
    assert "\nNo difference can.\n" in text


def test_text_says_when_every_difference_is_certain(chosen_scores: Make, store: str) -> None:
    cells = {
        ("mono", "fr", "ner", "fr", "fr"): {0: 70.0, 1: 71.0},
        ("joint", "en-fr", "ner", "fr", "fr"): {0: 60.0, 1: 61.1},
    }
    study = Study("small", (("en", "fr"),), ("mono", "joint"), ("ner",))
    text = analysis.interference_text(results_of(chosen_scores(cells), study, store))
    assert "Every difference is told from zero: p <= 0.05" in text
    assert "~" not in text


def test_text_names_the_metrics_there_are_where_the_main_one_is_gone(chosen_scores: Make, store: str) -> None:
    cells = {("mono", "fr", "ner", "fr", "fr"): {0: 70.0}, ("joint", "en-fr", "ner", "fr", "fr"): {0: 60.0}}
    study = Study("small", (("en", "fr"),), ("mono", "joint"), ("ner",))
    text = analysis.interference_text(results_of(chosen_scores(cells).assign(metric="span_f1"), study, store))
    assert "ner: no score in f1, by which it is compared; there are span_f1. Has the metric's name changed?" in text


def test_text_and_summaries_without_mono(chosen_scores: Make, store: str) -> None:
    cells = {("joint", "en-fr", "ner", "en", "fr"): {0: 40.0}}
    study = Study("small", (("en", "fr"),), ("joint",), ("ner",))
    results = results_of(chosen_scores(cells), study, store)
    text = analysis.interference_text(results)
    assert text.startswith("Negative interference, study small: not known")
    assert 'python -m raylab.sweep small.yaml --set "variants=[mono, joint]"' in text
    assert "40.0" in text
    (summary,) = analysis.summarise(results)
    assert summary["metrics"] == {"zero_shot/ner/f1/fr": 40.0, "zero_shot/mean": 40.0}


def test_mono_column_is_over_all_seeds_of_mono(chosen_scores: Make, store: str) -> None:
    cells = {
        ("mono", "fr", "ner", "fr", "fr"): {0: 70.0, 1: 80.0},
        ("joint", "en-fr", "ner", "fr", "fr"): {0: 60.0},
        ("ffn", "en-fr", "ner", "fr", "fr"): {0: 65.0, 1: 75.0},
    }
    study = Study("small", (("en", "fr"),), ("mono", "joint", "ffn"), ("ner",))
    lines = analysis.interference_text(results_of(chosen_scores(cells), study, store)).splitlines()
    # Of joint there is one seed; ffn's two differ from mono by the very same.
    assert "en-fr fr NER (F1) 75.0 60.0 (+10.0)? 70.0 (+5.0)?" in [" ".join(line.split()) for line in lines]


def test_searched_recipes_are_those_of_models_with_several(results: analysis.Results) -> None:
    recipes = searched_recipes(results)
    assert recipes["recipe"].to_list() == ["warm", "cold", "partial"]
    assert recipes["chosen"].to_list() == ["yes", "no", "no"]
    assert recipes["pretrain.temperature"].to_list()[:2] == ["5", "1"]
