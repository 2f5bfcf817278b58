"""Masked-language-model pretraining of one variant, with the bilevel step of `meta_adapter` (paper, Algorithm 1)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raylab.config import PretrainJob
from raylab.data.prepare import Prepared
from raylab.data.sampling import language_probabilities, sample_language
from raylab.model import Encoder
from raylab.seeding import seed_of
from raylab.train.masked_text import Batch, MaskedText
from raylab.train.meta import Loss, MetaGradient, cosine, meta_gradient
from raylab.train.run import Measurement
from raylab.train.schedule import inverse_sqrt

MEASURE_EVERY = 20  # steps between two measurements of the training loss
_ADAM_BETAS = (0.9, 0.98)  # XLM's
_FIDELITY_SEQUENCES = 32
_VALIDATION_SEED = 0  # every run of a study is measured on the same masks


class Step(NamedTuple):
    """An optimizer step that is not measured yet; to read its loss at once would be to wait for the device."""

    number: int
    language: str
    learning_rate: float
    loss: Tensor | float
    tokens: int
    seconds: float


class Objective(nn.Module):
    """The masked-language-model loss as a module, because `functional_call` replaces the parameters of a `forward`."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch) -> tuple[Tensor, int]:
        """The mean loss of a batch, and how many tokens it is the mean of."""
        return self.encoder.mlm_loss(batch.inputs, batch.labels, batch.language)


class PretrainRun:
    """Pretrains one model; a `raylab.train.run.Run`.

    All that is random is a function of the job's seed and of how far the run is, so that a run which goes on from a
    state does, to the bit, what it would have done (on a CPU, with equally many threads).

    Measurements: `train/loss` (nats, mean of the steps since the last one), `train/learning_rate` and
    `train/tokens_per_second` every 20 steps; `valid/perplexity/LANG` every `valid_every` steps, on batches and masks
    that no seed changes; all of these after the last step too. `meta/fidelity`, the cosine of the meta-gradient's
    higher-order part with the exact one, at the first meta step from each multiple of `fidelity_every` on.

    Args:
        job: What to train.
        prepared_folder: What `raylab.data.prepare` wrote for these languages, and perhaps for others.
        device: Where to train, as PyTorch names it.

    Raises:
        InputError: The prepared folder lacks a language, or a split that is needed is empty.
        ValueError: The job is for `meta_adapter` and has no `meta`.

    Attributes:
        job: As given.
        encoder: The model.
        step: Optimizer steps done.
    """

    def __init__(self, job: PretrainJob, *, prepared_folder: Path, device: str = "cpu"):
        if job.variant == "meta_adapter" and job.meta is None:
            raise ValueError("a job for meta_adapter needs `meta`")
        self.job = job
        self.step = 0
        self._meta = job.meta if job.variant == "meta_adapter" else None
        self._device = torch.device(device)
        self._random = _global_generator(self._device)
        self._pending: list[Step] = []
        self._perplexity: dict[str, float] = {}
        self._tokens = 0
        self._seconds = 0.0

        prepared = Prepared(prepared_folder)
        self._text = {f"train/{language}": self._open(prepared, "train", language) for language in job.languages}
        if self._meta is not None:
            self._text |= {f"meta/{language}": self._open(prepared, "meta", language) for language in job.languages}
        self._drawn = dict.fromkeys(self._text, 0)  # batches
        self._valid = {
            language: self._open(prepared, "valid", language).in_order(job.pretrain.valid_batches)
            for language in job.languages
        }
        sizes = {language: prepared.sizes[language] for language in job.languages}
        self._probabilities = language_probabilities(sizes, job.pretrain.temperature)

        torch.manual_seed(seed_of(job.seed, "initialisation"))
        self.encoder = Encoder(job.model, prepared.tokenizer.vocab_size, job.languages, job.variant).to(self._device)
        self._shared = self.encoder.shared_parameters()
        self._specific = {language: self.encoder.specific_parameters(language) for language in job.languages}
        self._objective = Objective(self.encoder)
        self._optimizer = torch.optim.Adam(self.encoder.parameters(), betas=_ADAM_BETAS, fused=True)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.job.pretrain.steps

    @property
    def progress(self) -> float:
        """Share of the steps that are done, from 0 to 1."""
        return self.step / self.job.pretrain.steps

    def advance(self, seconds: float) -> list[Measurement]:
        """Train for about `seconds`, at least one step, and return what was measured.

        Raises:
            FloatingPointError: A loss is NaN or infinite; the message names its step, language and learning rate.
        """
        started = time.perf_counter()
        measurements: list[Measurement] = []
        while not self.finished:
            measurements += self._train_step()
            if self.step % MEASURE_EVERY == 0 or self.finished:
                measurements += self._measure_training()
            if self.step % self.job.pretrain.valid_every == 0 or self.finished:
                measurements += self._measure_validation()
            if time.perf_counter() - started >= seconds:
                break
        self._seconds += time.perf_counter() - started
        return measurements

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as a copy that later steps do not change.

        Raises:
            FloatingPointError: As `advance`: no state is given after a loss that is NaN or infinite.
        """
        losses = self._pending_losses()
        state = {
            "step": self.step,
            "encoder": self.encoder.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "drawn": self._drawn,
            "pending": [tuple(step._replace(loss=loss)) for step, loss in zip(self._pending, losses, strict=True)],
            "perplexity": self._perplexity,
            "tokens": self._tokens,
            "seconds": self._seconds,
        }
        return copy.deepcopy(state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that an equal job gave; the state itself stays as it is."""
        state = copy.deepcopy(state)  # the optimizer keeps the tensors that it is given
        self.step = state["step"]
        self.encoder.load_state_dict(state["encoder"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._drawn = state["drawn"]
        self._pending = [Step(*step) for step in state["pending"]]
        self._perplexity = state["perplexity"]
        self._tokens = state["tokens"]
        self._seconds = state["seconds"]

    def finish(self, folder: Path) -> dict[str, Any]:
        """Save the encoder to `folder/model` and return the result.

        Returns:
            `valid_perplexity` by language, `train_tokens`, `steps`, `parameters` (the model's, all languages together)
            and `seconds` (of work, validation included).
        """
        self.encoder.save_pretrained(folder / "model")
        return {
            "valid_perplexity": dict(self._perplexity),
            "train_tokens": self._tokens,
            "steps": self.step,
            "parameters": sum(parameter.numel() for parameter in self.encoder.parameters()),
            "seconds": self._seconds,
        }

    def _train_step(self) -> list[Measurement]:
        """One step of Algorithm 1; without a meta step theta and phi move together."""
        started = time.perf_counter()
        config = self.job.pretrain
        measurements: list[Measurement] = []
        self.step += 1
        learning_rate = inverse_sqrt(self.step, peak=config.learning_rate, warmup_steps=config.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

        language = sample_language(self._probabilities, self.job.seed, self.step)  # line 5
        batch = self._next_batch("train", language)
        trained = [*self._shared.values(), *self._specific[language].values()]
        if self._meta is not None and self.step % self._meta.meta_every == 0:
            measurements += self._meta_step(batch, learning_rate)  # line 6
            trained = [*self._shared.values()]
        loss = self._loss(batch, "train")
        loss.backward(inputs=trained)
        self._update()  # line 7

        tokens, seconds = batch.inputs.numel(), time.perf_counter() - started
        self._tokens += tokens
        self._pending.append(Step(self.step, language, learning_rate, loss.detach(), tokens, seconds))
        return measurements

    def _meta_step(self, batch: Batch, learning_rate: float) -> list[Measurement]:
        """Update phi of the batch's language by the meta-gradient; theta stays."""
        assert self._meta is not None
        every = self._meta.fidelity_every
        inner_lr = learning_rate if self._meta.inner_lr == "current" else self._meta.inner_lr
        held_out = [self._next_batch("meta", language) for language in self.job.languages]
        measurements = []
        if every and self.step // every > (self.step - self._meta.meta_every) // every:
            measurements.append(Measurement("meta/fidelity", self._fidelity(batch, held_out, inner_lr), self.step))

        found = self._meta_gradient(batch, held_out, inner_lr, self._meta.method, self.job.pretrain.precision)
        for name, parameter in self._specific[batch.language].items():
            parameter.grad = found.gradient[name]
        self._update()
        return measurements

    def _fidelity(self, batch: Batch, held_out: Sequence[Batch], inner_lr: float) -> float:
        """Cosine of the higher-order part as this run computes it with the exact one in float32.

        On part of the batches, for the exact one takes much memory. Without dropout, for the attention kernels with and
        without a second derivative may draw different masks.
        """
        assert self._meta is not None
        batch, *held_out = [
            Batch(whole.language, whole.inputs[:_FIDELITY_SEQUENCES], whole.labels[:_FIDELITY_SEQUENCES])
            for whole in (batch, *held_out)
        ]
        self.encoder.eval()
        found = self._meta_gradient(batch, held_out, inner_lr, self._meta.method, self.job.pretrain.precision)
        exact = self._meta_gradient(batch, held_out, inner_lr, "exact", "fp32")
        self.encoder.train()
        return cosine(found.higher_order, exact.higher_order)

    def _meta_gradient(
        self, batch: Batch, held_out: Sequence[Batch], inner_lr: float, method: str, precision: str
    ) -> MetaGradient:
        assert self._meta is not None

        def loss_of(batch: Batch, split: str) -> Loss:
            return lambda shared, specific: self._loss(batch, split, {**shared, **specific}, precision)

        return meta_gradient(
            loss_of(batch, "train"),
            [loss_of(validation, "meta") for validation in held_out],
            self._shared,
            self._specific[batch.language],
            inner_lr=inner_lr,
            method=method,
            epsilon=self._meta.epsilon,
            relative=self._meta.relative,
        )

    def _loss(
        self, batch: Batch, split: str, replaced: Mapping[str, Tensor] | None = None, precision: str | None = None
    ) -> Tensor:
        """The mean loss of a batch, in one step always under the same dropout.

        Args:
            batch: The batch.
            split: Where it is from.
            replaced: What to use in the place of the encoder's parameters of these names.
            precision: Default: the job's.
        """
        self._random.manual_seed(seed_of(self.job.seed, "dropout", self.step, split, batch.language))
        return self._evaluate(batch, replaced or {}, precision or self.job.pretrain.precision)[0]

    def _evaluate(self, batch: Batch, replaced: Mapping[str, Tensor], precision: str) -> tuple[Tensor, int]:
        parameters = {f"encoder.{name}": tensor for name, tensor in replaced.items()}
        with torch.autocast(self._device.type, torch.bfloat16, enabled=precision == "bf16"):
            return functional_call(self._objective, parameters, (batch,), tie_weights=False)

    def _update(self) -> None:
        """Step the optimizer, which passes over parameters without a gradient, and drop all gradients."""
        if self.job.pretrain.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.encoder.parameters(), self.job.pretrain.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _measure_training(self) -> list[Measurement]:
        losses = self._pending_losses()
        rate = sum(step.tokens for step in self._pending) / sum(step.seconds for step in self._pending)
        learning_rate = self._pending[-1].learning_rate
        self._pending = []
        return [
            Measurement("train/loss", sum(losses) / len(losses), self.step),
            Measurement("train/learning_rate", learning_rate, self.step),
            Measurement("train/tokens_per_second", rate, self.step),
        ]

    def _pending_losses(self) -> list[float]:
        """The losses since the last measurement, which are finite, or FloatingPointError."""
        losses = [float(step.loss) for step in self._pending]
        for step, loss in zip(self._pending, losses, strict=True):
            _check_finite("training", loss, step.number, step.language, step.learning_rate)
        return losses

    @torch.no_grad()
    def _measure_validation(self) -> list[Measurement]:
        self._pending_losses()  # so that an error names the step where it began
        self.encoder.eval()
        for language, batches in self._valid.items():
            evaluated = [self._evaluate(batch, {}, self.job.pretrain.precision) for batch in batches]
            count = sum(count for _, count in evaluated)
            mean = sum(loss.item() * count for loss, count in evaluated) / max(count, 1)
            _check_finite("validation", mean, self.step, language, self._optimizer.param_groups[0]["lr"])
            self._perplexity[language] = math.exp(min(mean, 700.0))  # beyond, float64 overflows
        self.encoder.train()
        return [Measurement(f"valid/perplexity/{name}", value, self.step) for name, value in self._perplexity.items()]

    def _open(self, prepared: Prepared, split: str, language: str) -> MaskedText:
        return MaskedText(
            prepared,
            split,
            language,
            self.job.pretrain,
            batch_size=self._meta.batch_size if self._meta is not None and split == "meta" else None,
            seed=_VALIDATION_SEED if split == "valid" else self.job.seed,
            device=self._device,
        )

    def _next_batch(self, split: str, language: str) -> Batch:
        name = f"{split}/{language}"
        self._drawn[name] += 1
        return self._text[name].batch(self._drawn[name] - 1)


def _global_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout draws from; torch.manual_seed seeds every kind of device, and takes milliseconds."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def _check_finite(kind: str, loss: float, step: int, language: str, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the {kind} loss is {loss} at step {step} (language {language}, learning rate {learning_rate:g}); "
            "a lower pretrain.learning_rate, or a pretrain.clip_norm, may help"
        )
