"""The configuration of a study, and of the jobs that a study resolves to.

Every field says its meaning and unit where it is declared. `raylab.study.load_study` reads a YAML file into
`StudyConfig`; `raylab.search.plan` resolves a study into jobs, whose configurations are in `raylab.config.jobs`.
"""

from raylab.config.base import (
    ADAPTER_VARIANTS,
    CONFLICT_VARIANTS,
    LANGUAGE_SPECIFIC_VARIANTS,
    NOT_SEARCHED,
    VARIANTS,
    Checkpoints,
    Direction,
    Freeze,
    Setting,
    TaskName,
    Variant,
)
from raylab.config.data import DataConfig, TextOptions
from raylab.config.finetune import ExternalConfig, FinetuneConfig, GridConfig, TaskConfig
from raylab.config.jobs import FinetuneJob, ImportJob, PrepareJob, PretrainJob
from raylab.config.keep import KeepConfig
from raylab.config.population import PopulationConfig
from raylab.config.pretrain import Change, ConflictConfig, MetaConfig, ModelConfig, PretrainConfig
from raylab.config.probes import ProbeJob, ProbesConfig
from raylab.config.search import SearchConfig
from raylab.config.study import ScalingConfig, StudyConfig

__all__ = [
    "ADAPTER_VARIANTS",
    "CONFLICT_VARIANTS",
    "LANGUAGE_SPECIFIC_VARIANTS",
    "NOT_SEARCHED",
    "VARIANTS",
    "Change",
    "Checkpoints",
    "ConflictConfig",
    "DataConfig",
    "Direction",
    "ExternalConfig",
    "FinetuneConfig",
    "FinetuneJob",
    "Freeze",
    "GridConfig",
    "ImportJob",
    "KeepConfig",
    "MetaConfig",
    "ModelConfig",
    "PopulationConfig",
    "PrepareJob",
    "PretrainConfig",
    "PretrainJob",
    "ProbeJob",
    "ProbesConfig",
    "ScalingConfig",
    "SearchConfig",
    "Setting",
    "StudyConfig",
    "TaskConfig",
    "TaskName",
    "TextOptions",
    "Variant",
]
