"""A study file becomes a `StudyConfig`, or one clear line that says what is wrong with it."""

from __future__ import annotations

import difflib
import importlib.resources
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from raylab.config import (
    CONFLICT_VARIANTS,
    NOT_SEARCHED,
    ConflictConfig,
    MetaConfig,
    ModelConfig,
    PretrainConfig,
    SearchConfig,
    StudyConfig,
    TaskName,
)
from raylab.errors import InputError

SEARCHABLE = {
    "data": ("vocab_size", "tokenizer_temperature", "meta_fraction"),
    "model": tuple(ModelConfig.model_fields),
    "pretrain": tuple(PretrainConfig.model_fields),
    "meta": tuple(MetaConfig.model_fields),
    "conflict": tuple(ConflictConfig.model_fields),
}
"""Fields that a search may vary, by section of the study: those that a pretraining job is made of."""

MOST_VALUES_CHECKED = 256
"""Values of an integer range that are tried against the study's other fields before the search begins."""

DISTRIBUTIONS = ("uniform", "loguniform", "int", "choice")


def load_study(name_or_path: str, overrides: Iterable[str] = ()) -> StudyConfig:
    """Read, override and validate a study.

    Args:
        name_or_path: A YAML file, or the name of a study that comes with raylab (`demo`).
        overrides: Assignments `a.b=c`, with c in YAML.

    Raises:
        InputError: The file is missing or malformed, or a field is unknown or wrong.
    """
    path = _find(name_or_path)
    raw = _parse(path)
    for assignment in overrides:
        _assign(raw, assignment)
    return validate(raw, str(path))


def validate(raw: Mapping[str, Any], origin: str) -> StudyConfig:
    """Validate a study given as a mapping; `origin` is named in errors.

    Raises:
        InputError: A field is unknown or wrong.
    """
    try:
        study = StudyConfig.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{origin}: {_first_problem(error, raw)}") from None
    _check_across_fields(study, origin)
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


def _find(name_or_path: str) -> Path:
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


def _parse(path: Path) -> dict[str, Any]:
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


def _assign(raw: dict[str, Any], assignment: str) -> None:
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


def _first_problem(error: ValidationError, raw: Mapping[str, Any]) -> str:
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


def _check_across_fields(study: StudyConfig, origin: str) -> None:
    if not study.languages:
        raise InputError(f"{origin}: languages: found no language set; one such as [en, fr] is needed")
    for index, languages in enumerate(study.languages):
        if not languages or len(set(languages)) != len(languages):
            raise InputError(
                f"{origin}: languages.{index}: found {list(languages)}; a set of different languages is needed"
            )
    for name in ("variants", "seeds"):
        values = getattr(study, name)
        if not values or len(set(values)) != len(values):
            raise InputError(f"{origin}: {name}: found {list(values)}; different values, at least one, are needed")
    known = {language for languages in study.languages for language in languages}
    for language in study.data.subsample:
        if language not in known:
            raise InputError(
                f"{origin}: data.subsample.{language}: not a language of this study; those are {sorted(known)}"
            )
    if study.pretrain.sequence_length > study.model.max_length:
        raise InputError(
            f"{origin}: pretrain.sequence_length: found {study.pretrain.sequence_length}; "
            f"at most model.max_length, {study.model.max_length}"
        )
    _check_finetuning(study, origin)
    if ("external" in study.variants) != (study.external is not None):
        found, needed = ("variants: found external", "the section external, with a model,")
        if study.external is not None:
            found, needed = ("external: found a model", "the variant external")
        raise InputError(f"{origin}: {found}; {needed} is needed beside it")
    if study.pretrain.precision == "tf32" and not study.scaling.use_gpu:
        raise InputError(
            f"{origin}: pretrain.precision: found tf32, which no CPU has; scaling.use_gpu: true, or fp32, is needed"
        )
    if "meta_adapter" in study.variants and study.data.meta_fraction == 0:
        raise InputError(
            f"{origin}: data.meta_fraction: found 0; meta_adapter needs a `meta` split, such as 0.02 of the sentences"
        )
    if "meta_adapter" in study.variants and study.meta.validate_on == "others":
        for index, languages in enumerate(study.languages):
            if len(languages) == 1:
                raise InputError(
                    f"{origin}: meta.validate_on: found others; languages.{index}, {list(languages)}, has no others; "
                    "all, or a set of two languages or more, is needed"
                )
    _check_shares(study, origin)
    if study.search:
        _check_search(study, study.search, origin)


def _check_finetuning(study: StudyConfig, origin: str) -> None:
    finetune = study.finetune
    trained = any(variant != "external" for variant in study.variants)
    for task in finetune.tasks if finetune else ():
        assert finetune is not None
        own = finetune.for_task(task)

        def field(name: str, task: TaskName = task) -> str:
            there = getattr(getattr(finetune, task), name) is not None
            return f"{origin}: finetune.{task}.{name}" if there else f"{origin}: finetune.{name}"

        if trained and own.max_length > study.model.max_length:
            raise InputError(
                f"{field('max_length')}: found {own.max_length}; at most model.max_length, {study.model.max_length}"
            )
        if task == "qa" and own.stride >= own.max_length:
            raise InputError(
                f"{field('stride')}: found {own.stride}; windows of max_length {own.max_length} share less than that"
            )


def _check_shares(study: StudyConfig, origin: str) -> None:
    """Every worker takes an equal share of every batch, and every pass an equal part of that."""
    passes = {name: getattr(study.scaling, name) for name in ("num_workers", "accumulation")}
    factors = {f"scaling.{name} ({count})": count for name, count in passes.items() if count > 1}

    def check(field: str, size: int, factors: Mapping[str, int], variant: str = "it") -> None:
        parts = math.prod(factors.values())
        if size % parts:
            product = " x ".join(factors) + (f" = {parts}" if len(factors) > 1 else "")
            below, above = size // parts * parts, (size // parts + 1) * parts
            would = f"{below} or {above}" if below else str(above)
            raise InputError(
                f"{origin}: {field}: found {size}; {variant} needs a multiple of {product}; {would} would do"
            )

    check("pretrain.batch_size", study.pretrain.batch_size, factors)
    if "meta_adapter" in study.variants and study.meta.batch_size is not None:
        check("meta.batch_size", study.meta.batch_size, factors)
    for variant in study.variants:
        for index, languages in enumerate(study.languages if variant in CONFLICT_VARIANTS else ()):
            split = {f"the number of languages.{index} ({len(languages)})": len(languages), **factors}
            check("pretrain.batch_size", study.pretrain.batch_size, split, variant)


def _check_search(study: StudyConfig, search: SearchConfig, origin: str) -> None:
    if not search.space:
        raise InputError(f"{origin}: search.space: empty; name at least one field, such as pretrain.temperature")
    for path, distribution in search.space.items():
        where = f"{origin}: search.space.{path}"
        section, _, field = path.partition(".")
        if field not in SEARCHABLE.get(section, ()):
            paths = [f"{section}.{field}" for section, fields in SEARCHABLE.items() for field in fields]
            near = difflib.get_close_matches(path, paths, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a field of {', '.join(SEARCHABLE)} is needed"
            raise InputError(f"{where}: not a field to search; {hint}")
        for value in _examples(distribution, where):
            try:
                with_values(study.model_copy(update={"search": None}), {path: value})
            except InputError as error:
                reason = str(error).rpartition("}: ")[2]
                raise InputError(f"{where}: {value!r} is not a value of this field ({reason})") from None
    settings = study.finetune.settings if study.finetune else ()
    tasks = study.finetune.tasks if study.finetune else ()
    for name in search.objective:
        setting, _, what = name.partition("/")
        if setting not in settings or what not in ("mean", *tasks):
            allowed = [f"{s}/{w}" for s in settings for w in ("mean", *tasks)]
            raise InputError(
                f"{origin}: search.objective.{name}: no such score in this study; one of {', '.join(allowed)}"
            )
    if not search.objective:
        raise InputError(f"{origin}: search.objective: empty; name at least one score, such as within/mean: max")
    unknown = [variant for variant in search.variants or () if variant not in study.variants]
    if unknown:
        raise InputError(
            f"{origin}: search.variants: found {unknown[0]!r}; one of the study's, {list(study.variants)}, is needed"
        )
    if all(variant in NOT_SEARCHED for variant in search.variants or study.variants):
        raise InputError(
            f"{origin}: search.variants: nothing to search: a variant other than mono and external is needed"
        )


def _examples(distribution: Mapping[str, Any], where: str) -> list[Any]:
    if len(distribution) != 1 or next(iter(distribution)) not in DISTRIBUTIONS:
        raise InputError(
            f"{where}: found {dict(distribution)}; one of {', '.join(DISTRIBUTIONS)} is needed, e.g. uniform: [1, 5]"
        )
    (kind, values), *_ = distribution.items()
    if not isinstance(values, list | tuple) or not values:
        raise InputError(f"{where}.{kind}: found {values!r}; a list is needed")
    if kind == "choice":
        return list(values)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) != 2 or len(values) != 2 or numbers[0] >= numbers[1]:
        raise InputError(f"{where}.{kind}: found {list(values)}; [low, high] with low < high is needed")
    if kind == "loguniform" and numbers[0] <= 0:
        raise InputError(f"{where}.{kind}: found {list(values)}; a logarithmic range starts above 0")
    if kind == "int" and any(value != int(value) for value in numbers):
        raise InputError(f"{where}.{kind}: found {list(values)}; whole numbers are needed")
    low, high = numbers
    if kind == "int":
        low, high = int(low), int(high)
        return list(range(low, high + 1)) if high - low < MOST_VALUES_CHECKED else [low, high]
    return [low, high, low + (high - low) * 0.414]  # between them, for a field that takes whole numbers only
