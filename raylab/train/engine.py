"""Training steps on batches of masked text: plain, bilevel (paper, Algorithm 1) and with gradient surgery.

Every worker is given the whole batch of a step and takes its share of the sequences, in one pass or several. Losses are
means over the masked tokens of the whole batch, whose number each worker knows without asking, and every gradient is a
sum over workers before anything is made of it. So a step is the same however many workers and passes it is cut into,
up to rounding and dropout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raylab.config import ConflictConfig, MetaConfig, PretrainConfig
from raylab.data.masking import predicted
from raylab.heartbeat import beat
from raylab.model import Encoder
from raylab.seeding import generator, seed_of
from raylab.train.conflict import SURGERY
from raylab.train.distributed import ALONE, Workers
from raylab.train.gradients import GradientWatch, cosine
from raylab.train.masked_text import Batch
from raylab.train.meta import Loss, MetaGradient, Parameters, meta_gradient
from raylab.train.optimizer import adam_factors, make_optimizer
from raylab.train.precision import Precision
from raylab.train.run import Measurement
from raylab.train.schedule import learning_rate

_FIDELITY_SEQUENCES = 32


class _Part(NamedTuple):
    """What one worker takes of a batch in one pass.

    Attributes:
        language: Of all its sequences.
        inputs: [b, T] token ids, some of them masked.
        positions: [m] where a token is to be predicted, as indices into the flattened inputs.
        targets: [m] the ids to predict there.
        total: How many are predicted in the whole batch.
        place: Number of this part among those of all workers.
    """

    language: str
    inputs: Tensor
    positions: Tensor
    targets: Tensor
    total: int
    place: int


class _Objective(nn.Module):
    """The masked-language-model loss as a module, because `functional_call` replaces the parameters of a `forward`."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, part: _Part) -> Tensor:
        """The part's share of the batch's mean loss: over all parts they add up to it."""
        return self.encoder.mlm_loss(part.inputs, part.positions, part.targets, part.language) / part.total


class Engine:
    """Trains an encoder, a step at a time.

    Steps are numbered from 1: the number gives the learning rate and the dropout.

    Args:
        encoder: The model, on its device. It is changed.
        config: Optimizer, schedule and precision.
        meta: For `meta_step`.
        surgery: For `surgery_step`: one of `raylab.train.conflict.SURGERY`.
        conflict: Likewise.
        seed: Of dropout and of the order in which gradients are compared.
        workers: Who shares each batch; all make the same calls.
        accumulation: Passes in which a worker takes its share.
        compile: Compile the encoder's layers. Second derivatives and evaluation run without.

    Attributes:
        encoder: The model.
        precision: Number format, with the gradient scaler.

    Raises:
        InputError: The device cannot compute in the precision.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: PretrainConfig,
        *,
        meta: MetaConfig | None = None,
        surgery: str | None = None,
        conflict: ConflictConfig | None = None,
        seed: int = 0,
        workers: Workers = ALONE,
        accumulation: int = 1,
        compile: bool = False,
    ) -> None:
        self._config = config
        self._meta = meta
        self._seed = seed
        self._workers = workers
        self._accumulation = accumulation
        self.encoder = encoder
        self._device = encoder.tokens.weight.device
        self._random = global_generator(self._device)
        self._shared = encoder.shared_parameters()
        self._specific = {language: encoder.specific_parameters(language) for language in encoder.languages}
        self._objective = _Objective(encoder)
        self._optimizer = make_optimizer(encoder, config)
        self.precision = Precision(config.precision, self._device)
        self._surgery = SURGERY[surgery](conflict) if surgery is not None and conflict is not None else None
        self._conflicts: list[tuple[float, float]] = []  # mean cosine and share of conflicts, since last asked for
        every = config.gradients_every
        self._watch = GradientWatch(encoder.languages, every) if every else None
        self._compiled = compile
        if compile:
            encoder.compile_layers()

    def learning_rate(self, number: int) -> float:
        """The learning rate of the step of this number."""
        return learning_rate(self._config, number)

    def step(self, number: int, batch: Batch, *, shared_only: bool = False) -> Tensor:
        """Train on one batch.

        Args:
            number: Of the step, from 1.
            batch: The whole batch.
            shared_only: Leave the language's own parameters as they are: what follows `meta_step`.

        Returns:
            The mean loss of the whole batch before the step, a scalar that needs no gradient.
        """
        own = {} if shared_only else self._specific[batch.language]
        loss = self._backward(number, batch, [*self._shared.values(), *own.values()])
        if self._watch is not None:
            self._watch.add(batch.language, self._shared_gradient(), self.precision.loss_scale)
        self._update(number)
        return loss

    def meta_step(self, number: int, batch: Batch, held_out: Sequence[Batch]) -> None:
        """Update phi of the batch's language by the meta-gradient; theta stays (line 6).

        Args:
            number: Of the step, from 1.
            batch: What theta will be trained on in this step.
            held_out: A validation batch of each language that counts.
        """
        found = self._meta_gradient(number, batch, held_out)
        scale = self.precision.scale()
        for name, parameter in self._specific[batch.language].items():
            parameter.grad = found.gradient[name] * scale
        self._update(number)

    def surgery_step(self, number: int, batches: Sequence[Batch], weights: Sequence[float]) -> Tensor:
        """Train on batches of several languages whose gradients are mended where they conflict.

        Args:
            number: Of the step, from 1.
            batches: One of each language.
            weights: What each language's mended gradient, and loss, counts.

        Returns:
            The weighted mean of the losses before the step, a scalar that needs no gradient.
        """
        assert self._surgery is not None
        losses, gradients = [], []
        for batch in batches:
            losses.append(self._backward(number, batch, [*self._shared.values()]))
            gradients.append(self._shared_gradient())
            if self._watch is not None:
                self._watch.add(batch.language, gradients[-1], self.precision.loss_scale)
            self._optimizer.zero_grad()
        # The loss scale is still in them: it changes no angle.
        mended = self._surgery.mend(gradients, generator(self._seed, "surgery", number))
        for name, parameter in self._shared.items():
            terms = [weight * part[name] for weight, part in zip(weights, mended.gradients, strict=True)]
            parameter.grad = torch.stack(terms).sum(0)
        skipped = self.precision.skipped_steps
        self._update(number)
        if self.precision.skipped_steps == skipped:
            self._conflicts.append((mended.cosine, mended.conflicts))
        return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()

    def measured(self) -> dict[str, float]:
        """What the steps since the last call were like, besides their losses: names as `PretrainRun` says."""
        found = {}
        if self._conflicts:
            cosines, shares = zip(*self._conflicts, strict=True)
            found["conflict/cosine"] = sum(cosines) / len(cosines)
            found["conflict/share"] = sum(shares) / len(shares)
            self._conflicts = []
        if self.precision.scaler.is_enabled():
            found["train/skipped_steps"] = float(self.precision.skipped_steps)
            found["train/loss_scale"] = self.precision.scaler.get_scale()
        return found

    def compared(self, number: int) -> list[Measurement]:
        """Cosines of the languages' gradients, where a window of `gradients_every` steps ends with this one."""
        return [] if self._watch is None else self._watch.measured(number)

    def fidelity(self, number: int, batch: Batch, held_out: Sequence[Batch]) -> float:
        """Cosine of the higher-order part, as `meta_step` computes it, with the exact one in float32.

        On at most 32 sequences of each batch, for the exact one takes much memory; each worker by itself, on the same
        ones. Without dropout, for the attention kernels with and without a second derivative may draw different masks.
        """
        batch, *held_out = [
            Batch(whole.language, whole.inputs[:_FIDELITY_SEQUENCES], whole.labels[:_FIDELITY_SEQUENCES])
            for whole in (batch, *held_out)
        ]
        self.encoder.eval()
        with self._eagerly():
            found = self._meta_gradient(number, batch, held_out, alone=True)
            exact = self._meta_gradient(number, batch, held_out, alone=True, exact=True)
        self.encoder.train()
        return cosine(found.higher_order, exact.higher_order)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> float:
        """Mean loss over the masked tokens of all batches, without dropout; the workers share the batches."""
        self.encoder.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        with self._eagerly():
            for batch in batches[self._workers.rank :: self._workers.size]:
                beat()
                (part,) = self._parts(batch, alone=True)
                sums[0] += self._loss(part, {}) * part.total
                sums[1] += part.total
        self._workers.sum([sums])
        self.encoder.train()
        loss, count = sums.tolist()
        return float(loss / max(count, 1))

    def state(self) -> dict[str, Any]:
        """All that changes while training; tensors are not copied."""
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "precision": self.precision.state(),
            "surgery": self._surgery.state() if self._surgery is not None else None,
            "conflicts": self._conflicts,
            "watch": self._watch.state() if self._watch is not None else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`; the tensors become this engine's."""
        self.encoder.load_state_dict(state["encoder"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state(state["precision"])
        if self._surgery is not None:
            self._surgery.load_state(state["surgery"])
        self._conflicts = state["conflicts"]
        if self._watch is not None:
            self._watch.load_state(state["watch"], self._device)

    def _shared_gradient(self) -> Parameters:
        """The tensors themselves, by name."""
        return {name: p.grad for name, p in self._shared.items() if p.grad is not None}

    def _backward(self, number: int, batch: Batch, trained: list[nn.Parameter]) -> Tensor:
        """Add the gradient of the batch's mean loss, times the loss scale, to `.grad`; return the loss."""
        total = self.encoder.output_bias.new_zeros(())
        with self.precision.matmuls():
            for part in self._parts(batch):
                loss = self._loss(part, {}, seed=(number, "train"))
                self.precision.scaler.scale(loss).backward(inputs=trained)
                total += loss.detach()
        self._workers.sum([total, *(parameter.grad for parameter in trained if parameter.grad is not None)])
        return total

    def _update(self, number: int) -> None:
        """Step the optimizer, which passes over parameters without a gradient, and drop all gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(number)
        self.precision.scaler.unscale_(self._optimizer)
        if self._config.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.encoder.parameters(), self._config.clip_norm)
        self.precision.update(self._optimizer)
        self._optimizer.zero_grad()

    def _meta_gradient(
        self, number: int, batch: Batch, held_out: Sequence[Batch], *, alone: bool = False, exact: bool = False
    ) -> MetaGradient:
        """The meta-gradient as configured, or the exact one in float32."""
        assert self._meta is not None
        rate = self.learning_rate(number)
        method = "exact" if exact else self._meta.method
        scale, scaled = self.precision.scale(), self.precision.scaler.is_enabled()

        def losses(batch: Batch, split: str, full: bool) -> list[Loss]:
            parts = list(self._parts(batch, alone=alone))

            def loss_of(part: _Part) -> Loss:  # their mean is to be the loss of the batch
                return lambda shared, specific: (
                    self._loss(part, {**shared, **specific}, seed=(number, split), full=full) * (scale * len(parts))
                )

            return [loss_of(part) for part in parts]

        def reduce(gradients: list[Tensor]) -> None:
            if not alone:
                self._workers.sum(gradients)
            if scaled:
                torch._foreach_mul_(gradients, 1 / scale)

        def precondition(gradients: Parameters) -> Parameters:
            return adam_factors(self._optimizer, self._shared, gradients)

        # TensorFloat-32 would be noise in a difference: a backward pass has the precision that is set when it runs.
        with (
            self.precision.matmuls() if method == "exact" and not exact else contextlib.nullcontext(),
            self._eagerly() if method == "exact" else contextlib.nullcontext(),
        ):
            return meta_gradient(
                losses(batch, "train", exact),
                [loss for validation in held_out for loss in losses(validation, "meta", exact)],
                self._shared,
                self._specific[batch.language],
                inner_lr=rate if self._meta.inner_lr == "current" else self._meta.inner_lr,
                method=method,
                epsilon=self._meta.epsilon,
                relative=self._meta.relative,
                precondition=precondition if self._meta.inner_step == "adam" else None,
                difference_loss=losses(batch, "train", True),
                reduce=reduce if scaled or (self._workers.size > 1 and not alone) else None,
            )

    def _eagerly(self) -> contextlib.AbstractContextManager[None]:
        """Without compiled code: it has no second derivative, and is made anew for every shape."""
        return torch.compiler.set_stance("force_eager") if self._compiled else contextlib.nullcontext()

    def _loss(
        self, part: _Part, replaced: Mapping[str, Tensor], seed: tuple[int, str] | None = None, full: bool = False
    ) -> Tensor:
        """A part's share of the mean loss of its batch.

        Args:
            part: What to compute it of.
            replaced: What to use in the place of the encoder's parameters of these names.
            seed: The step and the split, which decide the dropout: in one step always the same.
            full: In float32, whatever the job's precision.
        """
        if seed is not None:
            self._random.manual_seed(seed_of(self._seed, "dropout", *seed, part.language, part.place))
        parameters = {f"encoder.{name}": tensor for name, tensor in replaced.items()}
        with self.precision.autocast(full=full):
            loss: Tensor = functional_call(self._objective, parameters, (part,), tie_weights=False)
        return loss

    def _parts(self, batch: Batch, *, alone: bool = False) -> Iterator[_Part]:
        """This worker's share of a batch, pass by pass; or the whole batch at once."""
        size, passes, rank = (1, 1, 0) if alone else (self._workers.size, self._accumulation, self._workers.rank)
        rows = len(batch.inputs)
        if rows % (size * passes):
            raise ValueError(f"{rows} sequences do not divide over {size} workers in {passes} passes each")
        rows //= size * passes
        total = max(len(predicted(batch.labels)[0]), 1)
        for place in range(rank * passes, (rank + 1) * passes):
            chosen = slice(place * rows, (place + 1) * rows)
            positions, targets = predicted(batch.labels[chosen])
            sent = [tensor.to(self._device) for tensor in (batch.inputs[chosen], positions, targets)]
            yield _Part(batch.language, sent[0], sent[1], sent[2], total, place)


def global_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout draws from; torch.manual_seed seeds every kind of device, and takes milliseconds."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
