"""Optuna's samplers by name, and how a trial's values are drawn with them."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raylab.config import SearchConfig
from raylab.seeding import seed_of
from raylab.study.parameters import Parameter, Space, holds
from raylab.study.sampler import POPULATION_SIZE

JOINT = frozenset({"nsga2", "cmaes", "gp", "qmc"})
"""Samplers that search one space of a fixed number of dimensions: for them, parameters that are not varied in a trial
are drawn all the same, and not used."""


def make_sampler(config: SearchConfig, space: Space, sample: int) -> optuna.samplers.BaseSampler:
    """The sampler for one sample of a search.

    It is made, and seeded, anew for each sample: what it knows it reads from the storage, so that an interrupted search
    draws what it would have drawn.

    Args:
        config: The search.
        space: What it varies.
        sample: How many samples were drawn before.
    """
    seed = seed_of(config.seed, "trial", sample) % 2**32
    options = config.sampler_options
    startup = {} if options.n_startup_trials is None else {"n_startup_trials": options.n_startup_trials}
    samplers = optuna.samplers
    alone = samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if config.sampler == "tpe":
            several = len(config.objective) > 1
            return samplers.TPESampler(
                seed=seed, constant_liar=True, group=space.conditional and not several, **startup
            )
        if config.sampler == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=options.population_size or POPULATION_SIZE)
        if config.sampler == "cmaes":
            return samplers.CmaEsSampler(
                seed=seed,
                popsize=options.population_size,
                independent_sampler=alone,
                warn_independent_sampling=False,
                **startup,
            )
        if config.sampler == "gp":
            return samplers.GPSampler(seed=seed, independent_sampler=alone, warn_independent_sampling=False, **startup)
        if config.sampler == "qmc":
            return samplers.QMCSampler(
                qmc_type=options.qmc_type or "sobol",
                scramble=True,
                seed=seed_of(config.seed, "sequence") % 2**32,  # of the whole sequence
                independent_sampler=alone,
                warn_independent_sampling=False,
            )
    return alone


def draw(trial: optuna.Trial, space: Space, joint: bool) -> dict[str, Any]:
    """The values of a trial that are varied in it, drawn now where it lacks them."""
    values: dict[str, Any] = {}
    for parameter in space.parameters:
        if joint or holds(parameter, values):
            values |= from_optuna(space, {parameter.path: _suggest(trial, parameter)})
    return space.active(values)


def grid(config: SearchConfig, space: Space) -> list[dict[str, Any]]:
    """All points of a grid in the order in which they are tried."""
    points = list(space.points())
    random.Random(seed_of(config.seed, "grid")).shuffle(points)
    return points


def distribution(parameter: Parameter) -> BaseDistribution:
    """A parameter as Optuna has it."""
    if parameter.kind == "choice":
        return CategoricalDistribution([_plain(choice) for choice in parameter.choices])
    if parameter.kind == "int":
        step = 1 if parameter.step is None else int(parameter.step)
        return IntDistribution(int(parameter.low), int(parameter.high), parameter.log, step)
    high = parameter.high if parameter.values is None else parameter.values[-1]
    return FloatDistribution(parameter.low, high, parameter.log, parameter.step)


def any_value(parameter: Parameter) -> Any:
    """A value for a parameter that is not varied, where a sampler wants one."""
    return parameter.choices[0] if parameter.kind == "choice" else parameter.low


def to_optuna(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Optuna's storage holds them: a list as its JSON."""
    return {path: _plain(value) for path, value in values.items()}


def from_optuna(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `space` as a study has them."""
    meant = {one.path: {_plain(choice): choice for choice in one.choices} for one in space.parameters}
    return {path: meant[path].get(value, value) for path, value in params.items() if path in meant}


def _plain(value: Any) -> Any:
    """What the storage holds for a value: JSON where it is a list."""
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    known = distribution(parameter)
    if isinstance(known, CategoricalDistribution):
        return trial.suggest_categorical(parameter.path, known.choices)
    if isinstance(known, IntDistribution):
        return trial.suggest_int(parameter.path, known.low, known.high, step=known.step, log=known.log)
    assert isinstance(known, FloatDistribution)
    return trial.suggest_float(parameter.path, known.low, known.high, step=known.step, log=known.log)
