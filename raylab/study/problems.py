"""What pydantic finds wrong with a study, in one line for people."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from raylab.config import StudyConfig


def first_problem(error: ValidationError, raw: Mapping[str, Any]) -> str:
    """The first problem of a study, given as the mapping `raw`: its field, what was found and what would be right."""
    # A union reports one problem per branch, with the branch's name in the path: the deepest real place is the same.
    problem = error.errors()[0]
    place: list[str] = []
    inside: Any = raw
    for part in problem["loc"]:
        if isinstance(inside, Mapping) and (part in inside or problem["type"] == "missing"):
            inside = inside.get(part)
        elif isinstance(inside, list | tuple) and isinstance(part, int) and part < len(inside):
            inside = inside[part]
        else:
            continue
        place.append(str(part))
    where = ".".join(place)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{where}: missing; it has no default"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown field{_near_field(place)}"
    if isinstance(inside, Mapping) and problem["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: found {inside!r}; {message[0].lower()}{message[1:]}"


def _near_field(place: list[str]) -> str:
    model: Any = StudyConfig
    for part in place[:-1]:
        model = _model_of(model.model_fields[part].annotation)
        if model is None:
            return ""
    names = list(model.model_fields)
    near = difflib.get_close_matches(place[-1], names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(names)}"


def _model_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
