"""Choosing on dev alone: what the known study would score if another score chose is always another number."""

from __future__ import annotations

import pandas as pd
import pytest

import analysis
from analysis.selection import choose_grid_points, compare_recipes

PLACE = ["variant", "languages", "task", "metric", "train_language", "eval_language", "seed"]


def row(**values: object) -> dict[str, object]:
    """A score of an adapter model, some of whose fields are as given."""
    common = {"variant": "adapter", "languages": "en-fr", "task": "ner", "setting": "within", "metric": "f1"}
    place = {"train_language": "en", "eval_language": "en", "seed": 0, "recipe": "a"}
    run = {"run_id": "1", "key": "k1", "batch_size": 16, "learning_rate": 1e-3, "selection": 50.0}
    return {**common, **place, **run, "split": "test", "value": 50.0, **values}


def test_best_test_scores_of_the_known_study(results: analysis.Results) -> None:
    best = results.best()
    assert not best.duplicated(PLACE).any()
    scores = best.set_index(PLACE)["value"]
    # Within language: the other grid point has 75.0 on test. Joint trained with recipe `joint` only.
    assert scores["joint", "en-fr", "ner", "f1", "fr", "fr", 0] == 69.0
    # Zero-shot: the other grid point is better on the target's dev and test (56), worse on the source's dev.
    assert scores["joint", "en-fr", "ner", "f1", "en", "fr", 1] == 51.0
    # Of adapter's recipes `cold` is 7 better on test and `partial` has 99 in its one cell.
    assert scores["adapter", "en-fr", "ner", "f1", "en", "en", 0] == 79.5
    assert scores["adapter", "en-fr", "pos", "accuracy", "en", "fr", 1] == 52.0 + 10.0 + 2.0
    # 3 mono models; 3 cells of each pair; POS f1 and accuracy of 2 mono, twice 3 and once 1 cells. Two seeds.
    assert len(best) == 2 * ((3 + 3 + 3 + 3) + 2 * (2 + 3 + 3 + 1))


def test_best_has_the_dev_score_and_the_grid_point(results: analysis.Results) -> None:
    best = results.best().set_index(PLACE)
    chosen = best.loc["adapter", "en-fr", "ner", "f1", "en", "fr", 0]
    assert (chosen["dev"], chosen["selection"]) == (51.0, 78.5)
    assert (chosen["recipe"], chosen["batch_size"], chosen["learning_rate"]) == ("warm", 16, 1e-3)
    assert "split" not in best.columns


def test_best_is_a_copy(results: analysis.Results) -> None:
    mine = results.best()
    mine["value"] = 0.0
    assert (results.best()["value"] > 0.0).all()


def test_recipes_of_the_known_study(results: analysis.Results) -> None:
    recipes = results.recipes()
    assert recipes.loc[recipes["variant"] != "adapter", "chosen"].all()
    adapter = recipes[recipes["variant"] == "adapter"].set_index("recipe")
    assert adapter.index.to_list() == ["warm", "cold", "partial"]
    assert adapter["chosen"].to_list() == [True, False, False]
    assert adapter["cells"].to_list() == [6, 6, 1]
    assert adapter["seeds"].to_list() == [2, 2, 1]
    # Dev, means over seeds: NER en 79.5, fr 71, zero-shot 51; POS 10 above each.
    assert adapter.loc["warm", "within"] == pytest.approx((79.5 + 71.0) / 2 + 5.0)
    assert adapter.loc["warm", "zero_shot"] == pytest.approx(51.0 + 5.0)
    assert adapter.loc["warm", "mean"] == pytest.approx((79.5 + 71.0 + 51.0) / 3 + 5.0)
    assert adapter.loc["cold", "mean"] == pytest.approx((79.5 + 71.0 + 51.0) / 3 + 5.0 - 7.0)
    assert adapter.loc["partial", "mean"] == 99.0
    # The one parameter in which they differ, as a number.
    assert list(recipes.columns)[-1] == "pretrain.temperature"
    assert adapter["pretrain.temperature"].to_list()[:2] == [5.0, 1.0]
    assert "model.dim" not in recipes.columns


def test_models_stand_in_the_papers_order(results: analysis.Results) -> None:
    assert results.recipes()["variant"].drop_duplicates().to_list() == ["mono", "joint", "adapter"]


def test_ties_go_to_the_smaller_batch_then_the_smaller_rate() -> None:
    runs = [("1", 32, 1e-4), ("2", 16, 1e-3), ("3", 16, 1e-4), ("4", 16, 1e-2)]
    rows = [row(run_id=name, key=name, batch_size=size, learning_rate=rate) for name, size, rate in runs]
    assert choose_grid_points(pd.DataFrame(rows))["run_id"].to_list() == ["3"]


def test_without_selection_only_where_there_is_no_other() -> None:
    lost = [row(run_id="1", key="1", selection=float("nan"), value=99.0), row(run_id="2", key="2", selection=1.0)]
    assert choose_grid_points(pd.DataFrame(lost))["run_id"].to_list() == ["2"]
    assert choose_grid_points(pd.DataFrame(lost[:1]))["value"].to_list() == [99.0]


def test_target_without_dev_data_keeps_its_test_score() -> None:
    rows = [row(split="dev", value=70.0), row(value=71.0), row(setting="zero_shot", eval_language="fr", value=30.0)]
    chosen = choose_grid_points(pd.DataFrame(rows)).set_index("eval_language")
    assert chosen["value"].to_dict() == {"en": 71.0, "fr": 30.0}
    assert chosen["dev"].isna().to_dict() == {"en": False, "fr": True}
    recipes = compare_recipes(chosen.reset_index(), {})
    assert recipes[["within", "mean", "cells"]].to_numpy().tolist() == [[70.0, 70.0, 1]]


def test_seed_means_come_before_cell_means() -> None:
    # Recipe a: en 60 (three seeds), fr 80 (one seed), so 70; a mean over all rows would be 65, below b's 67.
    cells = [("a", "en", 0, 60.0), ("a", "en", 1, 60.0), ("a", "en", 2, 60.0), ("a", "fr", 0, 80.0)]
    cells += [("b", "en", 0, 67.0), ("b", "fr", 0, 67.0)]
    rows = [
        row(recipe=recipe, train_language=language, eval_language=language, seed=seed, dev=dev)
        for recipe, language, seed, dev in cells
    ]
    recipes = compare_recipes(pd.DataFrame(rows), {})
    assert recipes[["recipe", "mean", "chosen"]].to_numpy().tolist() == [["a", 70.0, True], ["b", 67.0, False]]


def test_secondary_metrics_do_not_choose() -> None:
    rows = [row(task="pos", recipe="a", dev=60.0), row(task="pos", recipe="a", metric="accuracy", dev=60.0)]
    rows += [row(task="pos", recipe="b", dev=59.0), row(task="pos", recipe="b", metric="accuracy", dev=99.0)]
    assert compare_recipes(pd.DataFrame(rows), {}).set_index("recipe")["chosen"].to_dict() == {"a": True, "b": False}
