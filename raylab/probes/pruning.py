"""Sharing of parameters: one mask over frozen weights per language, and how alike the masks are (paper, Figure 4).

A mask z has a value for each group of parameters, drawn from the Hard Concrete distribution (Louizos, Welling and
Kingma 2017, Learning Sparse Neural Networks through L0 Regularization): with u ~ U(0, 1), temperature beta and stretch
(gamma, zeta),

    s = sigmoid((log u - log(1 - u) + log alpha) / beta)                      binary concrete, their Eq. 10
    z = min(1, max(0, s (zeta - gamma) + gamma))                              hard concrete, Eq. 11
    P(z != 0) = sigmoid(log alpha - beta log(-gamma / zeta))                  Eq. 12
    z^ = min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma))            without noise, Eq. 13

For one language alone, with the weights theta frozen, log alpha (the paper's pi) is what minimises

    E_z [ L_MLM(theta * z) ] + lambda * sum_g |g| P(z_g != 0) / sum_g |g|     paper, Eq. 1; |g|: parameters of group g

Languages are compared by the cosines of their log alpha, and each language with itself by those of other draws.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raylab.config.probes import ProbeJob, PruningConfig
from raylab.data.prepare import Prepared
from raylab.model.places import Place
from raylab.probes.masks import Masks
from raylab.probes.objective import Objective, open_encoder, open_text
from raylab.probes.similarity import compare_masks, language_specific
from raylab.probes.tables import GROUPS, MASK_COSINES, write_table
from raylab.seeding import generator, seed_of
from raylab.train.gradients import Vector
from raylab.train.masked_text import Batch
from raylab.train.precision import Precision
from raylab.train.run import Measurement

MEASURE_EVERY = 50  # steps between two measurements of a mask's training
_VALIDATION_SEED = 0  # as pretraining's
_SMALLEST = 1e-6  # u and 1 - u, whose logarithms are taken
_GAIN, _RATE = 10.0, 0.1  # of the multiplier that holds a target sparsity: of the gap, and of its sum over steps


class HardConcrete(nn.Module):
    """A random mask in [0, 1], with mass at 0 and at 1, and a gradient for how likely these are.

    Args:
        num_groups: Values of the mask, G.
        temperature: beta, over 0; the larger, the less mass at 0 and 1.
        stretch: gamma < 0 and zeta > 1.
        initial: log alpha of all groups at first.

    Attributes:
        log_alpha: [G] location; over 0, a group is rather kept.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> gates = HardConcrete(3)
        >>> gates.sample().shape, round(gates.expected_l0().item(), 3)
        (torch.Size([3]), 2.495)
    """

    def __init__(
        self,
        num_groups: int,
        temperature: float = 2 / 3,
        stretch: tuple[float, float] = (-0.1, 1.1),
        *,
        initial: float = 0.0,
    ):
        super().__init__()
        if num_groups < 1 or not temperature > 0 or not stretch[0] < 0 or not stretch[1] > 1:
            raise ValueError(
                f"found {num_groups} groups, temperature {temperature} and stretch {stretch}; expected at least 1, "
                "over 0, and an interval that begins below 0 and ends above 1"
            )
        self.temperature = temperature
        self.stretch = stretch
        self.log_alpha = nn.Parameter(torch.full((num_groups,), float(initial)))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A mask [G], through which the gradient of `log_alpha` flows.

        Args:
            generator: On the CPU, wherever the mask is; by default torch's global one.
        """
        u = torch.rand(self.log_alpha.shape, generator=generator).clamp_(_SMALLEST, 1 - _SMALLEST)
        noise = torch.logit(u).to(self.log_alpha)
        return self._stretched((noise + self.log_alpha) / self.temperature)

    def mask(self) -> Tensor:
        """The mask [G] without noise."""
        return self._stretched(self.log_alpha)

    def active(self) -> Tensor:
        """P(z != 0) of each group. [G]"""
        low, high = self.stretch
        return torch.sigmoid(self.log_alpha - self.temperature * math.log(-low / high))

    def expected_l0(self) -> Tensor:
        """The expected number of groups that are not 0, a scalar."""
        return self.active().sum()

    def _stretched(self, logits: Tensor) -> Tensor:
        low, high = self.stretch
        return (torch.sigmoid(logits) * (high - low) + low).clamp(0.0, 1.0)


class PruningProbe:
    """Trains the masks of one model one after the other; a `raylab.probes.run.Probe`.

    A step of one mask is a unit of work. Weights are frozen and without dropout: the mask is noise enough.

    Args:
        job: With `pruning`.
        model: The model's folder.
        prepared: The text.
        device: Where to train.

    Raises:
        InputError: The model lacks a language.
    """

    def __init__(self, job: ProbeJob, model: Path, prepared: Prepared, device: torch.device):
        assert job.pruning is not None
        assert job.pruning.batch_size is not None
        self.job = job
        self.done = 0
        self._config: PruningConfig = job.pruning
        self._device = device
        self._sets = [Vector(name, repeat) for name in job.languages for repeat in range(self._config.repeats)]
        self.total = len(self._sets) * self._config.steps
        encoder = open_encoder(model, job.languages).to(device).requires_grad_(False)
        self._masks = Masks(encoder, self._config.groups)
        self._shares = self._masks.sizes.to(device, torch.float32) / self._masks.sizes.sum()  # [G]
        self._precision = Precision(job.precision, device)
        self._objective = Objective(encoder, self._precision)
        size = job.pruning.batch_size
        self._text = {
            vector: open_text(
                job, prepared, self._config.split, vector.language, batch_size=size, seed=self._seed(vector, "text")
            )
            for vector in self._sets
        }
        self._valid: dict[str, list[Batch]] = {
            name: open_text(job, prepared, "valid", name, batch_size=size, seed=_VALIDATION_SEED).in_order(
                job.valid_batches
            )
            for name in (job.languages if job.valid_batches else ())
        }
        self._found: dict[Vector, Tensor] = {}  # log alpha [G] of the sets that are done, on the CPU
        self._perplexity: dict[str, dict[str, float]] = {}  # by mask, then by text
        self._losses: list[Tensor] = []
        self._start()

    def step(self) -> list[Measurement]:
        """Train one mask by one step; the last step of all compares the masks."""
        place, number = divmod(self.done, self._config.steps)
        vector = self._sets[place]
        self._train(vector, number)
        self.done += 1
        measurements = []
        if (number + 1) % MEASURE_EVERY == 0 or number + 1 == self._config.steps:
            measurements += self._measure_training(vector, number + 1)
        if number + 1 == self._config.steps:
            self._found[vector] = self._gates.log_alpha.detach().cpu().clone()
            self._evaluate(vector)
            self._start()
        if self.done == self.total:
            measurements += self._measure()
        return measurements

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as a copy."""
        state = {
            "done": self.done,
            "gates": self._gates.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "multiplier": self._multiplier,
            "found": {tuple(vector): tensor for vector, tensor in self._found.items()},
            "perplexity": self._perplexity,
            "losses": self._losses,
        }
        return copy.deepcopy(state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state, which stays as it is."""
        state = copy.deepcopy(state)  # the optimizer keeps the tensors that it is given
        self._start()
        self.done = state["done"]
        self._gates.load_state_dict(state["gates"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._multiplier = state["multiplier"]
        self._found = {Vector(*vector): tensor for vector, tensor in state["found"].items()}
        self._perplexity = state["perplexity"]
        self._losses = [loss.to(self._device) for loss in state["losses"]]

    def finish(self, folder: Path) -> dict[str, Any]:
        """Write `cosines.parquet` and `groups.parquet`; see `raylab.probes.tables`.

        Returns:
            `groups` and `parameters` that were masked; by language, `sparsity`, the share of these parameters that its
            masks remove; `perplexity` by mask ("none": without) and by text; by pair and place, `mask_cosine`, of log
            alpha; by pair, `opposed`, the share of groups whose log alpha differ in sign, and of two languages the most
            `language_specific` groups by name.
        """
        masks, rows = self._final_masks(), self._rows()
        write_table(folder / "cosines.parquet", rows, MASK_COSINES)
        write_table(folder / "groups.parquet", self._group_columns(masks), GROUPS)
        names, most = self._masks.names(), self._config.listed
        return {
            "groups": self._masks.count,
            "parameters": int(self._masks.sizes.sum()),
            "sparsity": self._sparsity(masks),
            "perplexity": self._perplexity,
            "mask_cosine": _means(rows, "cosine"),
            "opposed": _means([row for row in rows if row["layer"] is None and row["module"] is None], "opposed"),
            "language_specific": language_specific(self._found, names, self.job.languages, most),
        }

    def _start(self) -> None:
        """Begin a mask."""
        config = self._config
        gates = HardConcrete(self._masks.count, config.temperature, config.stretch, initial=config.initial)
        self._gates = gates.to(self._device)
        self._optimizer = torch.optim.Adam([self._gates.log_alpha], lr=config.learning_rate)
        self._multiplier = 0.0 if config.target_sparsity is not None else config.penalty
        self._losses = []

    def _train(self, vector: Vector, number: int) -> None:
        batch = self._text[vector].batch(number)
        noise = generator(self._seed(vector, "noise"), number)
        for group in self._optimizer.param_groups:
            group["lr"] = self._config.learning_rate * (1 - number / self._config.steps)
        with self._precision.matmuls(), self._masks.applied(self._gates.sample(noise)):
            loss, count = self._objective(batch)
            loss = loss / count
            density = (self._gates.active() * self._shares).sum()
            self._optimizer.zero_grad()
            (loss + self._price(density.detach()) * density).backward()
        self._optimizer.step()
        self._losses.append(loss.detach())

    def _price(self, density: Tensor) -> Tensor | float:
        """lambda; where a sparsity is to be met, from the gap to it and what the gaps add up to so far."""
        if self._config.target_sparsity is None:
            return self._multiplier
        gap = density.item() - (1 - self._config.target_sparsity)
        self._multiplier += _RATE * gap
        return self._multiplier + _GAIN * gap

    def _measure_training(self, vector: Vector, step: int) -> list[Measurement]:
        """Means of the steps since the last one."""
        losses = torch.stack([loss.cpu() for loss in self._losses]).tolist()
        if not all(math.isfinite(loss) for loss in losses):
            raise FloatingPointError(
                f"a loss is not a number at step {step} of mask {vector.repeat} of {vector.language}; "
                "a lower probes.pruning.learning_rate may help"
            )
        self._losses = []
        name = f"{vector.language}/{vector.repeat}"
        sparsity = 1 - (self._gates.active() * self._shares).sum().item()
        return [
            Measurement(f"pruning/loss/{name}", sum(losses) / len(losses), step),
            Measurement(f"pruning/expected_sparsity/{name}", sparsity, step),
        ]

    def _evaluate(self, vector: Vector) -> None:
        """Perplexity of all languages under the mask that is done, and, once, without a mask."""
        if vector.repeat or not self._valid:
            return
        if not self._perplexity:
            self._perplexity["none"] = {name: self._objective.perplexity(text) for name, text in self._valid.items()}
        with torch.no_grad(), self._masks.applied(self._gates.mask()):
            found = {name: self._objective.perplexity(text) for name, text in self._valid.items()}
        self._perplexity[vector.language] = found

    def _measure(self) -> list[Measurement]:
        """How alike the masks are, by the pretraining's step."""
        found = {f"pruning/cosine/{name}": value for name, value in _means(self._rows(), "cosine").items()}
        found |= {f"pruning/sparsity/{name}": value for name, value in self._sparsity(self._final_masks()).items()}
        if self._valid:
            found |= {f"pruning/perplexity/{name}": self._perplexity[name][name] for name in self.job.languages}
        return [Measurement(name, value, self.job.step) for name, value in found.items()]

    def _rows(self) -> list[dict[str, Any]]:
        """Of `cosines.parquet`."""
        rows = compare_masks(self._found, self._final_masks(), self._masks, self.job.languages)
        return [{"step": self.job.step, **row} for row in rows]

    def _final_masks(self) -> dict[Vector, Tensor]:
        gates = HardConcrete(self._masks.count, self._config.temperature, self._config.stretch)
        masks = {}
        for vector, log_alpha in self._found.items():
            gates.log_alpha.data = log_alpha
            masks[vector] = gates.mask().detach()
        return masks

    def _sparsity(self, masks: Mapping[Vector, Tensor]) -> dict[str, float]:
        """Mean over a language's masks of the share of parameters that they remove."""
        sizes, found = self._masks.sizes, {}
        for name in self.job.languages:
            removed = [
                sizes[mask == 0].sum() / sizes.sum() for vector, mask in masks.items() if vector.language == name
            ]
            found[name] = torch.stack(removed).double().mean().item()
        return found

    def _group_columns(self, masks: Mapping[Vector, Tensor]) -> dict[str, Any]:
        """Of `groups.parquet`."""
        sites, times = self._masks.sites, len(masks)
        return {
            "group": self._masks.names() * times,
            "layer": [site.place.layer for site in sites for _ in site.names] * times,
            "module": [site.place.module for site in sites for _ in site.names] * times,
            "language": [vector.language for vector in masks for _ in range(self._masks.count)],
            "repeat": [vector.repeat for vector in masks for _ in range(self._masks.count)],
            "log_alpha": torch.cat([self._found[vector] for vector in masks]).numpy(),
            "mask": torch.cat(list(masks.values())).numpy(),
            "parameters": self._masks.sizes.tolist() * times,
        }

    def _seed(self, vector: Vector, purpose: str) -> int:
        return seed_of(self.job.seed, "pruning probe", purpose, *vector)


def _means(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, float]:
    """Mean of a column over repeats, by pair of languages and place: `en-fr/layer.0.attention`."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows:
        suffix = Place(row["layer"], row["module"]).suffix
        values[f"{row['first']}-{row['second']}{suffix}"].append(row[column])
    return {name: sum(found) / len(found) for name, found in values.items()}
