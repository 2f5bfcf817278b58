"""The paper itself as a study: its printed numbers as chosen test scores."""

from __future__ import annotations

import pandas as pd

from analysis.paper import layout, table
from analysis.paper.layouts import Known
from analysis.reference import AVERAGE, CELL, paper_scores
from analysis.study import Study

TARGETS = ("ar", "fr", "ru", "hi", "sw", "te")
VARIANTS = ("mono", "joint", "ffn", "attn", "adapter", "shared_adapter", "meta_adapter", "external")
TASKS = ("ner", "pos", "qa", "nli")
STUDIES = {
    "variants": Study("variants", tuple(("en", target) for target in TARGETS), VARIANTS, TASKS),
    "language_similarity": Study(
        "language_similarity",
        (("en", "hi"), ("en", "hi", "mr"), ("en", "te"), ("en", "te", "kn"), ("en", "fr"), ("en", "ru")),
        ("mono", "joint"),
        TASKS,
    ),
    "corpus_size": Study(
        "corpus_size",
        tuple(("en", target) for target in ("fr", "fr_l", "ru", "ru_l", "sw", "te")),
        ("mono", "joint"),
        TASKS,
        {"data": {"aliases": {"fr_l": "fr", "ru_l": "ru"}}},
    ),
}


def paper_as_best(study: Study) -> pd.DataFrame:
    """What the paper prints of the study's models, as `Results.best` returns scores; one seed."""
    scores = paper_scores()
    printed = scores[scores["language"] != AVERAGE].drop_duplicates(CELL)
    sets = {"-".join(languages): languages for languages in study.language_sets}
    rows = []
    for row in printed.itertuples():
        if row.languages not in sets or row.variant not in study.variants:
            continue
        languages = sets[row.languages]
        rows.append(
            {
                "variant": row.variant,
                "languages": study.model_languages(languages, row.variant, row.language),
                "task": row.task,
                "metric": row.metric,
                "setting": row.setting,
                "train_language": languages[0] if row.setting == "zero_shot" else row.language,
                "eval_language": row.language,
                "seed": 0,
                "value": row.value,
            }
        )
    return pd.DataFrame(rows)


def known(best: pd.DataFrame) -> Known:
    """Tasks and languages of which there are scores."""
    return frozenset(best[["task", "eval_language"]].itertuples(index=False, name=None))


def paper_table(number: int, best: pd.DataFrame, study: Study) -> pd.DataFrame:
    """A table over chosen scores."""
    return table(layout(number, study, known(best)), best, study)
