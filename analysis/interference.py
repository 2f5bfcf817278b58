"""Negative interference within language, and zero-shot transfer: which model loses how much to which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.labels import in_metric_order
from analysis.statistics import Interval, mean_interval
from analysis.study import Study
from raylab.errors import InputError


class Place(NamedTuple):
    """What a test score is a score of, its seed aside; `languages` are those of the model, joined by `-`."""

    variant: str
    languages: str
    task: str
    metric: str
    train_language: str
    eval_language: str


class SeedScores:
    """The chosen test scores of a study by place and seed, without those that are missing.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
    """

    def __init__(self, best: pd.DataFrame, study: Study) -> None:
        self._study = study
        self._scores: dict[Place, dict[int, float]] = {}
        for *place, seed, value in best[[*Place._fields, "seed", "value"]].itertuples(index=False):
            if not np.isnan(value):
                self._scores.setdefault(Place(*place), {})[seed] = value
        metrics = best.groupby("task")["metric"].unique()
        self._metrics = {task: in_metric_order(task, metrics.get(task, ())) for task in study.tasks}

    def within(
        self, languages: tuple[str, ...], variant: str, task: str, metric: str, language: str
    ) -> dict[int, float]:
        """Scores on a language, finetuned on it, of the model that stands for it in this set; empty if there are none.

        The mono model of a language stands for it in every set that has it.
        """
        model = self._study.model_languages(languages, variant, language)
        return self._scores.get(Place(variant, model, task, metric, language, language), {})

    def zero_shot(
        self, languages: tuple[str, ...], variant: str, task: str, metric: str, language: str
    ) -> dict[int, float]:
        """Scores on a language, finetuned on the set's source language; empty if there are none."""
        model = self._study.model_languages(languages, variant, language)
        return self._scores.get(Place(variant, model, task, metric, languages[0], language), {})

    def places(self) -> Iterator[tuple[tuple[str, ...], str, str, str]]:
        """Every language set, task, metric (the main one first) and language, in the study's order."""
        for languages in self._study.language_sets:
            for task, metrics in self._metrics.items():
                for metric in metrics:
                    for language in languages:
                        yield languages, task, metric, language


class Comparison(NamedTuple):
    """Two models' mean scores and the interval of first minus second.

    Attributes:
        first: Mean over the paired seeds; where there are none, over the seeds that the model has.
        second: Likewise.
        difference: First minus second over the pairs, and how many these are.
    """

    first: float
    second: float
    difference: Interval


def compare(first: Mapping[int, float], second: Mapping[int, float], level: float = 0.95) -> Comparison:
    """Compare two models' scores, paired by seed.

    Args:
        first: Scores by seed; may be empty.
        second: Likewise.
        level: Coverage of the interval of the differences.

    Raises:
        ValueError: If `level` is not between 0 and 1.
    """
    paired = sorted(first.keys() & second.keys())
    difference = mean_interval([first[seed] - second[seed] for seed in paired], level)
    return Comparison(_mean(first, paired or first), _mean(second, paired or second), difference)


def interference(best: pd.DataFrame, study: Study, baseline: str = "mono", level: float = 0.95) -> pd.DataFrame:
    """By how much each variant falls short of the monolingual models, within language.

    Scores are paired by seed: where there are pairs only their seeds count, and the interval is Student's t interval
    of the paired differences.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
        baseline: The variant that the others are compared with.
        level: Coverage of the interval.

    Returns:
        One row for each language set, task, metric, language and variant of which there is a score: languages,
        variant, task, metric, language, then a column named after the baseline (its mean score, percent), score (the
        variant's, percent), difference (baseline minus variant, percentage points: positive is negative interference),
        relative (difference over the baseline's score), low and high (ends of the interval; NaN with one seed), seeds
        (how many pairs). What depends on a missing score is NaN.

    Raises:
        InputError: If the study has no such baseline; without mono, though, its scores are just missing.
        ValueError: If `level` is not between 0 and 1.
    """
    if baseline not in (*study.variants, "mono"):
        known = ", ".join(study.variants)
        raise InputError(f"study {study.name!r} has no variant {baseline!r} to compare with; it has {known}")
    scores = SeedScores(best, study)
    columns = ["languages", "variant", "task", "metric", "language", baseline, "score"]
    columns += ["difference", "relative", "low", "high", "seeds"]
    rows = []
    for languages, task, metric, language in scores.places():
        base = scores.within(languages, baseline, task, metric, language)
        for variant in study.variants:
            own = scores.within(languages, variant, task, metric, language)
            if variant == baseline or not (base or own):
                continue
            mean, score, difference = compare(base, own, level)
            relative = difference.mean / mean if mean else float("nan")
            place = ("-".join(languages), variant, task, metric, language)
            rows.append((*place, mean, score, difference.mean, relative, *difference[1:]))
    return pd.DataFrame(rows, columns=columns)


def transfer(best: pd.DataFrame, study: Study, level: float = 0.95) -> pd.DataFrame:
    """Zero-shot scores, and their gap to the same model finetuned on the target language.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
        level: Coverage of the interval.

    Returns:
        One row for each language set, task, metric, target language and variant of which there is a zero-shot score:
        languages, variant, task, metric, source_language, language, zero_shot (mean score, percent), within (of the
        same model finetuned on the language, percent), gap (within minus zero-shot, percentage points), low and high
        (ends of its interval over seeds; NaN with one seed), seeds (how many pairs).

    Raises:
        ValueError: If `level` is not between 0 and 1.
    """
    scores = SeedScores(best, study)
    columns = ["languages", "variant", "task", "metric", "source_language", "language", "zero_shot", "within"]
    columns += ["gap", "low", "high", "seeds"]
    rows = []
    for languages, task, metric, language in scores.places():
        for variant in study.variants:
            zero_shot = scores.zero_shot(languages, variant, task, metric, language)
            if language == languages[0] or not zero_shot:
                continue
            within = scores.within(languages, variant, task, metric, language)
            within_mean, zero_shot_mean, gap = compare(within, zero_shot, level)
            place = ("-".join(languages), variant, task, metric, languages[0], language)
            rows.append((*place, zero_shot_mean, within_mean, *gap))
    return pd.DataFrame(rows, columns=columns)


def _mean(scores: Mapping[int, float], seeds: Iterable[int]) -> float:
    return mean_interval([scores[seed] for seed in seeds]).mean
