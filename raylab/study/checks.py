"""What the fields of a study ask of each other."""

from __future__ import annotations

import math
from collections.abc import Mapping

from raylab.config import CONFLICT_VARIANTS, StudyConfig, TaskName
from raylab.errors import InputError


def check_across_fields(study: StudyConfig, origin: str) -> None:
    """Refuse fields that are well in themselves and do not go together; `origin` is named in errors.

    Raises:
        InputError: Two fields contradict each other.
    """
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
    for name, language in study.data.aliases.items():
        if language in study.data.aliases or name in study.data.text:
            raise InputError(
                f"{origin}: data.aliases.{name}: found {language!r}; a language with text of its own is needed, "
                "under a name without"
            )
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
