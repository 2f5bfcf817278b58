"""What a search may vary, and whether its section of a study makes sense."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from raylab.config import (
    NOT_SEARCHED,
    ConflictConfig,
    MetaConfig,
    ModelConfig,
    PretrainConfig,
    SearchConfig,
    StudyConfig,
)
from raylab.errors import InputError

WithValues = Callable[[StudyConfig, Mapping[str, Any]], StudyConfig]
"""`raylab.study.with_values`."""

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


def check_search(study: StudyConfig, search: SearchConfig, origin: str, with_values: WithValues) -> None:
    """Refuse a search that makes no sense in its study; `origin` is named in errors.

    Raises:
        InputError: A path, distribution, objective or variant is wrong.
    """
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
