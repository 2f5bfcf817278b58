"""A study's results in the layout of the paper's tables (Wang, Lipton and Tsvetkov 2020)."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from analysis.interference import SeedScores
from analysis.labels import OTHER_LABELS, PAPER_LABELS, SETTING_LABELS, in_variant_order, main_metric, task_label
from analysis.statistics import mean_interval
from analysis.study import Study


def table_2(best: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The study in the layout of Table 2: a block of rows for each setting, a column for each target language.

    Targets are all languages of a set but the first, the source. A language that is a target in several sets has a
    column for each: that of its one pair is headed by the language alone, others by language and set. Averages are
    over the columns at their left that the setting has; a row that lacks one of these has no average, as it could not
    be compared.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them.
        study: The study's outline.

    Returns:
        Test scores, means over seeds, percent; NaN where missing. Rows (setting, model): the paper's variants, run or
        not, then others that the study has. Columns (task and metric, target language or `avg`).
    """
    scores = SeedScores(best, study)
    blocks = [_block(scores, study, setting) for setting in SETTING_LABELS]
    table = pd.concat(blocks)
    # A language that lacks a task altogether, as Swahili lacks POS, has no column.
    return table.dropna(axis=1, how="all")


def _block(scores: SeedScores, study: Study, setting: str) -> pd.DataFrame:
    lookup = scores.within if setting == "within" else scores.zero_shot
    variants = in_variant_order([*PAPER_LABELS, *study.variants])
    if setting == "zero_shot":
        variants.remove("mono")
    columns: dict[tuple[str, str], list[float]] = {}
    for task in study.tasks:
        metric = main_metric(task)
        targets = {
            label: [_mean(lookup(languages, variant, task, metric, language)) for variant in variants]
            for label, languages, language in _targets(study)
        }
        columns |= {(task_label(task), label): values for label, values in targets.items()}
        present = pd.DataFrame(targets, dtype=float).dropna(axis=1, how="all")
        columns[task_label(task), "avg"] = present.mean(axis=1, skipna=False).to_list()
    rows = [(SETTING_LABELS[setting], _row_label(variant, study)) for variant in variants]
    return pd.DataFrame(
        list(zip(*columns.values(), strict=True)),
        index=pd.MultiIndex.from_tuples(rows, names=["setting", "model"]),
        columns=pd.MultiIndex.from_tuples(list(columns), names=["task", "language"]),
        dtype=float,
    )


def _targets(study: Study) -> list[tuple[str, tuple[str, ...], str]]:
    """Column label, language set and language of every target."""
    targets = [(languages, language) for languages in study.language_sets for language in languages[1:]]
    sets = Counter(language for _, language in targets)
    pairs = Counter(language for languages, language in targets if len(languages) == 2)
    labelled = []
    for languages, language in targets:
        own = sets[language] == 1 or (len(languages) == 2 and pairs[language] == 1)
        labelled.append((language if own else f"{language} ({'-'.join(languages)})", languages, language))
    return labelled


def _row_label(variant: str, study: Study) -> str:
    if variant == "joint":
        names = {{2: "JointPair", 3: "JointTri"}.get(len(languages), "Joint") for languages in study.language_sets}
        return names.pop() if len(names) == 1 else "Joint"
    return {**PAPER_LABELS, **OTHER_LABELS}.get(variant, variant)


def _mean(scores: dict[int, float]) -> float:
    return mean_interval(list(scores.values())).mean
