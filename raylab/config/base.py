"""What all sections share: the names of variants, tasks and settings, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Variant = Literal[
    "mono",
    "joint",
    "ffn",
    "attn",
    "norm",
    "adapter",
    "shared_adapter",
    "meta_adapter",
    "pcgrad",
    "gradvac",
    "external",
]
VARIANTS: tuple[str, ...] = get_args(Variant)
NOT_SEARCHED = frozenset({"mono", "external"})
"""Variants that a search over pretraining leaves alone: the baseline of all the others, and models from elsewhere."""
LANGUAGE_SPECIFIC_VARIANTS = frozenset({"ffn", "attn", "norm", "adapter", "meta_adapter"})
ADAPTER_VARIANTS = frozenset({"adapter", "shared_adapter", "meta_adapter"})
CONFLICT_VARIANTS = frozenset({"pcgrad", "gradvac"})

TaskName = Literal["ner", "pos", "qa", "nli"]
Setting = Literal["within", "zero_shot"]
Direction = Literal["max", "min"]
Freeze = Literal["none", "language_specific"]
Checkpoints = Literal["none", "best", "all"]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
Language = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Config(BaseModel):
    """A section: no unknown fields, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
