"""A study file as a mapping: where it lies, its YAML, and assignments from the command line."""

from __future__ import annotations

import difflib
import importlib.resources
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from raylab.errors import InputError


def known_studies() -> list[str]:
    """Names of the studies that come with raylab."""
    folder = importlib.resources.files("search_spaces")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars (`no` is Norwegian, not false; `5e-4` is a number), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def find(name_or_path: str) -> Path:
    """The file of a study, given by its path or, of those that come with raylab, by its name.

    Raises:
        InputError: There is none.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"{name_or_path}: there is no such study file")
    resource = importlib.resources.files("search_spaces") / f"{name_or_path}.yaml"
    if not resource.is_file():
        near = difflib.get_close_matches(name_or_path, known_studies(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"the studies are {', '.join(known_studies())}"
        raise InputError(f"{name_or_path}: no study of this name, and no such file; {hint}")
    return Path(str(resource))


def read(path: Path, sizing: str | None = None) -> dict[str, Any]:
    """What a study file says, on top of what the file says that it has as its `base`, in one of its `sizings`.

    Args:
        path: The file.
        sizing: Name of a sizing; the study's own name gets it as an ending. None: the study as it is.

    Raises:
        InputError: A file cannot be read, or there is no such sizing.
    """
    raw = _with_base(path, ())
    sizings = raw.pop("sizings", {})
    if not isinstance(sizings, dict) or not all(isinstance(fields, dict) for fields in sizings.values()):
        raise InputError(f"{path}: sizings: found {sizings!r}; fields of the study by name of a sizing are needed")
    if sizing is None:
        return raw
    if sizing not in sizings:
        there = f"it has {', '.join(sizings)}" if sizings else "it has none"
        raise InputError(f"--sizing {sizing}: {path} has no sizing of this name; {there}")
    return {**_merged(raw, sizings[sizing]), "study": f"{raw.get('study')}-{sizing}"}


def _with_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path in above:
        raise InputError(f"{path}: base: leads back to this file")
    raw = parse(path)
    base = raw.pop("base", None)
    if base is None:
        return raw
    if not isinstance(base, str) or not (path.parent / base).is_file():
        raise InputError(f"{path}: base: found {base!r}; the path of a study file, from this file's folder, is needed")
    return _merged(_with_base((path.parent / base).resolve(), (*above, path)), raw)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections are merged field by field; anything else that stands above takes the place of what is below."""
    merged = dict(below)
    for name, value in above.items():
        inside = merged.get(name)
        merged[name] = _merged(inside, value) if isinstance(inside, dict) and isinstance(value, dict) else value
    return merged


def parse(path: Path) -> dict[str, Any]:
    """What a study file says.

    Raises:
        InputError: It cannot be read, or is not YAML with a mapping at the top.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; a study file is UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise InputError.at(path, line, f"not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(raw, dict):
        raise InputError(
            f"{path}: found {type(raw).__name__} at the top; a study is a mapping with `study:` and `languages:`"
        )
    return raw


def assign(raw: dict[str, Any], assignment: str) -> None:
    """Put the value of an assignment `a.b=c`, with c in YAML, into what a study file says.

    Raises:
        InputError: It is no such assignment.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise InputError(f"--set {assignment}: an assignment looks like pretrain.steps=500")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise InputError(f"--set {assignment}: {text!r} is not a YAML value") from None
    *parents, last = path.split(".")
    section = raw
    for depth, parent in enumerate(parents):
        inside = section.setdefault(parent, {})
        if inside is None:
            inside = section[parent] = {}
        if not isinstance(inside, dict):
            raise InputError(f"--set {assignment}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        section = inside
    section[last] = value
