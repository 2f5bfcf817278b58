"""Conflict of gradients: cosines between what languages ask of the parameters that they share (paper, Figure 3).

For each snapshot of a pretraining, language i and repeat r, the gradient

    g_ir = grad_theta of the mean over predicted tokens of L_MLM

is taken over an effective batch of independent text, accumulated in passes. `raylab.train.gradients` says what is
reported.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raylab.config.probes import GradientsConfig, ProbeJob
from raylab.data.prepare import Prepared
from raylab.model import Encoder
from raylab.model.places import Place
from raylab.probes.objective import Objective, open_encoder, open_text
from raylab.probes.tables import COSINES, write_table
from raylab.seeding import seed_of
from raylab.train.engine import global_generator
from raylab.train.gradients import METRIC, Vector, cosines, inner_products, pairs
from raylab.train.gradients import cosine as cosine
from raylab.train.precision import Precision
from raylab.train.run import Measurement

Gradient = dict[str, Tensor]


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
            "gradient_cosine": {m.name.removeprefix(METRIC): m.value for m in self._measured(last)},
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
            values[f"{METRIC}{row['first']}-{row['second']}{suffix}"].append(row["cosine"])
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
