"""The configuration of a study, and of the jobs that a study resolves to.

Every field says its meaning and unit where it is declared. `raylab.study.load_study` reads a YAML file into
`StudyConfig`; `raylab.search.plan` resolves a study into jobs, whose configurations are the last classes here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

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


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextOptions(_Config):
    """How files of text become the sentences of a study."""

    invalid_utf8: Literal["stop", "skip"] = Field(
        "stop", description="On a line that is not UTF-8: stop, or skip and count it."
    )
    text_field: str = Field("text", description="The field, or column, of JSON lines and Parquet files that is text.")
    sentence_split: Literal["lines", "rules"] = Field(
        "lines", description="A sentence is a line, or what rules of punctuation find in a line."
    )
    normalization: Literal["none", "nfc", "nfkc"] = Field("none", description="Unicode normalization form of all text.")
    deduplicate: bool = Field(
        False, description="Keep a training sentence once; takes 8 bytes of memory a distinct sentence."
    )
    valid_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.01,
        description="Share of the lines or documents held out, by content hash, as `valid` where there is none.",
    )
    meta_fraction: Fraction = Field(
        0.02, description="Share of the training sentences held out, by content hash, as the `meta` split."
    )


class DataConfig(TextOptions):
    """Where text and labelled data come from, and how text becomes tokens."""

    source: str = Field(
        "demo", description="`demo` (generated, no download), or a folder or URL: text/LANG, and TASK/LANG."
    )
    text: dict[Language, str] = Field(
        default_factory=dict,
        description="Text of a language that lies elsewhere: a path, folder or glob, a URL (s3://, gs://, ...), or "
        "hf:OWNER/NAME/FOLDER of the Hugging Face hub.",
    )
    labelled: str | None = Field(
        None, description="Folder of the labelled data, if they lie elsewhere: TASK/LANG, or XTREME's download."
    )
    demo_scale: Positive = Field(1e-3, description="Demo corpora: sentences, as a fraction of the paper's Table 1.")
    demo_seed: int = Field(0, description="Seed of the demo's generator.")
    tokenizer: Annotated[str, Field(min_length=1)] = Field(
        "bpe",
        description="`bpe` or `unigram`: trained with SentencePiece on each language set; or a SentencePiece model "
        "file or a folder of a Hugging Face tokenizer, used as it is.",
    )
    vocab_size: PositiveInt = Field(
        2000, description="Subwords of a tokenizer that is trained, shared by one language set, in pieces."
    )
    tokenizer_temperature: Positive = Field(
        2.0, description="T of the shares of text that a tokenizer is trained on, P_i ~ (bytes of i)^(1/T)."
    )
    subsample: dict[Language, PositiveInt] = Field(
        default_factory=dict, description="Most training sentences to keep, per language (the paper's fr_l, ru_l)."
    )


class ModelConfig(_Config):
    """The encoder: a post-norm Transformer, as XLM's."""

    num_layers: PositiveInt = Field(2, description="Transformer layers.")
    dim: PositiveInt = Field(64, description="Width d of the embeddings and the residual stream.")
    num_heads: PositiveInt = Field(4, description="Attention heads.")
    head_dim: PositiveInt | None = Field(None, description="Width of one head; by default dim / num_heads.")
    ffn_dim: PositiveInt = Field(256, description="Inner width of the feed-forward layers.")
    adapter_ratio: Positive = Field(0.25, description="Adapter bottleneck b over d (paper, Appendix B: 1/4).")
    adapter_activation: Literal["relu", "gelu"] = Field(
        "gelu", description="g in the paper's Eq. 6. relu has kinks that spoil finite differences early in training."
    )
    dropout: Fraction = Field(0.1, description="Dropout probability of embeddings and sublayer outputs.")
    attention_dropout: Fraction | None = Field(
        None, description="Dropout probability of attention weights; default: as dropout."
    )
    max_length: PositiveInt = Field(512, description="Longest sequence, in tokens (size of the position table).")

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.head_dim is None and self.dim % self.num_heads:
            divisors = ", ".join(str(n) for n in range(1, self.dim + 1) if self.dim % n == 0)
            raise ValueError(
                f"num_heads {self.num_heads} does not divide dim {self.dim}; one of {divisors} would, or set head_dim"
            )
        return self

    @property
    def adapter_dim(self) -> int:
        """Bottleneck width b = ratio x d, at least 1."""
        return max(1, round(self.adapter_ratio * self.dim))


class PretrainConfig(_Config):
    """Masked-language-model pretraining."""

    steps: PositiveInt = Field(
        300, description="Steps; each is one batch of one language (pcgrad, gradvac: a share of each language)."
    )
    batch_size: PositiveInt = Field(32, description="Sequences per step, of all workers together.")
    sequence_length: PositiveInt = Field(
        64, description="Tokens per sequence; streams are cut to it, nothing is padded."
    )
    temperature: Positive = Field(1.0, description="T of language sampling, P_i ~ (L_i / sum_j L_j)^(1/T).")
    mask_probability: Annotated[float, Field(gt=0.0, le=1.0)] = Field(0.15, description="Share of tokens predicted.")
    learning_rate: Positive = Field(5e-4, description="Peak of the schedule.")
    schedule: Literal["inverse_sqrt", "linear", "cosine"] = Field(
        "inverse_sqrt", description="After the warm-up: XLM's decay, or down to 0 at the last step."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(50, description="Steps of linear warm-up to the peak.")
    clip_norm: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Clip gradients to this L2 norm; 0: do not clip."
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="AdamW's decoupled decay of matrices; biases and layer norms never decay."
    )
    adam_betas: tuple[Fraction, Fraction] = Field(
        (0.9, 0.98), description="AdamW's decay rates of the first and the second moment; default: XLM's."
    )
    adam_epsilon: Positive = Field(1e-8, description="AdamW's term against division by zero.")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32",
        description="tf32: matrix products on NVIDIA GPUs; bf16: autocast; fp16: autocast with a gradient scaler. "
        "Master weights are float32 in all of them.",
    )
    valid_every: PositiveInt = Field(100, description="Steps between two measurements of validation perplexity.")
    valid_batches: PositiveInt = Field(8, description="Most batches per language in one such measurement.")


class MetaConfig(_Config):
    """The bilevel step of `meta_adapter` (paper, Eq. 3 to 5 and 8)."""

    method: Literal["finite_difference", "forward_difference", "exact"] = Field(
        "finite_difference", description="How H v is computed."
    )
    epsilon: Positive = Field(
        0.01, description="Step of the finite difference; what is subtracted is computed in float32."
    )
    relative: bool = Field(True, description="Divide epsilon by ||v||_2; false: the paper's absolute step.")
    inner_lr: Positive | Literal["current"] = Field(
        "current", description="beta of the inner step; `current`: the schedule's learning rate, as in the paper."
    )
    inner_step: Literal["sgd", "adam"] = Field(
        "sgd",
        description="Inner step: plain (the paper), or divided as Adam divides, by the root of the second moment.",
    )
    validate_on: Literal["all", "others"] = Field(
        "all", description="Languages of the validation loss: all of the set, or all but the one that trains."
    )
    meta_every: PositiveInt = Field(
        1, description="Do the meta step on every k-th step; between, the adapters train plainly."
    )
    batch_size: PositiveInt | None = Field(
        None, description="Sequences per language in a validation batch; default: pretrain's."
    )
    fidelity_every: Annotated[int, Field(ge=0)] = Field(
        100, description="Steps between two logs of the cosine with an exact product; 0: never."
    )


class ConflictConfig(_Config):
    """How `pcgrad` and `gradvac` mend gradients of languages that conflict."""

    granularity: Literal["model", "layer"] = Field(
        "model", description="Compare gradients over the whole model, or over each layer by itself."
    )
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.01, description="gradvac: weight of a new cosine in the moving average that is its target."
    )


class GridConfig(_Config):
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


class TaskConfig(_Config):
    """What one task does otherwise than the rest of the section `finetune` says."""

    epochs: PositiveInt | None = None
    max_length: PositiveInt | None = None
    stride: Annotated[int, Field(ge=0)] | None = None
    max_examples: PositiveInt | None = None
    grid: GridConfig | None = None


class FinetuneConfig(_Config):
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


class ExternalConfig(_Config):
    """The model of the variant `external`: any encoder of Hugging Face's transformers."""

    model: str = Field(description="A folder as `save_pretrained` writes it, or a name on the hub.")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub; default: its main branch.")
    tokenizer: str | None = Field(
        None, description="Folder, or name on the hub, of the tokenizer of a model that comes without (X-MOD: XLM-R's)."
    )


class SearchConfig(_Config):
    """Search over pretraining configurations with Optuna, on top of the grid of languages, variants and seeds."""

    num_samples: PositiveInt = Field(20, description="Configurations to try, the study's own included.")
    space: dict[str, dict[str, Any]] = Field(
        description="Dotted path of a field: {uniform|loguniform|int: [low, high]} or {choice: [...]}."
    )
    objective: dict[str, Direction] = Field(
        {"within/mean": "max", "zero_shot/mean": "max"},
        description="Dev scores to optimise: SETTING/mean or SETTING/TASK; more than one gives a Pareto front.",
    )
    variants: tuple[Variant, ...] | None = Field(
        None, description="Variants that the search trains; default: all but mono and external."
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="Optuna's sampler.")
    seed: int = Field(0, description="Seed of the sampler.")
    concurrency: PositiveInt | None = Field(
        None,
        description="Most trials under way at once; 1: no trial depends on timing; default: enough for every worker.",
    )
    storage: str | None = Field(None, description="Optuna's storage URL; default: SQLite in the study's folder.")


class ScalingConfig(_Config):
    """What one job runs on."""

    num_workers: PositiveInt = Field(1, description="Training processes of one pretraining job.")
    use_gpu: bool = Field(False, description="One GPU for each worker.")
    cpus_per_worker: PositiveInt = Field(1, description="CPU cores, and threads, of each worker.")
    accumulation: PositiveInt = Field(
        1, description="Passes in which a worker takes its share of a batch, to save memory; the result is the same."
    )
    compile: bool = Field(False, description="Compile the encoder's layers with torch.compile when pretraining.")
    checkpoint_seconds: Positive = Field(60.0, description="Seconds of work between two resumable checkpoints.")


class StudyConfig(_Config):
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
    search: SearchConfig | None = None
    scaling: ScalingConfig = ScalingConfig()


class PrepareJob(TextOptions):
    """Corpora of one language set to a tokenizer and token stores."""

    languages: tuple[str, ...]
    subsample: dict[str, int]
    tokenizer: str = "bpe"
    vocab_size: int | None
    tokenizer_temperature: float = 2.0


class PretrainJob(_Config):
    """One model: a variant on a language set."""

    languages: tuple[str, ...]
    variant: Variant
    seed: int
    model: ModelConfig
    pretrain: PretrainConfig
    meta: MetaConfig | None
    conflict: ConflictConfig | None = None


class ImportJob(_Config):
    """A model from elsewhere, brought into the storage."""

    model: str
    revision: str | None
    tokenizer: str | None = None


class FinetuneJob(_Config):
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
