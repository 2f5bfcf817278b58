"""Differences averaged over all of a study's cells (language set, task, language): what can be said of a variant."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from analysis.interference import SeedScores
from analysis.labels import main_metric
from analysis.statistics import holm
from analysis.study import Study
from analysis.uncertainty import Contrast, ScoreDraws, average, measure

if TYPE_CHECKING:
    from analysis.results import Results

TOLD = 0.05
"""What is called told from 0 has an adjusted p-value of at most this."""

CELL = ["languages", "task", "language"]


class Asked(NamedTuple):
    """Which difference is asked for: first variant minus second.

    Attributes:
        setting: `within` or `zero_shot`.
        first: A variant.
        second: Another.
        languages: Of one language set, joined by `-`; by default of all.
    """

    setting: str
    first: str
    second: str
    languages: str = ""


class Average(NamedTuple):
    """A mean difference in main metrics, percentage points; NaN is not known.

    Attributes:
        mean: Over cells and seeds.
        low: Lower end of the 95% interval from all sources of chance at hand, seeds and test examples.
        high: Its upper end.
        p: P-value from the same sources, adjusted by Holm's method for all that was asked for at once.
        seeds: How many.
        cells: Over how many.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    cells: int

    @property
    def told(self) -> bool:
        """Whether it can be told from 0, corrected for the number of comparisons."""
        return self.p <= TOLD


def average_differences(
    best: pd.DataFrame, study: Study, asked: Sequence[Asked], draws: ScoreDraws | None = None
) -> list[Average]:
    """Differences averaged over the cells and the seeds that both variants have.

    All seeds average the same cells. Where some cells lack some seeds (a study under way, a job that failed), those
    cells and seeds are taken that have most scores between them.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
        asked: What is asked for.
        draws: Scores on resampled test examples; by default of none, and seeds are the only source.
    """
    scores = SeedScores(best, study)
    contrasts, sizes = [], []
    for one in asked:
        cells = _complete(_cells(scores, one))
        contrasts.append(average(cells, alike=(one.setting, bool(one.languages))))
        sizes.append(len(cells))
    measured = measure(contrasts, draws or ScoreDraws())
    p_values = holm([found.p for found in measured])
    return [
        Average(contrast.mean, found.total_low, found.total_high, float(p), len(contrast.differences), size)
        for contrast, found, p, size in zip(contrasts, measured, p_values, sizes, strict=True)
    ]


@lru_cache(maxsize=2)
def above_joint(results: Results) -> dict[tuple[str, str], Average]:
    """Each variant minus joint on average, by setting and variant; those without a cell are left out.

    What all of them are adjusted for is their own number.
    """
    asked = [
        Asked(setting, variant, "joint")
        for setting in ("within", "zero_shot")
        for variant in results.study.variants
        if variant != "joint"
    ]
    found = zip(asked, results.average_differences(asked), strict=True)
    return {(one.setting, one.first): difference for one, difference in found if difference.cells}


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


def _cells(scores: SeedScores, asked: Asked) -> list[Contrast]:
    """The difference in each cell that has one."""
    found = []
    for languages, task, metric, language in scores.places():
        source = languages[0]
        if metric != main_metric(task) or asked.languages not in ("", "-".join(languages)):
            continue
        if asked.setting == "zero_shot" and language == source:
            continue
        train = language if asked.setting == "within" else source
        places = (
            scores.place(languages, variant, task, metric, train, language) for variant in (asked.first, asked.second)
        )
        contrast = scores.contrast(*places)
        if contrast.differences:
            found.append(contrast)
    return found


def _complete(cells: Sequence[Contrast]) -> list[Contrast]:
    """The cells that have all of the seeds by which most scores are kept, the most frequent seeds first."""
    counts = {seed: sum(seed in cell.differences for cell in cells) for cell in cells for seed in cell.differences}
    seeds = sorted(counts, key=lambda seed: (-counts[seed], seed))
    kept = [[cell for cell in cells if cell.differences.keys() >= set(seeds[: k + 1])] for k in range(len(seeds))]
    sizes = [len(some) * (k + 1) for k, some in enumerate(kept)]
    return kept[int(np.argmax(sizes))] if kept else []
