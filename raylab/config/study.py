"""A study: one YAML file in `search_spaces/`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylab.config.base import Config, Language, Positive, PositiveInt, Variant
from raylab.config.data import DataConfig
from raylab.config.finetune import ExternalConfig, FinetuneConfig
from raylab.config.keep import KeepConfig
from raylab.config.pretrain import ConflictConfig, MetaConfig, ModelConfig, PretrainConfig
from raylab.config.probes import ProbesConfig
from raylab.config.search import SearchConfig


class ScalingConfig(Config):
    """What one job runs on."""

    num_workers: PositiveInt = Field(1, description="Training processes of one pretraining job.")
    use_gpu: bool = Field(False, description="One GPU for each worker.")
    cpus_per_worker: PositiveInt = Field(1, description="CPU cores, and threads, of each worker.")
    accumulation: PositiveInt = Field(
        1, description="Passes in which a worker takes its share of a batch, to save memory; the result is the same."
    )
    compile: bool = Field(False, description="Compile the encoder's layers with torch.compile when pretraining.")
    checkpoint_seconds: Positive = Field(60.0, description="Seconds of work between two resumable checkpoints.")
    hang_seconds: Positive = Field(
        1800.0, description="Seconds without any progress after which a job hangs, and its process is started again."
    )


class StudyConfig(Config):
    """One study: one YAML file in `search_spaces/`."""

    study: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = Field(
        description="Name: of the MLflow experiment too."
    )
    description: str = Field("", description="One sentence on what the study asks.")
    data: DataConfig = DataConfig()
    languages: tuple[tuple[Language, ...], ...] = Field(
        description="Language sets; the first of each is the source language."
    )
    variants: tuple[Variant, ...] = Field(("mono", "joint"), description="Models trained for each language set.")
    seeds: tuple[int, ...] = Field((0,), description="One model of each kind per seed.")
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    meta: MetaConfig = MetaConfig()
    conflict: ConflictConfig = ConflictConfig()
    external: ExternalConfig | None = None
    finetune: FinetuneConfig | None = FinetuneConfig()
    probes: ProbesConfig | None = None
    search: SearchConfig | None = None
    scaling: ScalingConfig = ScalingConfig()
    keep: KeepConfig = KeepConfig()
