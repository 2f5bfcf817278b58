"""The command that runs a study, or what is missing of it, as a user types it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from analysis.study import Study
from raylab.errors import InputError
from raylab.study import known_studies, load_study, validate

_OF_THE_MACHINE = ("scaling", "keep")  # sections that no result depends on


def sweep_command(study: Study, variants: Iterable[str] = ()) -> str:
    """The sweep of a study that MLflow knows.

    It names the study that came with raylab, its sizing, and every field in which the study as it was run differs
    from that file. A study of another origin is named by a file of its name, which may lie elsewhere.

    Args:
        study: The study's outline.
        variants: Variants to run beside those that the study has.

    Example:
        >>> sweep_command(Study("variants-pocket", (("en", "hi"),), ("mono", "joint"), ("ner",)))
        'python -m raylab.sweep variants --sizing pocket'
    """
    lacking = [variant for variant in variants if variant not in study.variants]
    name, sizing = _origin(study.name)
    words = ["python", "-m", "raylab.sweep", name or f"{study.name}.yaml"]
    if sizing:
        words += ["--sizing", sizing]
    changed = dict(_changes(study, name, sizing)) if name else {}
    if lacking:
        changed["variants"] = [*study.configuration.get("variants", study.variants), *lacking]
    for path, value in changed.items():
        words += ["--set", f"{path}={json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(words)


def _origin(study: str) -> tuple[str | None, str | None]:
    """Name of the study that came with raylab, and of its sizing."""
    for known in sorted(known_studies(), key=len, reverse=True):
        if study == known:
            return known, None
        if study.startswith(f"{known}-"):
            return known, study.removeprefix(f"{known}-")
    return None, None


def _changes(study: Study, name: str, sizing: str | None) -> Iterator[tuple[str, Any]]:
    if not study.configuration:
        return
    try:
        shipped = load_study(name, sizing=sizing).model_dump(mode="json")
        run = validate(study.configuration, study.name).model_dump(mode="json")
    except InputError:
        return  # of an earlier version of raylab
    for section in run:
        if section not in _OF_THE_MACHINE:
            yield from _differing(shipped[section], run[section], section)


def _differing(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Paths and values of what has changed; a mapping that lost a key is given as a whole."""
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() <= after.keys():
        for key, value in after.items():
            if key not in before:
                yield f"{path}.{key}", value
            else:
                yield from _differing(before[key], value, f"{path}.{key}")
    else:
        yield path, after
