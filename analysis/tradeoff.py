"""What variants gain within language against what they lose in transfer: the paper's central tension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.interference import SeedScores
from analysis.labels import main_metric
from analysis.study import Study


class _Average(NamedTuple):
    mean: float
    deviation: float


def tradeoff(best: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Each variant's within-language and zero-shot score, averaged over target languages.

    All means of a task are over the same targets: those of which every variant that transfers at all has both scores.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.

    Returns:
        One row for each task and variant, in main metrics: task, variant, within and zero_shot (means over targets
        and seeds, percent; zero_shot is NaN for mono), within_deviation and zero_shot_deviation (standard deviations
        over seeds of the mean over targets, percentage points; NaN with one seed), targets (joined by `, `).
    """
    scores = SeedScores(best, study)
    targets = [(languages, language) for languages in study.language_sets for language in languages[1:]]
    rows = []
    for task in study.tasks:
        metric = main_metric(task)
        within, zero_shot = (
            {
                variant: [lookup(languages, variant, task, metric, language) for languages, language in targets]
                for variant in study.variants
            }
            for lookup in (scores.within, scores.zero_shot)
        )
        compared = [variant for variant in study.variants if any(zero_shot[variant])]
        shared = [
            place
            for place in range(len(targets))
            if compared and all(within[variant][place] and zero_shot[variant][place] for variant in compared)
        ]
        names = ", ".join(dict.fromkeys(targets[place][1] for place in shared))
        for variant in study.variants:
            alone, transferred = (
                _average([by_variant[variant][place] for place in shared]) for by_variant in (within, zero_shot)
            )
            if not np.isnan(alone.mean):
                deviations = (alone.deviation, transferred.deviation)
                rows.append((task, variant, alone.mean, transferred.mean, *deviations, names))
    columns = ["task", "variant", "within", "zero_shot", "within_deviation", "zero_shot_deviation", "targets"]
    return pd.DataFrame(rows, columns=columns)


def _average(targets: Sequence[Mapping[int, float]]) -> _Average:
    """Over targets that have scores by seed; the deviation is over the seeds that all of them have."""
    if not targets or not all(targets):
        return _Average(float("nan"), float("nan"))
    mean = float(np.mean([np.mean(list(scores.values())) for scores in targets]))
    seeds = set.intersection(*(set(scores) for scores in targets))
    if len(seeds) < 2:
        return _Average(mean, float("nan"))
    by_seed = [np.mean([scores[seed] for scores in targets]) for seed in sorted(seeds)]
    return _Average(mean, float(np.std(by_seed, ddof=1)))
