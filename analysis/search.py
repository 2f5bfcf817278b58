"""The trials of a study's search: which hyperparameter mattered, and what good trials have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.jobs import Job

FEWEST_TRIALS = 8
"""Of fewer finished trials no importance is computed: a forest on a handful of points says nothing."""


@dataclass(frozen=True)
class Search:
    """The trials of a search.

    Attributes:
        parameters: Dotted names of what was searched.
        objectives: Direction, `max` or `min`, by name.
        trials: One row a trial: trial (its number), status, then a column for each parameter and each objective.
        logarithmic: The parameters that were searched on a logarithmic scale.
    """

    parameters: tuple[str, ...]
    objectives: Mapping[str, str]
    trials: pd.DataFrame
    logarithmic: frozenset[str]

    @property
    def finished(self) -> pd.DataFrame:
        """The trials that have all objectives."""
        return self.trials.dropna(subset=list(self.objectives))

    def best(self) -> pd.DataFrame:
        """The finished trials that no other beats in all objectives, the best in the first one at the top."""
        frame = self.finished
        signs = [1.0 if direction == "max" else -1.0 for direction in self.objectives.values()]
        values = frame[list(self.objectives)].to_numpy(float) * signs
        beaten = [any((other >= own).all() and (other > own).any() for other in values) for own in values]
        first, direction = next(iter(self.objectives.items()))
        front = frame[[not worse for worse in beaten]]
        return front.sort_values(first, ascending=direction == "min", kind="stable").reset_index(drop=True)


def read_search(jobs: Sequence[Job], configuration: Mapping[str, Any]) -> Search | None:
    """The search of a study, from its trials' runs; None if there are none.

    Args:
        jobs: The runs of kind `trial`: searched values as parameters, objectives as metrics.
        configuration: The study's configuration, for the directions and scales; without it all objectives are to be
            maximised.
    """
    if not jobs:
        return None
    asked = configuration.get("search") or {}
    names = dict.fromkeys(name for job in jobs for name in job.params)
    directions = asked.get("objective") or dict.fromkeys((name for job in jobs for name in job.metrics), "max")
    rows = [
        {
            "trial": int(job.tags.get("trial", -1)),
            "status": job.status.lower(),
            **{name: _typed(job.params.get(name)) for name in names},
            **{name: job.metrics.get(name, math.nan) for name in directions},
        }
        for job in jobs
    ]
    frame = pd.DataFrame(rows).sort_values("trial", kind="stable").reset_index(drop=True)
    space = asked.get("space") or {}
    logarithmic = frozenset(
        name for name in names if "loguniform" in space.get(name, {}) or space.get(name, {}).get("log")
    )
    return Search(tuple(names), directions, frame, logarithmic)


def importance(search: Search, seed: int = 0) -> tuple[pd.DataFrame, str]:
    """How much of the objectives' variance each parameter explains: fANOVA (Hutter, Hoos and Leyton-Brown 2014).

    Optuna's evaluator, on a study in memory.

    Args:
        search: The search.
        seed: Of the forest.

    Returns:
        Rows of parameters, columns of objectives, values from 0 to 1 that sum to 1 in a column; empty where it cannot
        be computed. And a sentence that says why not, or which parameters are left out; or "".
    """
    frame, empty = search.finished, pd.DataFrame()
    if len(frame) < FEWEST_TRIALS:
        return (
            empty,
            f"{len(frame)} finished trials are too few for the importance of a parameter: {FEWEST_TRIALS} at least.",
        )
    common = [name for name in search.parameters if frame[name].notna().all()]
    varied = [name for name in common if frame[name].nunique() > 1]
    if not varied:
        return empty, "No parameter was varied in all trials, so none has an importance."
    try:
        import optuna
        from optuna.importance import FanovaImportanceEvaluator

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        evaluator = FanovaImportanceEvaluator(seed=seed)
    except ImportError as error:
        return empty, f"The importance of parameters needs Optuna and scikit-learn here ({error.name} is missing)."
    distributions = {name: _distribution(frame[name], name in search.logarithmic) for name in varied}
    columns = {}
    for objective, direction in search.objectives.items():
        if frame[objective].nunique() < 2:
            continue
        study = optuna.create_study(direction="maximize" if direction == "max" else "minimize")
        for values in frame[[*varied, objective]].to_dict("records"):
            params = {name: values[name] for name in varied}
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, value=values[objective])
            )
        columns[objective] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    table = pd.DataFrame(columns).reindex(varied)
    if table.empty:
        return empty, "All trials have the same objectives, so no parameter has an importance."
    table = table.sort_values(table.columns[0], ascending=False)
    left_out = [name for name in search.parameters if name not in varied]
    return table, f"Left out, as not all trials vary them: {', '.join(left_out)}." if left_out else ""


def _distribution(values: pd.Series, logarithmic: bool) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not pd.api.types.is_numeric_dtype(values) or values.nunique() <= 2:
        return CategoricalDistribution(sorted(values.unique(), key=str))
    low, high = float(values.min()), float(values.max())
    return FloatDistribution(low, high, log=logarithmic and low > 0)


def _typed(value: str | None) -> float | str | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return value
