"""A study file becomes a `StudyConfig`, or one clear line that says what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from raylab.config import StudyConfig
from raylab.errors import InputError
from raylab.study.checks import check_across_fields
from raylab.study.file import assign, find, known_studies, read
from raylab.study.problems import first_problem
from raylab.study.space import check_search

__all__ = ["known_studies", "load_study", "validate", "value_at", "with_values"]


def load_study(name_or_path: str, overrides: Iterable[str] = (), sizing: str | None = None) -> StudyConfig:
    """Read, override and validate a study.

    Args:
        name_or_path: A YAML file, or the name of a study that comes with raylab (`demo`).
        overrides: Assignments `a.b=c`, with c in YAML.
        sizing: Which of the study's `sizings` to take, such as `pocket`; its fields, and an ending of its name.

    Raises:
        InputError: The file is missing or malformed, or a field is unknown or wrong.
    """
    path = find(name_or_path)
    raw = read(path, sizing)
    for assignment in overrides:
        assign(raw, assignment)
    return validate(raw, str(path))


def validate(raw: Mapping[str, Any], origin: str) -> StudyConfig:
    """Validate a study given as a mapping; `origin` is named in errors.

    Raises:
        InputError: A field is unknown or wrong.
    """
    try:
        study = StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{origin}: {first_problem(error, raw)}") from None
    check_across_fields(study, origin)
    if study.search:
        check_search(study, study.search, origin, with_values)
    return study


def with_values(study: StudyConfig, values: Mapping[str, Any]) -> StudyConfig:
    """The same study with some fields, given by dotted path, set to other values.

    Raises:
        InputError: A value is not one that its field takes.
    """
    raw = study.model_dump(mode="json")
    for path, value in values.items():
        *parents, last = path.split(".")
        section = raw
        for parent in parents:
            section = section[parent]
        section[last] = value
    return validate(raw, f"study {study.study} with {dict(values)}")


def value_at(study: StudyConfig, path: str) -> Any:
    """The value of the field at a dotted path."""
    value: Any = study
    for part in path.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value
