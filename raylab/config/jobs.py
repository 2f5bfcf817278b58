"""What each kind of job is told: its resolved configuration, of which its key is made."""

from __future__ import annotations

from raylab.config.base import Checkpoints, Config, Freeze, TaskName, Variant
from raylab.config.data import TextOptions
from raylab.config.pretrain import ConflictConfig, MetaConfig, ModelConfig, PretrainConfig


class PrepareJob(TextOptions):
    """Corpora of one language set to a tokenizer and token stores."""

    languages: tuple[str, ...]
    subsample: dict[str, int]
    tokenizer: str = "bpe"
    vocab_size: int | None
    tokenizer_temperature: float = 2.0


class PretrainJob(Config):
    """One model: a variant on a language set."""

    languages: tuple[str, ...]
    variant: Variant
    seed: int
    model: ModelConfig
    pretrain: PretrainConfig
    meta: MetaConfig | None
    conflict: ConflictConfig | None = None


class ImportJob(Config):
    """A model from elsewhere, brought into the storage."""

    model: str
    revision: str | None
    tokenizer: str | None = None


class FinetuneJob(Config):
    """One finetuning of one pretrained model."""

    task: TaskName
    train_language: str
    eval_languages: tuple[str, ...]
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    max_length: int
    max_examples: int | None
    head_learning_rate: float | None = None
    freeze: Freeze = "none"
    stride: int = 0
    checkpoints: Checkpoints = "none"
