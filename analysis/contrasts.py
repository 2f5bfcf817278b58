"""Averages over all of a study's cells (language set, task, language), seed by seed: what can be said of a variant."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from analysis.interference import SeedScores
from analysis.labels import main_metric
from analysis.statistics import Interval, mean_interval
from analysis.study import Study

if TYPE_CHECKING:
    from analysis.results import Results

CELL = ["languages", "task", "language"]


class Average(NamedTuple):
    """A mean over cells with its interval over seeds.

    Attributes:
        interval: Of the means over cells, one a seed: percentage points.
        cells: Over how many.
    """

    interval: Interval
    cells: int


def cell_scores(best: pd.DataFrame, study: Study, setting: str) -> pd.DataFrame:
    """Test scores in main metrics, in percent: columns languages, task, language, variant, seed and value.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
        setting: `within` or `zero_shot`; of the latter the source language has none.
    """
    scores = SeedScores(best, study)
    lookup = scores.within if setting == "within" else scores.zero_shot
    rows = [
        ("-".join(languages), task, language, variant, seed, value)
        for languages, task, metric, language in scores.places()
        if metric == main_metric(task) and (setting == "within" or language != languages[0])
        for variant in study.variants
        for seed, value in lookup(languages, variant, task, metric, language).items()
    ]
    return pd.DataFrame(rows, columns=[*CELL, "variant", "seed", "value"])


@lru_cache(maxsize=4)
def cells_of(results: Results, setting: str) -> pd.DataFrame:
    """`cell_scores` of a study's results, made once; not to be changed."""
    return cell_scores(results.best(), results.study, setting)


def with_all_sources(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `low` and `high` from all sources of chance at hand, seeds and test examples.

    Args:
        frame: Rows as `Results.interference` has them.
    """
    return frame.assign(low=frame["total_low"], high=frame["total_high"])


def told(frame: pd.DataFrame) -> pd.Series:
    """Which differences can be told from 0, corrected for the number of comparisons.

    Args:
        frame: Rows as `Results.interference` has them.
    """
    return frame["verdict"].isin(["interference", "gain"])


def average_difference(scores: pd.DataFrame, first: str, second: str) -> Average:
    """First variant minus second, averaged over the cells and over the seeds that both have.

    A cell counts if both variants have it with each of these seeds, so that all seeds average the same cells.

    Args:
        scores: What `cell_scores` returns.
        first: A variant.
        second: Another.
    """
    grids = [
        scores[scores["variant"] == variant].pivot(index=CELL, columns="seed", values="value")
        for variant in (first, second)
    ]
    seeds = grids[0].columns.intersection(grids[1].columns)
    differences = (grids[0][seeds] - grids[1][seeds]).dropna()
    if differences.empty:
        return Average(mean_interval([]), 0)
    return Average(mean_interval(differences.mean().to_list()), len(differences))
