"""The encoder, and how it is pretrained."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylab.config.base import Config, Fraction, Positive, PositiveInt


class ModelConfig(Config):
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


class Change(Config):
    """From a step on, another learning rate or temperature."""

    step: PositiveInt = Field(description="The last step before the change.")
    learning_rate: Positive | None = Field(None, description="Peak of the schedule from then on; default: as before.")
    temperature: Positive | None = Field(None, description="T of language sampling from then on; default: as before.")


class PretrainConfig(Config):
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
    changes: tuple[Change, ...] = Field(
        (), description="Changes on the way, in the order of their steps; what comes before one is a job of its own."
    )
    until: PositiveInt | None = Field(
        None, description="Stop after this step of the schedule, and keep all that is needed to go on; default: steps."
    )
    snapshot_every: Annotated[int, Field(ge=0)] = Field(
        0, description="Steps between two models that are kept on the way, for probes; 0: none."
    )
    gradients_every: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Steps over which training's own gradients are summed and then compared between languages, without "
        "a further pass; 0: not at all.",
    )

    @model_validator(mode="after")
    def _changes_in_order(self) -> PretrainConfig:
        places = [0, *(change.step for change in self.changes)]
        for before, step in pairwise(places):
            if step <= before:
                raise ValueError(f"a change after step {step} follows one after {before}; their steps must rise")
        last = self.steps if self.until is None else self.until
        if last > self.steps:
            raise ValueError(f"until {last} is beyond the last step, {self.steps}")
        if places[-1] >= last:
            raise ValueError(f"a change after step {places[-1]} comes too late: training ends with step {last}")
        return self


class MetaConfig(Config):
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


class ConflictConfig(Config):
    """How `pcgrad` and `gradvac` mend gradients of languages that conflict."""

    granularity: Literal["model", "layer"] = Field(
        "model", description="Compare gradients over the whole model, or over each layer by itself."
    )
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.01, description="gradvac: weight of a new cosine in the moving average that is its target."
    )
