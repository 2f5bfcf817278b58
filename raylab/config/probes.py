"""What is measured inside finished models: conflict of the languages' gradients, and sharing of parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raylab.config.base import Config, Fraction, Positive, PositiveInt
from raylab.config.jobs import PretrainJob

ProbeName = Literal["gradients", "pruning"]
NOT_PROBED = frozenset({"mono", "external"})
"""Variants without parameters that several languages share, or without a masked-language-model head."""

PAPER_BATCHES = 8
"""Effective batch of the paper's gradients, 4096 sentences, over its training batch of 512."""

_Number = Annotated[float, Field(allow_inf_nan=False)]


class GradientsConfig(Config):
    """Cosines of the languages' gradients (paper, Figure 3), at each of `pretrain.snapshot_every` and at the end."""

    effective_batch: PositiveInt | None = Field(
        None,
        description="Sequences of one language in one gradient, accumulated; default: 8 times pretrain's batch, as the "
        "paper's 4096 are of its 512.",
    )
    batch_size: PositiveInt | None = Field(None, description="Sequences in one pass; default: pretrain's.")
    repeats: PositiveInt = Field(
        2, description="Independent batches per language; from two on, they give the baseline within the language."
    )
    split: Literal["train", "meta", "valid"] = Field("train", description="Text that the gradients are of.")
    dropout: bool = Field(True, description="With dropout, as the gradients of training have it.")


class PruningConfig(Config):
    """One mask over the shared parameters per language, the weights frozen (paper, Eq. 1 and Figure 4)."""

    groups: Literal["rows", "heads"] = Field(
        "rows",
        description="What a mask has a value for. rows: each row of each projection. heads: attention by its heads, "
        "the other projections by rows.",
    )
    steps: PositiveInt = Field(1000, description="Training steps of one mask.")
    batch_size: PositiveInt | None = Field(None, description="Sequences per step; default: pretrain's.")
    learning_rate: Positive = Field(0.1, description="Of Adam, on the masks' log alpha; falls linearly to 0.")
    penalty: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = Field(
        1.0, description="lambda: nats that the loss may rise for all masked parameters to go, each its share."
    )
    target_sparsity: Fraction | None = Field(
        None,
        description="Share of the masked parameters to remove; lambda is then found on the way. Default: as it comes.",
    )
    temperature: Positive = Field(2 / 3, description="beta of the Hard Concrete distribution.")
    stretch: tuple[_Number, _Number] = Field((-0.1, 1.1), description="gamma and zeta: what samples are stretched to.")
    initial: _Number = Field(0.0, description="log alpha at the start; 0: half open.")
    repeats: PositiveInt = Field(
        2, description="Masks per language, of other draws each; from two on, they give the within-language baseline."
    )
    split: Literal["train", "meta"] = Field("train", description="Text that the masks are trained on.")
    listed: Annotated[int, Field(ge=0)] = Field(
        20, description="Most language-specific groups in the result; all are in groups.parquet."
    )

    @model_validator(mode="after")
    def _stretch_holds_the_ends(self) -> PruningConfig:
        low, high = self.stretch
        if not (low < 0 and high > 1):
            raise ValueError(
                f"stretch {low:g} to {high:g} gives 0 and 1 no mass; below 0 and above 1 would, as -0.1, 1.1"
            )
        return self


class ProbesConfig(Config):
    """Probes of each pretrained model in which languages share parameters."""

    gradients: GradientsConfig | None = Field(None, description="Conflict of gradients; default: not measured.")
    pruning: PruningConfig | None = Field(None, description="Sharing of parameters; default: not measured.")

    @model_validator(mode="after")
    def _asks_for_something(self) -> ProbesConfig:
        if self.gradients is None and self.pruning is None:
            raise ValueError("no probe is asked for; gradients: {} or pruning: {} would be one")
        return self


class ProbeJob(Config):
    """One probe of one pretrained model; `gradients` or `pruning` is what it does, with nothing left open."""

    probe: ProbeName
    languages: tuple[str, ...]
    seed: int
    step: int
    after: int = 0
    snapshot_every: int = 0
    sequence_length: int
    mask_probability: float
    precision: Literal["fp32", "tf32", "bf16"]
    valid_batches: int = 0
    gradients: GradientsConfig | None = None
    pruning: PruningConfig | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """The pretraining's steps whose models are probed: the snapshots beyond step `after`, and the last."""
        every = self.snapshot_every
        first = (self.after // every + 1) * every if every else self.step
        return (*range(first, self.step, max(every, 1)), self.step)

    @property
    def sequences(self) -> int:
        """Sequences that pass forward and backward, in all of the probe."""
        sets = len(self.languages)
        if self.gradients is not None:
            assert self.gradients.effective_batch is not None
            return len(self.steps) * sets * self.gradients.repeats * self.gradients.effective_batch
        assert self.pruning is not None
        assert self.pruning.batch_size is not None
        return sets * self.pruning.repeats * self.pruning.steps * self.pruning.batch_size


def probe_jobs(probes: ProbesConfig | None, model: PretrainJob) -> tuple[ProbeJob, ...]:
    """The probes of one pretrained model; none where no parameters are shared between languages.

    Args:
        probes: What the study asks for.
        model: How the model is pretrained; float16 is probed in float32, which needs no loss scale.
    """
    if probes is None or model.variant in NOT_PROBED or len(model.languages) < 2:
        return ()
    pretrain = model.pretrain
    common = {
        "languages": model.languages,
        "seed": model.seed,
        "step": pretrain.steps if pretrain.until is None else pretrain.until,
        "after": pretrain.changes[-1].step if pretrain.changes else 0,
        "sequence_length": pretrain.sequence_length,
        "mask_probability": pretrain.mask_probability,
        "precision": "fp32" if pretrain.precision == "fp16" else pretrain.precision,
    }
    jobs = []
    if probes.gradients is not None:
        one_pass = probes.gradients.batch_size or pretrain.batch_size
        effective = probes.gradients.effective_batch or PAPER_BATCHES * pretrain.batch_size
        chosen = {"batch_size": min(one_pass, effective), "effective_batch": effective}
        gradients = probes.gradients.model_copy(update=chosen)
        jobs.append(ProbeJob(probe="gradients", gradients=gradients, snapshot_every=pretrain.snapshot_every, **common))
    if probes.pruning is not None:
        pruning = probes.pruning.model_copy(update={"batch_size": probes.pruning.batch_size or pretrain.batch_size})
        jobs.append(ProbeJob(probe="pruning", pruning=pruning, valid_batches=pretrain.valid_batches, **common))
    return tuple(jobs)
