"""Negative interference within language, and zero-shot transfer: which model loses how much to which.

Every difference comes with its doubt (`analysis.uncertainty`; docs/statistics.md): intervals over seeds and over test
examples, a p-value, the p-value adjusted for all cells of its family, and a verdict in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.labels import in_metric_order, main_metric
from analysis.recovery import recoveries
from analysis.statistics import ADJUSTMENTS, Interval, mean_interval
from analysis.study import Study
from analysis.uncertainty import Contrast, Scored, ScoreDraws, Uncertainty, measure
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
        self._keys: dict[Place, dict[int, str]] = {}
        keys = best["key"] if "key" in best else [""] * len(best)
        rows = best[[*Place._fields, "seed", "value"]].itertuples(index=False)
        for (*place, seed, value), key in zip(rows, keys, strict=True):
            if not np.isnan(value):
                self._scores.setdefault(Place(*place), {})[seed] = value
                self._keys.setdefault(Place(*place), {})[seed] = key
        metrics = best.groupby("task")["metric"].unique()
        self._metrics = {task: in_metric_order(task, metrics.get(task, ())) for task in study.tasks}

    def within(
        self, languages: tuple[str, ...], variant: str, task: str, metric: str, language: str
    ) -> dict[int, float]:
        """Scores on a language, finetuned on it, of the model that stands for it in this set; empty if there are none.

        The mono model of a language stands for it in every set that has it.
        """
        return self._scores.get(self.place(languages, variant, task, metric, language, language), {})

    def zero_shot(
        self, languages: tuple[str, ...], variant: str, task: str, metric: str, language: str
    ) -> dict[int, float]:
        """Scores on a language, finetuned on the set's source language; empty if there are none."""
        return self._scores.get(self.place(languages, variant, task, metric, languages[0], language), {})

    def place(
        self, languages: tuple[str, ...], variant: str, task: str, metric: str, train_language: str, language: str
    ) -> Place:
        """What the model that stands for a variant and a language in this set is scored on."""
        model = self._study.model_languages(languages, variant, language)
        return Place(variant, model, task, metric, train_language, language)

    def contrast(self, first: Place, second: Place) -> Contrast:
        """The difference of two scores, by the seeds that both have."""
        ones, others = self._scores.get(first, {}), self._scores.get(second, {})
        seeds = sorted(ones.keys() & others.keys())
        pairs = {seed: [(self._scored(first, seed), self._scored(second, seed))] for seed in seeds}
        differences = {seed: ones[seed] - others[seed] for seed in seeds}
        return Contrast(differences, pairs, alike=(first.task, first.metric))

    def _scored(self, place: Place, seed: int) -> Scored:
        return Scored(self._keys[place][seed], place.eval_language, place.metric)

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


def interference(
    best: pd.DataFrame,
    study: Study,
    baseline: str = "mono",
    level: float = 0.95,
    draws: ScoreDraws | None = None,
    correction: str = "holm",
) -> pd.DataFrame:
    """By how much each variant falls short of the monolingual models, within language, and how sure that is.

    Scores are paired by seed: where there are pairs only their seeds count.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
        baseline: The variant that the others are compared with.
        level: Coverage of all intervals; a verdict needs an adjusted p-value of at most 1 - level.
        draws: Scores on resampled test examples; by default of none, and seeds are the only source.
        correction: For many comparisons: `holm` or `benjamini_hochberg`.

    Returns:
        One row for each language set, task, metric, language and variant of which there is a score: languages,
        variant, task, metric, language, then a column named after the baseline (its mean score, percent), score (the
        variant's, percent), difference (baseline minus variant, percentage points: positive is negative interference),
        relative (difference over the baseline's score), low and high (ends of Student's interval over the paired
        seeds; NaN with one), seeds (how many pairs); then

        - seeds_low, seeds_high, examples, examples_low, examples_high, examples_p, total_low, total_high, p, basis and
          reason: fields of `analysis.uncertainty.Uncertainty`;
        - p_adjusted, and family, the comparisons that it is adjusted for: all cells of main metrics are one family, all
          of each other metric one of its own;
        - verdict: `interference`, `gain`, `not told from zero` or `unknown`, for which `reason` says why;
        - recovery, recovery_low, recovery_high and recovery_reason: `analysis.recovery.recoveries`.

        What depends on a missing score is NaN, and `reason` names the score and the command that would bring it.

    Raises:
        InputError: If the study has no such baseline; without mono, though, its scores are just missing. If there is
            no such correction.
        ValueError: If `level` is not between 0 and 1.
    """
    if baseline not in (*study.variants, "mono"):
        known = ", ".join(study.variants)
        raise InputError(f"study {study.name!r} has no variant {baseline!r} to compare with; it has {known}")
    scores = SeedScores(best, study)
    draws = draws or ScoreDraws()
    columns = ["languages", "variant", "task", "metric", "language", baseline, "score"]
    columns += ["difference", "relative", "low", "high", "seeds"]
    rows, contrasts, missing = [], [], []
    for languages, task, metric, language in scores.places():
        base = scores.within(languages, baseline, task, metric, language)
        for variant in study.variants:
            own = scores.within(languages, variant, task, metric, language)
            if variant == baseline or not (base or own):
                continue
            mean, score, difference = compare(base, own, level)
            relative = difference.mean / mean if mean else float("nan")
            row = ("-".join(languages), variant, task, metric, language)
            rows.append((*row, mean, score, difference.mean, relative, *difference[1:]))
            places = (scores.place(languages, name, task, metric, language, language) for name in (baseline, variant))
            contrasts.append(scores.contrast(*places))
            missing.append(_missing(study, {baseline: base, variant: own}, language))
    frame = pd.DataFrame(rows, columns=columns)
    frame = with_uncertainty(frame, measure(contrasts, draws, level), missing, correction)
    frame["verdict"] = verdicts(frame["difference"], frame["p_adjusted"], level, "interference", "gain")
    cells = [
        tuple(row[name] for name in ("languages", "task", "metric", "language")) for row in frame.to_dict("records")
    ]
    found = recoveries(contrasts, frame["variant"].to_list(), cells, frame["p"].to_list(), draws, level, baseline)
    return pd.concat([frame, found], axis=1)


def transfer(
    best: pd.DataFrame,
    study: Study,
    level: float = 0.95,
    draws: ScoreDraws | None = None,
    correction: str = "holm",
) -> pd.DataFrame:
    """Zero-shot scores, and their gap to the same model finetuned on the target language.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.
        level: Coverage of all intervals; a verdict needs an adjusted p-value of at most 1 - level.
        draws: As of `interference`.
        correction: As of `interference`.

    Returns:
        One row for each language set, task, metric, target language and variant of which there is a zero-shot score:
        languages, variant, task, metric, source_language, language, zero_shot (mean score, percent), within (of the
        same model finetuned on the language, percent), gap (within minus zero-shot, percentage points), low and high
        (ends of Student's interval over seeds; NaN with one), seeds (how many pairs); then uncertainty as of
        `interference`, with the verdicts `gap`, `zero-shot is better`, `not told from zero` and `unknown`.

    Raises:
        InputError: If there is no such correction.
        ValueError: If `level` is not between 0 and 1.
    """
    scores = SeedScores(best, study)
    columns = ["languages", "variant", "task", "metric", "source_language", "language", "zero_shot", "within"]
    columns += ["gap", "low", "high", "seeds"]
    rows, contrasts, missing = [], [], []
    for languages, task, metric, language in scores.places():
        for variant in study.variants:
            zero_shot = scores.zero_shot(languages, variant, task, metric, language)
            if language == languages[0] or not zero_shot:
                continue
            within = scores.within(languages, variant, task, metric, language)
            within_mean, zero_shot_mean, gap = compare(within, zero_shot, level)
            row = ("-".join(languages), variant, task, metric, languages[0], language)
            rows.append((*row, zero_shot_mean, within_mean, *gap))
            trained_on = (language, languages[0])
            places = (scores.place(languages, variant, task, metric, train, language) for train in trained_on)
            contrasts.append(scores.contrast(*places))
            missing.append(_missing(study, {f"{variant} within language": within, variant: zero_shot}, language))
    frame = pd.DataFrame(rows, columns=columns)
    frame = with_uncertainty(frame, measure(contrasts, draws or ScoreDraws(), level), missing, correction)
    frame["verdict"] = verdicts(frame["gap"], frame["p_adjusted"], level, "gap", "zero-shot is better")
    return frame


def verdicts(
    differences: Sequence[float] | pd.Series,
    p_values: Sequence[float] | pd.Series,
    level: float,
    above: str,
    below: str,
) -> list[str]:
    """What differences are called: `above` or `below` zero, `not told from zero`, or `unknown` without a p-value."""
    words = []
    for difference, p_value in zip(differences, p_values, strict=True):
        if np.isnan(p_value):
            words.append("unknown")
        elif p_value > 1.0 - level or difference == 0.0:
            words.append("not told from zero")
        else:
            words.append(above if difference > 0.0 else below)
    return words


def with_uncertainty(
    frame: pd.DataFrame, measured: Sequence[Uncertainty], missing: Sequence[str], correction: str
) -> pd.DataFrame:
    """The frame with the columns of `Uncertainty`, p_adjusted and family; what is missing goes before other reasons."""
    if correction not in ADJUSTMENTS:
        raise InputError(f"no correction {correction!r} for many comparisons; one of {', '.join(ADJUSTMENTS)}")
    told = pd.DataFrame(measured, columns=Uncertainty._fields, index=frame.index)
    told["reason"] = [lack or reason for lack, reason in zip(missing, told["reason"], strict=True)]
    if "metric" in frame:
        main = frame["metric"] == frame["task"].map(main_metric)
        families = [
            "main metrics" if is_main else metric for is_main, metric in zip(main, frame["metric"], strict=True)
        ]
    else:
        families = ["averages"] * len(frame)
    told["p_adjusted"] = np.nan
    for family in dict.fromkeys(families):
        members = np.array([name == family for name in families])
        told.loc[members, "p_adjusted"] = ADJUSTMENTS[correction](told.loc[members, "p"].to_numpy())
    sizes = Counter(family for family, p in zip(families, told["p"], strict=True) if not np.isnan(p))
    told["family"] = [f"{sizes[family]} comparisons: {family}" for family in families]
    return pd.concat([frame, told], axis=1)


def _missing(study: Study, scores: Mapping[str, Mapping[int, float]], language: str) -> str:
    """Which of two scores is missing, and the command that would bring it; empty if they have a seed in common."""
    lacking = [name for name, by_seed in scores.items() if not by_seed]
    variants = [name.split()[0] for name in scores]
    if lacking:
        return f"no score of {' and of '.join(lacking)} on {language}; {study.command(variants)}"
    if set.intersection(*(set(by_seed) for by_seed in scores.values())):
        return ""
    found = ", ".join(f"{name} has {_seeds(by_seed)}" for name, by_seed in scores.items())
    return f"no seed in common on {language}: {found}; {study.command(variants)}"


def _seeds(by_seed: Iterable[int]) -> str:
    numbers = [str(seed) for seed in sorted(by_seed)]
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def _mean(scores: Mapping[int, float], seeds: Iterable[int]) -> float:
    return mean_interval([scores[seed] for seed in seeds]).mean
