"""Choosing on dev scores alone: the pretraining recipe of a model, and the finetuning grid point of a score."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.labels import in_variant_order, main_metric

MODEL = ["variant", "languages"]
CELL = ["task", "setting", "train_language", "eval_language"]

# A better selection first; then, of equals, always the same one.
_GRID_ORDER = ["selection", "batch_size", "learning_rate", "key"]
_GRID_ASCENDING = [False, True, True, True]


def choose_grid_points(scores: pd.DataFrame) -> pd.DataFrame:
    """The finetuning run with the highest selection, for each recipe, cell, seed and metric.

    The selection is the main metric on the dev set of the TRAIN language, in the zero-shot setting too. A run whose
    selection is missing or NaN is chosen only where there is no other.

    Args:
        scores: Rows as `analysis.scores.score_table` makes them.

    Returns:
        The columns of `scores`, where `value` is the test score and a new column `dev` the same metric on the dev set
        of the eval language (what recipes are compared by); either may be NaN. No column `split`.
    """
    finetuned = scores[scores["task"] != "mlm"]
    columns = [name for name in scores.columns if name != "split"]
    columns.insert(columns.index("value"), "dev")
    if finetuned.empty:  # pandas cannot merge texts of which there are none
        return finetuned.reindex(columns=columns)
    choices = [*MODEL, "recipe", *CELL, "seed", "metric"]
    keys = [name for name in scores.columns if name not in ("split", "value")]
    dev = finetuned.loc[finetuned["split"] == "dev", [*keys, "value"]].rename(columns={"value": "dev"})
    test = finetuned.loc[finetuned["split"] == "test", [*keys, "value"]]
    both = dev.merge(test, how="outer", on=keys, validate="one_to_one")
    ordered = both.sort_values(_GRID_ORDER, ascending=_GRID_ASCENDING, na_position="last", kind="stable")
    chosen = ordered.drop_duplicates(choices).sort_values(choices, kind="stable")
    return chosen[columns].reset_index(drop=True)


def compare_recipes(grid_points: pd.DataFrame, parameters: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """How the pretraining recipes of each model do on dev, and which one is chosen.

    A cell is a task, setting, train language and eval language; its dev score is the mean over seeds of the chosen
    grid points' main metric on the dev set of the eval language. The recipe with the highest mean over its cells is
    chosen, among those that have as many cells as any other of that model: a recipe whose harder cells failed or are
    still to come would win by having skipped them.

    Args:
        grid_points: What `choose_grid_points` returns.
        parameters: Pretraining parameters of each recipe.

    Returns:
        One row a recipe: variant, languages, recipe, within and zero_shot (mean dev scores over the cells of that
        setting, percent), mean (over all cells), cells, seeds, chosen; then each pretraining parameter in which the
        recipes of any one model differ, as a number where it is one. The best recipe of each model first.
    """
    main = grid_points[grid_points["metric"] == grid_points["task"].map(main_metric)]
    cells = main.groupby([*MODEL, "recipe", *CELL], dropna=False)["dev"].mean().dropna().reset_index()
    recipes = [*MODEL, "recipe"]
    table = main.groupby(recipes, dropna=False).agg(seeds=("seed", "nunique")).reset_index()
    by_setting = cells.groupby([*recipes, "setting"], dropna=False)["dev"].mean().unstack("setting")
    over_all = cells.groupby(recipes, dropna=False)["dev"].agg(mean="mean", cells="count")
    table = table.merge(by_setting.reindex(columns=["within", "zero_shot"]).reset_index(), on=recipes, how="left")
    table = table.merge(over_all.reset_index(), on=recipes, how="left").fillna({"cells": 0}).astype({"cells": int})

    most_cells = table.groupby(MODEL)["cells"].transform("max")
    table["complete"] = table["cells"] == most_cells
    rank = {name: place for place, name in enumerate(in_variant_order(table["variant"]))}
    table["rank"] = table["variant"].map(rank)
    table = table.sort_values(
        ["rank", "languages", "complete", "mean", "recipe"], ascending=[True, True, False, False, True]
    )
    table["chosen"] = ~table.duplicated(MODEL)
    columns = [*recipes, "within", "zero_shot", "mean", "cells", "seeds", "chosen"]
    table = table[columns].reset_index(drop=True)
    for name in _differing(table, parameters):
        table[name] = [_typed(parameters.get(recipe, {}).get(name)) for recipe in table["recipe"]]
    return table


def best_scores(grid_points: pd.DataFrame, recipes: pd.DataFrame) -> pd.DataFrame:
    """The rows of `grid_points` that belong to the chosen recipes in `recipes`."""
    chosen = recipes.loc[recipes["chosen"], [*MODEL, "recipe"]]
    return grid_points.merge(chosen, on=[*MODEL, "recipe"], how="inner", validate="many_to_one")


def _differing(table: pd.DataFrame, parameters: Mapping[str, Mapping[str, str]]) -> list[str]:
    differing: set[str] = set()
    for _, recipes in table.groupby(MODEL)["recipe"]:
        known = [parameters[recipe] for recipe in recipes if recipe in parameters]
        for name in set().union(*known):
            if len({own.get(name) for own in known}) > 1:
                differing.add(name)
    return sorted(differing)


def _typed(value: str | None) -> str | float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return value
