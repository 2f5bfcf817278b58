"""Conflict of gradients: cosines between what languages ask of the parameters that they share (paper, Figure 3).

For each snapshot of a pretraining, language i and repeat r, the gradient

    g_ir = grad_theta of the mean over predicted tokens of L_MLM

is taken over an effective batch of independent text, accumulated in passes. Reported are

    cos(i, j) = mean over repeats r, s of  g_ir . g_js / (||g_ir|| ||g_js||),     r < s where i = j

for each pair of languages and, as the baseline, for each language with itself: over all shared parameters, per layer,
per module and per module of a layer. All of them follow from the inner products of the gradients, one matrix for each
place, summed in float64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raylab.config.probes import GradientsConfig, ProbeJob
from raylab.data.prepare import Prepared
from raylab.model import Encoder
from raylab.probes.objective import Objective, open_encoder, open_text
from raylab.probes.places import Place, place_of
from raylab.probes.similarity import Vector, cosines, pairs
from raylab.probes.tables import COSINES, write_table
from raylab.seeding import seed_of
from raylab.train.engine import global_generator
from raylab.train.precision import Precision
from raylab.train.run import Measurement

Gradient = dict[str, Tensor]

_AT_ONCE = 1 << 20  # elements that are in float64 at one time, of each gradient


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Cosine of the angle between two gradients, each as one vector of all its tensors.

    Args:
        a: Tensors by name.
        b: Likewise, of the same shapes; a name that one of them lacks counts as zeros there.

    Returns:
        From -1 to 1, summed in float64; 0 where one of them is all zeros.

    Example:
        >>> cosine({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([1.0, 1.0])})
        0.7071067811865475
    """
    inner = torch.zeros(2, 2, dtype=torch.float64)
    for name in {**a, **b}:
        inner += _inner([a, b], name)
    return cosines(inner)[0, 1].item()


def inner_products(gradients: Sequence[Mapping[str, Tensor]]) -> dict[Place, Tensor]:
    """Inner products [K, K] of K gradients of an encoder over each of its places; float64, on the CPU.

    Args:
        gradients: Tensors by the encoder's parameter names; a name that one of them lacks counts as zeros there.
    """
    products: defaultdict[Place, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    for name in dict.fromkeys(name for gradient in gradients for name in gradient):
        inner = _inner(gradients, name)
        for place in place_of(name).around():
            products[place] = products[place] + inner
    return dict(products)


def _inner(gradients: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """[K, K] over one tensor; in float64 on the device too, where a float32 product may round to TensorFloat-32."""
    like = next(gradient[name] for gradient in gradients if name in gradient)
    rows = [(gradient[name] if name in gradient else torch.zeros_like(like)).flatten() for gradient in gradients]
    inner = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=like.device)
    for parts in zip(*(row.split(_AT_ONCE) for row in rows), strict=True):
        stacked = torch.stack(parts).double()  # [K, n]
        inner += stacked @ stacked.T
    return inner.cpu()


class GradientProbe:
    """Measures cosines at each snapshot; a `raylab.probes.run.Probe`.

    A pass is a unit of work. One gradient for each language and repeat is in memory, and in the state, at a time.

    Args:
        job: With `gradients`.
        models: The folder of a model for each step, in ascending order.
        prepared: The text.
        device: Where to compute.
    """

    def __init__(self, job: ProbeJob, models: Mapping[int, Path], prepared: Prepared, device: torch.device):
        assert job.gradients is not None
        config = job.gradients
        assert config.effective_batch is not None
        assert config.batch_size is not None
        self.job = job
        self.done = 0
        self._config: GradientsConfig = config
        self._models = list(models.items())
        self._device = device
        self._vectors = [Vector(name, repeat) for name in job.languages for repeat in range(config.repeats)]
        self._passes = -(-config.effective_batch // config.batch_size)
        self._last_rows = config.effective_batch - (self._passes - 1) * config.batch_size
        self._units = len(self._vectors) * self._passes  # of one snapshot
        self.total = self._units * len(self._models)
        seed = seed_of(job.seed, "gradient probe")
        self._text = {
            name: open_text(job, prepared, config.split, name, batch_size=config.batch_size, seed=seed)
            for name in job.languages
        }
        self._precision = Precision(job.precision, device)
        self._random = global_generator(device)
        self._products: dict[int, dict[tuple[int | None, str | None], Tensor]] = {}  # by step and place
        self._objective: Objective | None = None
        self._gradients: list[Gradient] = []
        self._predicted = 0  # tokens, of the gradient under way

    def step(self) -> list[Measurement]:
        """One pass; the last one of a snapshot gives its measurements."""
        snapshot, unit = divmod(self.done, self._units)
        place, number = divmod(unit, self._passes)
        if self._objective is None:
            self._objective = self._open(snapshot)
        self._pass(self._objective, self._vectors[place], snapshot, number)
        self.done += 1
        if number == self._passes - 1:
            gradient = _gradient(self._objective.encoder)
            torch._foreach_div_(list(gradient.values()), max(self._predicted, 1))  # of the mean
            self._gradients.append(gradient)
            self._objective.encoder.zero_grad()
            self._predicted = 0
        return self._measure(self._models[snapshot][0]) if unit == self._units - 1 else []

    def state(self) -> dict[str, Any]:
        """What whole snapshots gave, and the gradients of the one under way, as copies."""
        under_way = [] if self._objective is None else [_gradient(self._objective.encoder)]
        return {
            "done": self.done,
            "products": dict(self._products),
            "predicted": self._predicted,
            "gradients": [
                {name: tensor.to("cpu", copy=True) for name, tensor in gradient.items()}
                for gradient in (*self._gradients, *under_way)
            ],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.done = state["done"]
        self._products = dict(state["products"])
        self._predicted = state["predicted"]
        gradients = [
            {name: tensor.to(self._device, copy=True) for name, tensor in gradient.items()}
            for gradient in state["gradients"]
        ]
        self._objective, self._gradients = None, []
        if gradients:
            *self._gradients, under_way = gradients
            self._objective = self._open(self.done // self._units)
            for name, parameter in self._objective.encoder.shared_parameters().items():
                parameter.grad = under_way.get(name)

    def finish(self, folder: Path) -> dict[str, Any]:
        """Write `cosines.parquet`; see `raylab.probes.tables`.

        Returns:
            `steps` that were measured, and `gradient_cosine`, those of the last one by pair and place.
        """
        rows = [row for step in self._products for row in self._rows(step)]
        write_table(folder / "cosines.parquet", rows, COSINES)
        last = self._models[-1][0]
        return {
            "steps": [step for step, _ in self._models],
            "gradient_cosine": {m.name.removeprefix("gradient/cosine/"): m.value for m in self._measured(last)},
        }

    def _open(self, snapshot: int) -> Objective:
        encoder = open_encoder(self._models[snapshot][1], self.job.languages).to(self._device)
        return Objective(encoder.train(self._config.dropout), self._precision)

    def _pass(self, objective: Objective, vector: Vector, snapshot: int, number: int) -> None:
        """Add to `.grad` of the shared parameters."""
        index = (snapshot * self._config.repeats + vector.repeat) * self._passes + number  # no batch serves twice
        batch = self._text[vector.language].batch(index)
        if number == self._passes - 1:
            batch = batch._replace(inputs=batch.inputs[: self._last_rows], labels=batch.labels[: self._last_rows])
        self._random.manual_seed(seed_of(self.job.seed, "gradient probe", "dropout", *vector, snapshot, number))
        with self._precision.matmuls():
            loss, count = objective(batch)
            loss.backward(inputs=list(objective.encoder.shared_parameters().values()))
        self._predicted += count

    def _measure(self, step: int) -> list[Measurement]:
        products = inner_products(self._gradients)
        if not all(bool(inner.isfinite().all()) for inner in products.values()):
            raise FloatingPointError(f"a gradient of the model of step {step} is infinite or not a number")
        self._products[step] = {(place.layer, place.module): inner for place, inner in products.items()}
        self._gradients, self._objective = [], None
        return self._measured(step)

    def _measured(self, step: int) -> list[Measurement]:
        values: defaultdict[str, list[float]] = defaultdict(list)
        for row in self._rows(step):
            suffix = Place(row["layer"], row["module"]).suffix
            values[f"gradient/cosine/{row['first']}-{row['second']}{suffix}"].append(row["cosine"])
        return [Measurement(name, sum(found) / len(found), step) for name, found in values.items()]

    def _rows(self, step: int) -> Iterator[dict[str, Any]]:
        """Of `cosines.parquet`."""
        for (layer, module), inner in self._products[step].items():
            cosine_of, norms = cosines(inner).tolist(), inner.diagonal().sqrt().tolist()
            for (first, second), compared in pairs(self.job.languages, self._vectors).items():
                for i, j in compared:
                    yield {
                        "step": step,
                        "first": first,
                        "second": second,
                        "first_repeat": self._vectors[i].repeat,
                        "second_repeat": self._vectors[j].repeat,
                        "layer": layer,
                        "module": module,
                        "cosine": cosine_of[i][j],
                        "first_norm": norms[i],
                        "second_norm": norms[j],
                    }


def _gradient(encoder: Encoder) -> Gradient:
    """The tensors themselves."""
    return {name: p.grad for name, p in encoder.shared_parameters().items() if p.grad is not None}
