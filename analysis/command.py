"""The command that runs a study, or what is missing of it, as a user types it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from analysis.labels import in_variant_order
from raylab.errors import InputError

if TYPE_CHECKING:
    from analysis.study import Study


def sweep_command(study: Study, variants: Iterable[str] = ()) -> str:
    """The sweep of a study that MLflow knows.

    It names the study that came with raylab, its sizing, and every field in which the study as it was run differs
    from that file. A study of another origin is named by a file of its name, which may lie elsewhere.

    Args:
        study: The study's outline.
        variants: Variants to run beside those that the study has.

    Example:
        >>> from analysis.study import Study
        >>> sweep_command(Study("variants-pocket", (("en", "hi"),), ("mono", "joint"), ("ner",)))
        'python -m raylab.sweep variants --sizing pocket'
    """
    lacking = [variant for variant in variants if variant not in study.variants]
    name, sizing = _origin(study.name)
    words = ["python -m raylab.sweep", shlex.quote(name or f"{study.name}.yaml")]
    if sizing:
        words += ["--sizing", shlex.quote(sizing)]
    changed = dict(_changes(name, sizing, json.dumps(study.configuration))) if name and study.configuration else {}
    if lacking:
        changed["variants"] = in_variant_order([*study.variants, *lacking])
    for path, value in changed.items():
        words += ["--set", _quoted(f"{path}={_yaml(value)}")]
    return " ".join(words)


def _yaml(value: Any) -> str:
    """A value in one line of YAML; a number's text in JSON is one that the sweep reads back whole."""
    if isinstance(value, float):
        return json.dumps(value)
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True).split("\n")[0]


def _quoted(word: str) -> str:
    """As a word of a shell's command, in double quotes where they will do."""
    return shlex.quote(word) if set(word) & set('"$`\\!') or word == shlex.quote(word) else f'"{word}"'


def _origin(study: str) -> tuple[str | None, str | None]:
    """Name of the study that came with raylab, and of its sizing."""
    from raylab.study import known_studies  # the configuration's classes take a third of a second

    for known in sorted(known_studies(), key=len, reverse=True):
        if study == known:
            return known, None
        if study.startswith(f"{known}-"):
            return known, study.removeprefix(f"{known}-")
    return None, None


@cache
def _changes(name: str, sizing: str | None, configuration: str) -> list[tuple[str, Any]]:
    """Paths and values of the fields in which a study, as JSON, differs from the file that it came from."""
    from raylab.study import load_study, validate

    try:
        shipped = load_study(name, sizing=sizing).model_dump(mode="json")
        run = validate(json.loads(configuration), name).model_dump(mode="json")
    except InputError:
        return []  # of an earlier version of raylab
    return [change for section, fields in run.items() for change in _differing(shipped[section], fields, section)]


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
