"""What every pretrained model is finetuned on, and models from elsewhere."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raylab.config.base import Checkpoints, Config, Freeze, Positive, PositiveInt, Setting, TaskName


class GridConfig(Config):
    """Finetuning hyperparameters that are tried, each value with each, on every checkpoint, task and language."""

    batch_size: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(description="Examples in a batch.")
    learning_rate: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        description="Of the encoder, and of the head where it has none of its own; falls linearly to 0."
    )
    head_learning_rate: tuple[Positive, ...] = Field(
        (), description="Of the task's head, the paper's classifier; default: as learning_rate."
    )
    freeze: Annotated[tuple[Freeze, ...], Field(min_length=1)] = Field(
        ("none",), description="What is not finetuned: `language_specific` layers, adapters or norms, or nothing."
    )


class TaskConfig(Config):
    """What one task does otherwise than the rest of the section `finetune` says."""

    epochs: PositiveInt | None = None
    max_length: PositiveInt | None = None
    stride: Annotated[int, Field(ge=0)] | None = None
    max_examples: PositiveInt | None = None
    grid: GridConfig | None = None


class FinetuneConfig(Config):
    """Finetuning of every checkpoint on the downstream tasks."""

    tasks: tuple[TaskName, ...] = Field(("ner", "pos"), description="Downstream tasks.")
    settings: tuple[Setting, ...] = Field(
        ("within", "zero_shot"), description="Train and test languages alike, or source to target."
    )
    epochs: PositiveInt = Field(10, description="Passes over the training set; the best on dev is kept.")
    max_length: PositiveInt = Field(
        128, description="Longest sequence, in subwords; what is beyond is cut, and counted; qa takes windows instead."
    )
    stride: Annotated[int, Field(ge=0)] = Field(
        32, description="Subwords that neighbouring windows of a long text share (qa), at most 3/4 of a window's."
    )
    max_examples: PositiveInt | None = Field(None, description="Most training examples to use; default: all.")
    checkpoints: Checkpoints = Field(
        "none", description="Finetuned models to keep: none, the best epoch's, or that of all epochs, as the paper."
    )
    grid: GridConfig = Field(
        GridConfig(batch_size=(16, 32), learning_rate=(2e-5, 3e-5, 5e-5)),
        description="Values tried for each checkpoint, task and language (default: paper, Appendix A).",
    )
    ner: TaskConfig = Field(TaskConfig(), description="What is otherwise for named entity recognition.")
    pos: TaskConfig = Field(TaskConfig(), description="What is otherwise for part-of-speech tagging.")
    qa: TaskConfig = Field(TaskConfig(), description="What is otherwise for question answering.")
    nli: TaskConfig = Field(TaskConfig(), description="What is otherwise for natural language inference.")

    def for_task(self, task: TaskName) -> FinetuneConfig:
        """The section as it holds for one task."""
        own: TaskConfig = getattr(self, task)
        set_there = {name: value for name in TaskConfig.model_fields if (value := getattr(own, name)) is not None}
        return self.model_copy(update=set_there)


class ExternalConfig(Config):
    """The model of the variant `external`: any encoder of Hugging Face's transformers."""

    model: str = Field(description="A folder as `save_pretrained` writes it, or a name on the hub.")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub; default: its main branch.")
    tokenizer: str | None = Field(
        None, description="Folder, or name on the hub, of the tokenizer of a model that comes without (X-MOD: XLM-R's)."
    )
