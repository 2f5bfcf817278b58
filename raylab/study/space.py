"""What a search may vary, and whether its section of a study makes sense."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from raylab.config import (
    ADAPTER_VARIANTS,
    CONFLICT_VARIANTS,
    NOT_SEARCHED,
    ConflictConfig,
    MetaConfig,
    ModelConfig,
    PretrainConfig,
    SearchConfig,
    StudyConfig,
    Variant,
)
from raylab.errors import InputError
from raylab.study.parameters import VARIANT, Parameter, Space, parse, value_of
from raylab.study.population import check_population
from raylab.study.sampler import check_sampler

WithValues = Callable[[StudyConfig, Mapping[str, Any]], StudyConfig]
"""`raylab.study.with_values`."""

SEARCHABLE = {
    "data": ("vocab_size", "tokenizer_temperature", "meta_fraction"),
    "model": tuple(ModelConfig.model_fields),
    "pretrain": tuple(
        name
        for name in PretrainConfig.model_fields
        if name not in ("changes", "until", "snapshot_every", "gradients_every")
    ),
    "meta": tuple(MetaConfig.model_fields),
    "conflict": tuple(ConflictConfig.model_fields),
}
"""Fields that a search may vary, by section of the study: those that a pretraining job is made of."""

VARIANTS_WITH: dict[str, Collection[str]] = {
    "model.adapter_ratio": ADAPTER_VARIANTS,
    "model.adapter_activation": ADAPTER_VARIANTS,
    **{f"meta.{name}": frozenset({"meta_adapter"}) for name in MetaConfig.model_fields},
    **{f"conflict.{name}": CONFLICT_VARIANTS for name in ConflictConfig.model_fields},
    "conflict.decay": frozenset({"gradvac"}),
}
"""The variants that a field matters to, where it does not matter to all."""

DIFFERENCES = ("finite_difference", "forward_difference")
METHODS_WITH: dict[str, Collection[str]] = {
    f"meta.{name}": DIFFERENCES for name in ("epsilon", "relative", "fidelity_every")
}
"""The values of `meta.method` that a field matters to."""

MOST_VALUES_CHECKED = 256
"""Values of a range of whole numbers that are tried against the study's other fields before the search begins."""


def check_search(study: StudyConfig, search: SearchConfig, origin: str, with_values: WithValues) -> None:
    """Refuse a search that makes no sense in its study; `origin` is named in errors.

    What its sampler asks for is in `raylab.study.sampler`.

    Raises:
        InputError: A path, distribution, condition, objective, constraint or variant is wrong.
    """
    _check_variants(study, search, origin)
    space = search_space(study, origin)
    alone = study.model_copy(update={"search": None})
    for parameter in space.parameters:
        where = f"{origin}: search.space.{parameter.path}"
        conditions = {path: allowed[0] for path, allowed in parameter.when.items() if path != VARIANT}
        for value in _examples(parameter) if parameter.path != VARIANT else ():
            try:
                with_values(alone, {**conditions, parameter.path: value})
            except InputError as error:
                reason = str(error).rpartition("}: ")[2]
                raise InputError(f"{where}: {value!r} is not a value of this field ({reason})") from None
    if search.population is not None:
        check_population(study, search, origin)
    else:
        check_sampler(study, search, space, origin)
    scores = score_names(study)
    if not scores:
        raise InputError(f"{origin}: search.objective: without finetune, a study has no scores to search for")
    for name in search.objective:
        if name not in scores:
            raise InputError(
                f"{origin}: search.objective.{name}: no such score in this study; one of {', '.join(scores)}"
            )
    if not search.objective:
        raise InputError(f"{origin}: search.objective: empty; name at least one score, such as within/mean: max")
    languages = dict.fromkeys(language for languages in study.languages for language in languages)
    measured = ["parameters", "seconds", "perplexity", *(f"perplexity/{language}" for language in languages), *scores]
    for name in search.constraints:
        if name not in measured:
            raise InputError(
                f"{origin}: search.constraints.{name}: nothing measures this; one of {', '.join(measured)}"
            )


def score_names(study: StudyConfig) -> list[str]:
    """The dev scores that a study's finetuning gives: SETTING/mean and SETTING/TASK."""
    if study.finetune is None:
        return []
    return [f"{setting}/{what}" for setting in study.finetune.settings for what in ("mean", *study.finetune.tasks)]


def search_space(study: StudyConfig, origin: str | None = None) -> Space:
    """The space of a study's search, with the conditions that the fields themselves bring: adapters have a ratio.

    Args:
        study: A study with a `search` section.
        origin: Named in errors; default: the study.

    Raises:
        InputError: A path, a distribution or a condition is wrong, or the space contradicts the study's grid.
    """
    assert study.search is not None
    origin = origin or f"study {study.study}"
    spec = study.search.space
    if not spec:
        raise InputError(f"{origin}: search.space: empty; name at least one field, such as pretrain.temperature")
    known = [VARIANT, *(f"{section}.{field}" for section, fields in SEARCHABLE.items() for field in fields)]
    for path in spec:
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a field of {', '.join(SEARCHABLE)}, or variant, is needed"
            raise InputError(f"{origin}: search.space.{path}: not a field to search; {hint}")
    parsed = {path: parse(path, entry, f"{origin}: search.space.{path}") for path, entry in spec.items()}
    if VARIANT in parsed:
        _check_variant(study, parsed[VARIANT], origin)
    resolved = [
        _resolve(study, parameter, parsed, f"{origin}: search.space.{path}") for path, parameter in parsed.items()
    ]
    return Space.of(resolved, origin)


def variants_of(study: StudyConfig, values: Mapping[str, Any] | None = None) -> tuple[Variant, ...]:
    """The variants that a study's search trains; with the values of a trial, those that it trains."""
    assert study.search is not None
    if values is not None and VARIANT in values:
        return (values[VARIANT],)
    chosen = study.search.variants or tuple(study.search.space.get(VARIANT, {}).get("choice", ()))
    return chosen or tuple(variant for variant in study.variants if variant not in NOT_SEARCHED)


def trial_study(
    study: StudyConfig, values: Mapping[str, Any], with_values: WithValues
) -> tuple[StudyConfig, tuple[Variant, ...]]:
    """What a trial with these values runs: a study without a search, and which of its variants.

    Raises:
        InputError: The values do not go together.
    """
    fields = {path: value for path, value in values.items() if path != VARIANT}
    return with_values(study.model_copy(update={"search": None}), fields), variants_of(study, values)


def _check_variants(study: StudyConfig, search: SearchConfig, origin: str) -> None:
    unknown = [variant for variant in search.variants or () if variant not in study.variants]
    if unknown:
        raise InputError(
            f"{origin}: search.variants: found {unknown[0]!r}; one of the study's, {list(study.variants)}, is needed"
        )
    if all(variant in NOT_SEARCHED for variant in search.variants or study.variants):
        raise InputError(
            f"{origin}: search.variants: nothing to search: a variant other than mono and external is needed"
        )
    if search.variants is not None and VARIANT in search.space:
        raise InputError(
            f"{origin}: search.variants: found {list(search.variants)} beside search.space.variant, which chooses one "
            "for each trial; leave one of the two out"
        )


def _check_variant(study: StudyConfig, variant: Parameter, origin: str) -> None:
    allowed = [name for name in study.variants if name not in NOT_SEARCHED]
    where = f"{origin}: search.space.variant"
    if variant.kind != "choice":
        raise InputError(f"{where}: found {variant.kind}; choice: {allowed} is what it may be")
    for value in variant.choices:
        if value not in allowed:
            raise InputError(f"{where}: found {value!r}; variants of this study that a search trains are {allowed}")


def _resolve(study: StudyConfig, parameter: Parameter, parsed: Mapping[str, Parameter], where: str) -> Parameter:
    """The parameter with the conditions that are left to be decided in each trial."""
    asked = dict(parameter.when)
    for path, allowed in asked.items():
        _check_condition(study, path, allowed, parsed, f"{where}.when.{path}")
    for path, needed in (
        (VARIANT, VARIANTS_WITH.get(parameter.path)),
        ("meta.method", METHODS_WITH.get(parameter.path)),
    ):
        if needed is not None:
            possible = _possible(study, path, parsed)
            both = tuple(value for value in asked.get(path, possible) if value in needed and value in possible)
            if not both:
                raise InputError(
                    f"{where}: matters only where {path} is {' or '.join(sorted(needed))}, and here it is "
                    f"{' or '.join(map(str, asked.get(path, possible)))}; leave it out"
                )
            asked[path] = both
    sets = any(len(languages) > 1 for languages in study.languages)
    if parameter.path in ("pretrain.temperature", "data.tokenizer_temperature") and not sets:
        raise InputError(f"{where}: matters only where a language set has two languages or more; leave it out")
    undecided = {}
    for path, allowed in asked.items():
        possible = _possible(study, path, parsed)
        if not any(value in allowed for value in possible):
            found = " or ".join(map(str, possible))
            raise InputError(f"{where}.when.{path}: found {list(allowed)}, and it is always {found}: never varied")
        if path in parsed and any(value not in allowed for value in possible):
            undecided[path] = tuple(allowed)
    return Parameter(
        **{name: getattr(parameter, name) for name in ("path", "kind", "low", "high", "step", "log", "choices")},
        when=undecided,
    )


def _possible(study: StudyConfig, path: str, parsed: Mapping[str, Parameter]) -> list[Any]:
    """The values that a path takes in this search; of a range without steps, none are named."""
    if path in parsed:
        return parsed[path].values or []
    return list(variants_of(study)) if path == VARIANT else [value_of(study, path)]


def _check_condition(
    study: StudyConfig, path: str, allowed: tuple[Any, ...], parsed: Mapping[str, Parameter], where: str
) -> None:
    if path in parsed:
        values = parsed[path].values
        if values is None:
            raise InputError(f"{where}: {path} takes any number in a range; a condition needs choice, int or a step")
        for value in allowed:
            if value not in values:
                raise InputError(f"{where}: found {value!r}; {path} is one of {values[:20]}")
        return
    if path == VARIANT:
        return
    if path == "variants":
        raise InputError(f"{where}: the study trains several; did you mean variant?")
    try:
        value_of(study, path)
    except AttributeError:
        raise InputError(f"{where}: not a field of the study; a path of one, or variant, is needed") from None


def _examples(parameter: Parameter) -> list[Any]:
    """Values to try against the study's other fields: all, or the ends of a range and some number between them."""
    low, high = parameter.low, parameter.high
    if parameter.kind == "choice":
        return list(parameter.choices)
    if parameter.kind == "int" and high - low >= MOST_VALUES_CHECKED:
        return [low, high]
    if parameter.values is not None:
        return parameter.values[:MOST_VALUES_CHECKED]
    return [low, high, low + (high - low) * 0.414]  # between them, for a field that takes whole numbers only
