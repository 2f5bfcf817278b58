"""The search over pretraining configurations."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer, model_validator

from raylab.config.base import Config, Direction, PositiveInt, Variant
from raylab.config.population import PopulationConfig

Sampler = Literal["tpe", "nsga2", "cmaes", "gp", "random", "grid", "qmc"]


class SamplerOptions(Config):
    """What some of Optuna's samplers may be told, under Optuna's own names."""

    n_startup_trials: PositiveInt | None = Field(
        None, description="Random samples before tpe or gp (default: 10) or cmaes (default: 1) learns from them."
    )
    population_size: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Samples of one generation of nsga2 (default: 50) or cmaes (default: by the dimensions)."
    )
    qmc_type: Literal["sobol", "halton"] | None = Field(None, description="Sequence of qmc; default: sobol.")


class Limit(Config):
    """What a trial's measurement must be to be feasible."""

    min: Annotated[float, Field(allow_inf_nan=False)] | None = Field(None, description="At least this.")
    max: Annotated[float, Field(allow_inf_nan=False)] | None = Field(None, description="At most this.")

    @model_validator(mode="after")
    def _limits(self) -> Limit:
        if self.min is None and self.max is None:
            raise ValueError("a limit is needed, such as max: 5.0e6")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; nothing lies between")
        return self

    def allows(self, measured: float) -> bool:
        """Whether a trial that measured this keeps to the limit."""
        return (self.min is None or measured >= self.min) and (self.max is None or measured <= self.max)


class EarlyStoppingConfig(Config):
    """Stopping of trials whose pretraining is behind that of the others at the same share of its steps."""

    method: Literal["asha", "median"] = Field(
        description="asha: of those that reach a rung, 1 in reduction_factor goes on (Li et al. 2020); "
        "median: whoever is behind the median of the others is stopped (Golovin et al. 2017)."
    )
    grace: Annotated[float, Field(ge=0.01, lt=1.0)] = Field(
        0.2, description="Share of the steps before which nothing is stopped, and of asha's first rung."
    )
    reduction_factor: Annotated[float, Field(gt=1.0, allow_inf_nan=False)] = Field(
        3.0, description="asha: each rung lies at so many times the share of steps of the one before."
    )
    min_trials: PositiveInt = Field(3, description="Other trials that must have come as far before one is stopped.")


class SearchConfig(Config):
    """Search over pretraining configurations with Optuna, on top of the grid of languages, variants and seeds."""

    population: PopulationConfig | None = Field(
        None, description="Change pretrain.learning_rate and pretrain.temperature on the way, as the best members do."
    )
    num_samples: PositiveInt = Field(
        default_factory=lambda known: known["population"].trials if known.get("population") else 20,
        description="Configurations to try, the study's own included; default: 20, or all trials of the population.",
    )
    space: dict[str, dict[str, Any]] = Field(
        description="Dotted path of a field, or `variant`: {uniform|loguniform|int: [low, high]} or {choice: [...]}; "
        "also step: (uniform, int), log: true (int), and when: {path: value or values}, without which it is not varied."
    )
    objective: dict[str, Direction] = Field(
        {"within/mean": "max", "zero_shot/mean": "max"},
        description="Dev scores to optimise: SETTING/mean or SETTING/TASK; more than one gives a Pareto front.",
    )
    constraints: dict[str, Limit] = Field(
        default_factory=dict,
        description="What a good trial must keep to, {min|max: limit}: a dev score as in objective, `parameters` (of "
        "the largest model), `seconds` (of all pretraining), `perplexity` or perplexity/LANGUAGE (geometric means).",
    )
    variants: tuple[Variant, ...] | None = Field(
        None, description="Variants that the search trains; default: all but mono and external."
    )
    sampler: Sampler = Field("tpe", description="Optuna's sampler.")
    sampler_options: SamplerOptions = SamplerOptions()
    seed: int = Field(0, description="Seed of the sampler.")
    enqueue: tuple[dict[str, Any], ...] = Field(
        (), description="Values to try first, by path; what one of these leaves out is drawn."
    )
    warm_start: tuple[str, ...] = Field(
        (),
        description="Earlier searches whose trials inform this one: a study's name, or URL#NAME of an Optuna storage.",
    )
    early_stopping: EarlyStoppingConfig | None = Field(None, description="Default: every trial trains to its end.")
    concurrency: PositiveInt | None = Field(
        None,
        description="Most trials under way at once; 1: no trial depends on timing; default: enough for every worker.",
    )
    storage: str | None = Field(
        None,
        repr=False,
        description="Optuna's storage, such as postgresql://USER@HOST/DATABASE; default: SQLite in the study's folder.",
    )

    @model_validator(mode="after")
    def _count_population(self) -> SearchConfig:
        if self.population is not None and "num_samples" not in self.model_fields_set:
            object.__setattr__(self, "num_samples", self.population.trials)
        return self

    @field_serializer("storage")
    def _without_password(self, storage: str | None) -> str | None:
        return None if storage is None else without_password(storage)

    @field_serializer("warm_start")
    def _without_passwords(self, warm_start: tuple[str, ...]) -> list[str]:
        return [without_password(name) for name in warm_start]


def without_password(url: str) -> str:
    """A URL as it may be shown: a password in it is written as ***."""
    shown = re.sub(r"(?<=://)([^:/@]*):[^/]*@", r"\1:***@", url)
    return re.sub(r"([?&](?:password|sslpassword|passfile)=)[^&#]*", r"\1***", shown)
