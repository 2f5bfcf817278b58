"""What a search's sampler, and how its trials begin and end, ask of the rest of its section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raylab.config import SearchConfig, StudyConfig
from raylab.errors import InputError
from raylab.study.parameters import Parameter, Space, holds, value_of

POPULATION_SIZE = 50
"""Of nsga2, where the study does not say."""

MOST_POINTS = 100_000
"""Of a grid."""

_OPTIONS = {
    "tpe": ("n_startup_trials",),
    "nsga2": ("population_size",),
    "cmaes": ("n_startup_trials", "population_size"),
    "gp": ("n_startup_trials",),
    "qmc": ("qmc_type",),
    "random": (),
    "grid": (),
}


def check_sampler(study: StudyConfig, search: SearchConfig, space: Space, origin: str) -> None:
    """Refuse a sampler for a space that it cannot search, and points and stopping that do not go with the study.

    Raises:
        InputError: As said.
    """
    for name in search.sampler_options.model_fields_set:
        if name not in _OPTIONS[search.sampler] and getattr(search.sampler_options, name) is not None:
            known = ", ".join(_OPTIONS[search.sampler]) or "none"
            raise InputError(
                f"{origin}: search.sampler_options.{name}: no option of {search.sampler}; its options: {known}"
            )
    where = f"{origin}: search.sampler: found {search.sampler}"
    if search.sampler == "cmaes":
        numeric = [one.path for one in space.parameters if one.kind != "choice"]
        if len(search.objective) > 1:
            raise InputError(
                f"{where} with {len(search.objective)} objectives; it takes one: name one, or take tpe, nsga2 or gp"
            )
        if not numeric:
            raise InputError(
                f"{where}, which adapts numbers, and search.space has choices alone; take tpe, nsga2 or grid"
            )
        if (search.sampler_options.population_size or 4) < 4:
            raise InputError(
                f"{origin}: search.sampler_options.population_size: found {search.sampler_options.population_size}; "
                "cmaes needs 4 or more"
            )
    if search.sampler == "grid":
        _check_grid(space, origin)
    population = search.sampler_options.population_size or POPULATION_SIZE
    if search.sampler == "nsga2" and search.num_samples <= population:
        raise InputError(
            f"{where}, whose first {population} samples are random, and search.num_samples is {search.num_samples}; "
            "more samples, or a smaller search.sampler_options.population_size, are needed"
        )
    for place, point in enumerate(search.enqueue):
        _check_point(search, space, point, f"{origin}: search.enqueue.{place}")
    if search.early_stopping is not None:
        _check_early_stopping(study, search, space, origin)


def contains(parameter: Parameter, value: Any) -> bool:
    """Whether a value is one of a parameter's."""
    values = parameter.values
    if isinstance(value, tuple):
        value = list(value)
    if parameter.kind != "choice" and (isinstance(value, bool) or not isinstance(value, int | float)):
        return False
    if values is None:
        return parameter.low <= float(value) <= parameter.high
    if parameter.kind == "float":
        return any(abs(value - one) <= 1e-9 * max(1.0, abs(one)) for one in values)
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)


def _check_grid(space: Space, origin: str) -> None:
    for parameter in space.parameters:
        if parameter.values is None:
            raise InputError(
                f"{origin}: search.space.{parameter.path}: a range without end of values, and search.sampler is grid; "
                "choice, int, or uniform with a step is needed"
            )
    if space.size(MOST_POINTS + 1) > MOST_POINTS:
        raise InputError(f"{origin}: search.space: a grid of more than {MOST_POINTS} points; fewer values are needed")


def _check_point(search: SearchConfig, space: Space, point: Mapping[str, Any], where: str) -> None:
    parameters = {one.path: one for one in space.parameters}
    if not point:
        raise InputError(f"{where}: empty; a value of one at least of {', '.join(parameters)} is needed")
    for path, value in point.items():
        if path not in parameters:
            raise InputError(f"{where}.{path}: not in search.space, which has {', '.join(parameters)}")
        if not contains(parameters[path], value):
            raise InputError(f"{where}.{path}: found {value!r}; a value that search.space.{path} holds is needed")
    for parameter in space.parameters:
        beside = {path: point[path] for path in parameter.when if path in point}
        if parameter.path in point and len(beside) == len(parameter.when) and not holds(parameter, beside):
            raise InputError(f"{where}.{parameter.path}: not varied where {beside}; leave it out")
    if search.sampler == "grid" and not space.complete(point):
        raise InputError(f"{where}: found {dict(point)}; with the grid a value of each parameter is needed")


def _check_early_stopping(study: StudyConfig, search: SearchConfig, space: Space, origin: str) -> None:
    """Before the grace is over a model must have warmed up and been measured, whatever the search varies."""
    assert search.early_stopping is not None
    searched = {one.path: one for one in space.parameters}

    def ends(path: str) -> tuple[float, float]:
        parameter = searched.get(path)
        if parameter is None:
            return value_of(study, path), value_of(study, path)
        if parameter.kind == "choice":
            return min(parameter.choices), max(parameter.choices)
        return parameter.low, parameter.high

    first = search.early_stopping.grace * ends("pretrain.steps")[0]
    for path in ("pretrain.warmup_steps", "pretrain.valid_every"):
        if ends(path)[1] > first:
            what = "warms up" if path.endswith("warmup_steps") else "is not measured"
            raise InputError(
                f"{origin}: search.early_stopping.grace: found {search.early_stopping.grace:g}, {first:.0f} steps, and "
                f"a model {what} for up to {ends(path)[1]:.0f} ({path}); a larger share, or fewer of those, are needed"
            )
