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

    The means of a task are over the same cells for all variants, those of which any difference is known: a variant that
    lacks one of them has no mean, as it could not be compared. They are over the seeds that all of a variant's cells
    have. A test set that several cells share (the source language's) is resampled once for all of them.

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
        languages), seeds, languages_low and languages_high (Student's interval over the cells: other languages), cells
        (how many the variant has); then uncertainty, p_adjusted, family and verdict as of
        `analysis.interference.interference`.

    Raises:
        InputError: If there is no such correction.
        ValueError: If `level` is not between 0 and 1.
    """
    rows: list[tuple[Any, ...]] = []
    contrasts: list[Contrast] = []
    lacking: list[str] = []
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
            for variant in study.variants:
                parts = [cell[variant] for cell in there if variant in cell]
                if not parts:
                    continue
                whole = len(parts) == len(there)
                contrast = average(parts if whole else [], alike=(over, name))
                by_seed = mean_interval(list(contrast.differences.values()), level)
                by_language = mean_interval([part.mean for part in parts] if whole else [], level)
                rows.append((over, name, variant, *by_seed, *by_language[1:3], len(parts)))
                contrasts.append(contrast)
                lack = f"{len(there) - len(parts)} of {len(there)} cells are missing; {study.command([baseline])}"
                no_seed = "" if contrast.differences else "the cells have no seed in common"
                lacking.append(no_seed if whole else lack)
    frame = pd.DataFrame(rows, columns=_COLUMNS)
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
        if known:
            found.append(((task, languages[0], language), known))
    return found
