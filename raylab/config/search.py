"""The search over pretraining configurations."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from raylab.config.base import Config, Direction, PositiveInt, Variant


class SearchConfig(Config):
    """Search over pretraining configurations with Optuna, on top of the grid of languages, variants and seeds."""

    num_samples: PositiveInt = Field(20, description="Configurations to try, the study's own included.")
    space: dict[str, dict[str, Any]] = Field(
        description="Dotted path of a field: {uniform|loguniform|int: [low, high]} or {choice: [...]}."
    )
    objective: dict[str, Direction] = Field(
        {"within/mean": "max", "zero_shot/mean": "max"},
        description="Dev scores to optimise: SETTING/mean or SETTING/TASK; more than one gives a Pareto front.",
    )
    variants: tuple[Variant, ...] | None = Field(
        None, description="Variants that the search trains; default: all but mono and external."
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="Optuna's sampler.")
    seed: int = Field(0, description="Seed of the sampler.")
    concurrency: PositiveInt | None = Field(
        None,
        description="Most trials under way at once; 1: no trial depends on timing; default: enough for every worker.",
    )
    storage: str | None = Field(None, description="Optuna's storage URL; default: SQLite in the study's folder.")
