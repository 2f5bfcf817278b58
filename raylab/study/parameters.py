"""The space of a search: its parameters, and which of them are varied where others have these values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from raylab.errors import InputError

VARIANT = "variant"
"""The parameter that is no field: the one variant that a trial trains."""

DISTRIBUTIONS = ("uniform", "loguniform", "int", "choice")
OPTIONS = ("step", "log", "when")


@dataclass(frozen=True)
class Parameter:
    """One searched field.

    Attributes:
        path: Dotted path of the field, or `variant`.
        kind: Numbers, whole numbers or choices.
        low: Least number.
        high: Greatest number.
        step: Between two numbers next to each other; None: any number between.
        log: Draw on a logarithmic scale.
        choices: The values, where it is a choice.
        when: It is varied where each of these paths has one of these values; elsewhere it is what the study says.
    """

    path: str
    kind: str
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def values(self) -> list[Any] | None:
        """All its values in order; None where there is no end of them."""
        if self.kind == "choice":
            return list(self.choices)
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step * (1 + 1e-9)) + 1
        if self.kind == "int":
            return [int(self.low) + n * int(self.step) for n in range(count)]
        return [self.low + n * self.step for n in range(count)]


@dataclass(frozen=True)
class Space:
    """The parameters of a search, each behind those that it depends on.

    Raises:
        InputError: They depend on each other in a circle.
    """

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, parameters: Iterable[Parameter], origin: str) -> Space:
        """The space of these parameters, in any order; `origin` is named in errors."""
        waiting = {parameter.path: parameter for parameter in parameters}
        ordered: list[Parameter] = []
        while waiting:
            free = [one for one in waiting.values() if not waiting.keys() & one.when.keys()]
            if not free:
                circle = " and ".join(f"{one.path} on {', '.join(one.when)}" for one in waiting.values())
                raise InputError(f"{origin}: search.space: found a circle of `when`: {circle}; one must depend on none")
            ordered += free
            for parameter in free:
                del waiting[parameter.path]
        return cls(tuple(ordered))

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Of all parameters."""
        return tuple(parameter.path for parameter in self.parameters)

    @property
    def conditional(self) -> bool:
        """Whether a parameter depends on another."""
        return any(parameter.when for parameter in self.parameters)

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of these values those that are varied: a parameter's conditions hold, and it has a value."""
        found: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.path in values and holds(parameter, found):
                found[parameter.path] = values[parameter.path]
        return found

    def complete(self, values: Mapping[str, Any]) -> bool:
        """Whether no parameter that is varied lacks a value."""
        found = self.active(values)
        return all(one.path in found or not holds(one, found) for one in self.parameters)

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of values that are varied together, each once, if all parameters have an end of values."""
        yield from self._points({}, 0)

    def size(self, most: int) -> int:
        """How many points there are, or `most` where there are as many or more."""
        return sum(1 for _ in itertools.islice(self.points(), most))

    def _points(self, values: dict[str, Any], place: int) -> Iterator[dict[str, Any]]:
        if place == len(self.parameters):
            yield dict(values)
            return
        parameter = self.parameters[place]
        if not holds(parameter, values):
            yield from self._points(values, place + 1)
            return
        choices = parameter.values
        assert choices is not None
        for value in choices:
            yield from self._points({**values, parameter.path: value}, place + 1)


def holds(parameter: Parameter, values: Mapping[str, Any]) -> bool:
    """Whether a parameter is varied beside these values of those that it depends on."""
    return all(path in values and values[path] in allowed for path, allowed in parameter.when.items())


def parse(path: str, spec: Mapping[str, Any], where: str) -> Parameter:
    """One entry of `search.space`; `where` is named in errors.

    Raises:
        InputError: It is no distribution.
    """
    kinds = [name for name in spec if name in DISTRIBUTIONS]
    unknown = [name for name in spec if name not in DISTRIBUTIONS + OPTIONS]
    if len(kinds) != 1 or unknown:
        raise InputError(
            f"{where}: found {dict(spec)}; one of {', '.join(DISTRIBUTIONS)} is needed, e.g. uniform: [1, 5]"
            + (f", and beside it perhaps {', '.join(OPTIONS)}" if unknown else "")
        )
    (kind,) = kinds
    values = spec[kind]
    if not isinstance(values, list | tuple) or not values:
        raise InputError(f"{where}.{kind}: found {values!r}; a list is needed")
    when = _conditions(spec.get("when", {}), where)
    if kind == "choice":
        if any(values.index(value) != place for place, value in enumerate(values)):
            raise InputError(f"{where}.choice: found {list(values)}; different values are needed")
        _refuse(spec, ("step", "log"), kind, where)
        return Parameter(path, "choice", choices=tuple(values), when=when)
    numbers = [value for value in values if _is_number(value)]
    if len(numbers) != 2 or len(values) != 2 or numbers[0] >= numbers[1]:
        raise InputError(f"{where}.{kind}: found {list(values)}; [low, high] with low < high is needed")
    low, high = numbers
    log = spec.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"{where}.log: found {log!r}; true or false is needed")
    log = log or kind == "loguniform"
    if log and low <= 0:
        raise InputError(f"{where}.{kind}: found {list(values)}; a logarithmic range starts above 0")
    step = spec.get("step")
    if step is not None and (not _is_number(step) or not 0 < step <= high - low):
        raise InputError(f"{where}.step: found {step!r}; a number above 0 and at most {high - low:g} is needed")
    if step is not None and log:
        raise InputError(f"{where}.step: found {step}; a logarithmic range has no steps")
    if kind == "int":
        if any(value != int(value) for value in numbers) or (step is not None and step != int(step)):
            raise InputError(f"{where}.{kind}: found {list(values)}; whole numbers are needed")
        return Parameter(path, "int", int(low), int(high), int(step or 1), log, when=when)
    return Parameter(path, "float", float(low), float(high), None if step is None else float(step), log, when=when)


def value_of(study: BaseModel, path: str) -> Any:
    """The value of the study's field at a dotted path.

    Raises:
        AttributeError: There is no such field.
    """
    value: Any = study
    for part in path.split("."):
        if part not in type(value).model_fields:
            raise AttributeError(path)
        value = getattr(value, part)
    return value


def _conditions(when: Any, where: str) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, Mapping):
        raise InputError(f"{where}.when: found {when!r}; {{path: value}} or {{path: [values]}} is needed")
    found = {}
    for path, values in when.items():
        found[str(path)] = tuple(values) if isinstance(values, list | tuple) else (values,)
        if not found[str(path)]:
            raise InputError(f"{where}.when.{path}: found no value; one at least is needed")
    return found


def _refuse(spec: Mapping[str, Any], options: Iterable[str], kind: str, where: str) -> None:
    for option in options:
        if option in spec:
            raise InputError(f"{where}.{option}: found {spec[option]!r}; {kind} has no {option}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
