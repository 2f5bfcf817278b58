"""Interference averaged over languages: computed from the cells, never copied, with the doubt of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.interference import SeedScores, verdicts, with_uncertainty
from analysis.labels import main_metric
from analysis.statistics import mean_interval
from analysis.study import Study
from analysis.uncertainty import Contrast, ScoreDraws, average, measure

_COLUMNS = ["over", "task", "variant", "difference", "low", "high", "seeds", "languages_low", "languages_high", "cells"]


def averages(
    best: pd.DataFrame,
    study: Study,
    baseline: str = "mono",
    level: float = 0.95,
    draws: ScoreDraws | None = None,
    correction: str = "holm",
) -> pd.DataFrame:
    """Mean interference of each variant, in main metrics.

    The means of a task are over the same cells for all variants, those that every variant with any score has, so that
    they can be compared; and over the seeds that all of these cells have. A test set that several cells share (the
    source language's) is resampled once for all of them.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
        baseline: The variant that the others are compared with.
        level: Coverage of all intervals; a verdict needs an adjusted p-value of at most 1 - level.
        draws: Scores on resampled test examples; by default of none, and seeds are the only source.
        correction: For many comparisons, over all rows: `holm` or `benjamini_hochberg`.

    Returns:
        One row for each of `over` (`targets`: every language of a set but the first, as the paper averages;
        `languages`: all), task (and `all` where there are several) and variant: over, task, variant, difference
        (baseline minus variant, percentage points), low and high (Student's interval over seeds: other seeds of these
        languages), seeds, languages_low and languages_high (Student's interval over the cells: other languages), cells;
        then uncertainty, p_adjusted, family and verdict as of `analysis.interference.interference`.

    Raises:
        InputError: If there is no such correction.
        ValueError: If `level` is not between 0 and 1.
    """
    rows: list[tuple[Any, ...]] = []
    contrasts: list[Contrast] = []
    tasks: list[tuple[str, Sequence[str]]] = [(task, (task,)) for task in study.tasks]
    if len(study.tasks) > 1:
        tasks.append(("all", study.tasks))
    cells = _cells(SeedScores(best, study), study, baseline)
    for over in ("targets", "languages"):
        for name, members in tasks:
            there = [
                by_variant
                for (task, source, language), by_variant in cells
                if task in members and (over == "languages" or language != source)
            ]
            compared = [variant for variant in study.variants if any(variant in cell for cell in there)]
            shared = [cell for cell in there if len(cell) == len(compared)]
            for variant in compared if shared else ():
                parts = [cell[variant] for cell in shared]
                contrast = average(parts, alike=(over, name))
                by_seed = mean_interval(list(contrast.differences.values()), level)
                by_language = mean_interval([part.mean for part in parts], level)
                place = (over, name, variant, contrast.mean, *by_seed[1:], *by_language[1:])
                rows.append(place)
                contrasts.append(contrast)
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    lacking = ["" if contrast.differences else "the cells have no seed in common" for contrast in contrasts]
    frame = with_uncertainty(frame, measure(contrasts, draws or ScoreDraws(), level), lacking, correction)
    frame["verdict"] = verdicts(frame["difference"], frame["p_adjusted"], level, "interference", "gain")
    return frame


def _cells(scores: SeedScores, study: Study, baseline: str) -> list[tuple[tuple[str, str, str], dict[str, Contrast]]]:
    """Task, source language and language of each cell, and the contrasts that are known there by variant."""
    found = []
    for languages, task, metric, language in scores.places():
        if metric != main_metric(task):
            continue
        first, *others = (
            scores.place(languages, variant, task, metric, language, language)
            for variant in (baseline, *(variant for variant in study.variants if variant != baseline))
        )
        contrasts = {place.variant: scores.contrast(first, place) for place in others}
        known = {variant: contrast for variant, contrast in contrasts.items() if contrast.differences}
        found.append(((task, languages[0], language), known))
    return found
