"""The outline of a study that the analysis needs: its language sets, variants and tasks, in the study's order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from analysis.command import sweep_command
from analysis.labels import in_variant_order

STUDY_TAG = "raylab.study"

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Study:
    """What a study compares.

    Attributes:
        name: Name of the study and of its MLflow experiment.
        language_sets: Language sets; the first language of each is its source language.
        variants: Variants in the paper's order.
        tasks: Downstream tasks.
        configuration: The whole study as the sweep keeps it; empty where it does not.
    """

    name: str
    language_sets: tuple[tuple[str, ...], ...]
    variants: tuple[str, ...]
    tasks: tuple[str, ...]
    configuration: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def aliases(self) -> dict[str, str]:
        """Names that stand for a language with less text (`fr_l`), each with that language (`fr`)."""
        return dict(self.configuration.get("data", {}).get("aliases", {}))

    def model_languages(self, languages: tuple[str, ...], variant: str, language: str) -> str:
        """Languages, joined by `-`, of the model that stands for `language` in a row on this variant and set.

        A mono model knows one language and serves every set that has it; an external one serves all sets of a source.
        """
        if variant == "mono":
            return language
        if variant == "external":
            sets = [others for others in self.language_sets if others[0] == languages[0]]
            languages = _unique(known for others in sets for known in others)
        return "-".join(languages)

    def command(self, variants: Iterable[str] = ()) -> str:
        """The command that runs what is missing of the study; see `analysis.command.sweep_command`.

        Args:
            variants: Variants that are needed; those that the study does not have are added to its own.
        """
        return sweep_command(self, variants)


def read_study(name: str, tag: str | None, scores: pa.Table) -> Study:
    """The outline of a study.

    Args:
        name: Name of the study.
        tag: The study's configuration as JSON, which the sweep keeps as a tag of the experiment. Without it (an
            experiment that was written by other means) the outline is what the scores have.
        scores: The study's scores, as `analysis.scores.score_table` has them.
    """
    if tag is None:
        languages, tasks, variants = (scores[name].to_pylist() for name in ("languages", "task", "variant"))
        sets = _unique(tuple(text.split("-")) for text in languages if "-" in text)
        return Study(name, sets, tuple(in_variant_order(variants)), _unique(task for task in tasks if task != "mlm"))
    configuration = json.loads(tag)
    return Study(
        name=name,
        language_sets=_unique(tuple(languages) for languages in configuration["languages"]),
        variants=tuple(in_variant_order(configuration["variants"])),
        tasks=_unique((configuration["finetune"] or {"tasks": ()})["tasks"]),
        configuration=configuration,
    )


def _unique(items: Iterable[_Item]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))
