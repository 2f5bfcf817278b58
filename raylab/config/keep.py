"""What of a study stays on disk."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylab.config.base import Config, PositiveInt


class KeepConfig(Config):
    """What of a study stays on disk; results always do."""

    checkpoints: PositiveInt = Field(
        1,
        description="Resumable checkpoints of a job under way: the last ones; an older one serves "
        "if the last is broken.",
    )
    models: Literal["all", "best"] = Field(
        "all",
        description="Pretrained models that stay when the study has ended: all, or those that a reported score or the "
        "best trials of the search rest on.",
    )
    finetuned: Literal["all", "best"] = Field(
        "all",
        description="Finetuned models (`finetune.checkpoints`) that stay when the study has ended: all, or those of "
        "the reported scores.",
    )
