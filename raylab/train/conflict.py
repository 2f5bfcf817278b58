"""Gradient surgery: mend the gradients that L languages give the shared parameters before they are added up.

Both methods change the gradient of each language i by multiples of the others' gradients, one language j after the
other in a random order, and compare the gradient g'_i as changed so far with the original g_j. Hence g'_i stays a
combination sum_j C_ij g_j, and all inner products follow from those of the originals: one pass over the gradients finds
the L x L inner products, C is computed on the host, and one more pass combines. The sums are the sequential
definitions', not an approximation of them.

PCGrad (Yu et al. 2020, Gradient Surgery for Multi-Task Learning, Algorithm 1): where g'_i . g_j < 0, the component
along g_j is removed,

    g'_i <- g'_i - (g'_i . g_j) / ||g_j||^2 g_j

GradVac (Wang et al. 2021, Gradient Vaccine): where the cosine p of g'_i and g_j is
below its moving average q, g_j is added until the cosine is q,

    g'_i <- g'_i + ||g'_i|| (q sqrt(1 - p^2) - p sqrt(1 - q^2)) / (||g_j|| sqrt(1 - q^2)) g_j

and then, changed or not, q <- (1 - decay) q + decay p, with p as it was before the change. There is a q for each
ordered pair (i, j) and each group of parameters, 0 at first: until it moves, GradVac does what PCGrad does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from raylab.config import ConflictConfig

Parameters = dict[str, Tensor]
Granularity = Literal["model", "layer"]

_LAYER = re.compile(r"(?:^|\.)layers\.\d+\.")
_LARGEST_TARGET = 1 - 1e-6  # no finite multiple of g_j reaches a cosine of 1


class Mended(NamedTuple):
    """Mended gradients, and how much there was to mend.

    Attributes:
        gradients: For each language, by name; every name that any language had. A gradient that did not change is the
            very tensor that was given.
        cosines: [K, L, L] float64 on the CPU, for each of K groups of parameters the cosines between the gradients as
            they were given; 0 where one of the two is all zeros.
    """

    gradients: list[Parameters]
    cosines: Tensor

    @property
    def cosine(self) -> float:
        """Mean cosine over pairs of languages and groups; 0 if there are no pairs."""
        pairs = self._pairs()
        return pairs.mean().item() if pairs.numel() else 0.0

    @property
    def conflicts(self) -> float:
        """Share of the pairs of languages and groups whose cosine is negative."""
        pairs = self._pairs()
        return (pairs < 0).double().mean().item() if pairs.numel() else 0.0

    def _pairs(self) -> Tensor:
        languages = self.cosines.shape[-1]
        rows, columns = torch.triu_indices(languages, languages, offset=1)
        return self.cosines[:, rows, columns]


class Surgery(Protocol):
    """A method of mending."""

    def mend(self, gradients: Sequence[Parameters], generator: torch.Generator) -> Mended:
        """Mend the gradients of one step.

        Args:
            gradients: For each language, in every step the same languages in the same order, its gradient by name; a
                missing one counts as zeros. They are not changed.
            generator: Of the order in which a gradient is compared with the others; on the CPU.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What later steps depend on, as a copy that they do not change."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class PCGrad:
    """Projects conflicting gradients onto each other's normal plane.

    Args:
        granularity: `model`: compare gradients as one vector of all parameters. `layer`: each layer by itself, and what
            is in no layer, such as embeddings, as one more.

    Example:
        >>> gradients = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([-1.0, 1.0])}]
        >>> mended = PCGrad().mend(gradients, torch.Generator())
        >>> [gradient["w"].tolist() for gradient in mended.gradients], round(mended.cosine, 3), mended.conflicts
        ([[0.5, 0.5], [0.0, 1.0]], -0.707, 1.0)
    """

    def __init__(self, granularity: Granularity = "model"):
        self._granularity = granularity

    def mend(self, gradients: Sequence[Parameters], generator: torch.Generator) -> Mended:
        """See `Surgery.mend`."""
        return _mend(gradients, self._granularity, generator, _projection)

    def state(self) -> dict[str, Any]:
        """See `Surgery.state`."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Surgery.load_state`."""


class GradVac:
    """Raises the cosines of gradients to their moving averages.

    Args:
        decay: Weight of a new cosine in the moving average, over 0 and at most 1; Wang et al. take 0.01.
        granularity: As `PCGrad`'s.
    """

    def __init__(self, decay: float = 0.01, granularity: Granularity = "model"):
        self._decay = decay
        self._granularity = granularity
        self._averages: dict[tuple[str, int, int], float] = {}  # of cosines, by group, i and j

    def mend(self, gradients: Sequence[Parameters], generator: torch.Generator) -> Mended:
        """See `Surgery.mend`."""

        def change(pair: _Pair) -> float:
            average = self._averages.get(pair.key, 0.0)
            self._averages[pair.key] = (1 - self._decay) * average + self._decay * pair.cosine
            target = min(average, _LARGEST_TARGET)
            return _multiple(pair, target) if pair.cosine < target else 0.0

        return _mend(gradients, self._granularity, generator, change)

    def state(self) -> dict[str, Any]:
        """See `Surgery.state`."""
        return {"averages": dict(self._averages)}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Surgery.load_state`."""
        self._averages = dict(state["averages"])


SURGERY: dict[str, Callable[[ConflictConfig], Surgery]] = {  # by variant
    "pcgrad": lambda config: PCGrad(config.granularity),
    "gradvac": lambda config: GradVac(config.decay, config.granularity),
}


class _Pair(NamedTuple):
    """The gradient of language i as changed so far, and the original one of language j, both over one group.

    Attributes:
        key: The group, i and j.
        norm: ||g'_i||, not 0.
        other_norm: ||g_j||, not 0.
        cosine: Of g'_i and g_j, from -1 to 1.
    """

    key: tuple[str, int, int]
    norm: float
    other_norm: float
    cosine: float


def _projection(pair: _Pair) -> float:
    """The multiple of g_j that PCGrad adds to g'_i."""
    return -min(pair.cosine, 0.0) * pair.norm / pair.other_norm


def _multiple(pair: _Pair, target: float) -> float:
    """The multiple of g_j whose addition to g'_i makes their cosine the target."""
    cosine = pair.cosine
    sines = [math.sqrt(1 - value**2) for value in (cosine, target)]
    return pair.norm * (target * sines[0] - cosine * sines[1]) / (pair.other_norm * sines[1])


def _mend(
    gradients: Sequence[Parameters],
    granularity: Granularity,
    generator: torch.Generator,
    change: Callable[[_Pair], float],
) -> Mended:
    """Add to each language's gradient the multiples of the others' that `change` says, one after the other."""
    groups = _groups(gradients, granularity)
    products = _inner_products(gradients, groups)
    if not products.isfinite().all():  # an overflow in float16, whose step is skipped: it must leave no trace
        return Mended(list(gradients), torch.zeros_like(products))
    mended: list[Parameters] = [{} for _ in gradients]
    for (group, names), inner in zip(groups.items(), products, strict=True):
        coefficients = _coefficients(group, inner, generator, change)
        for name in names:
            for gradient, row in zip(mended, coefficients.tolist(), strict=True):
                gradient[name] = _combination([other.get(name) for other in gradients], row)
    norms = products.diagonal(dim1=1, dim2=2).sqrt()  # [K, L]
    scale = norms[:, :, None] * norms[:, None, :]  # [K, L, L]
    return Mended(mended, torch.where(scale > 0, products / scale, 0.0))


def _groups(gradients: Sequence[Parameters], granularity: Granularity) -> dict[str, list[str]]:
    """The names of parameters that are compared together, by name of their group."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for gradient in gradients for name in gradient):
        layer = _LAYER.search(name) if granularity == "layer" else None
        groups.setdefault(name[: layer.end()] if layer else "", []).append(name)
    return groups


def _inner_products(gradients: Sequence[Parameters], groups: dict[str, list[str]]) -> Tensor:
    """[K, L, L] the inner products of the gradients in each group, float64, on the CPU.

    In float64 on the device as well, where a product of float32 matrices may be one of tf32.
    """
    products = []
    for names in groups.values():
        inner = torch.zeros((), dtype=torch.float64)
        for name in names:
            given = [gradient.get(name) for gradient in gradients]
            like = next(tensor for tensor in given if tensor is not None)
            rows = torch.stack([(torch.zeros_like(like) if t is None else t).flatten() for t in given]).double()
            inner = inner + rows @ rows.T  # [L, L]
        products.append(inner)
    return torch.stack(products).cpu()


def _coefficients(group: str, inner: Tensor, generator: torch.Generator, change: Callable[[_Pair], float]) -> Tensor:
    """C [L, L], such that g'_i = sum_j C_ij g_j, from the inner products [L, L] of the original gradients."""
    size = len(inner)
    coefficients = torch.eye(size, dtype=torch.float64)
    norms = inner.diagonal().sqrt()
    for i, row in enumerate(coefficients):  # a view: what is added to it changes C
        for j in torch.randperm(size, generator=generator).tolist():
            norm = (row @ inner @ row).clamp(min=0.0).sqrt().item()
            if i == j or norm == 0 or norms[j] == 0:
                continue  # there is no angle with a vector of length 0
            cosine = (row @ inner[:, j]).item() / (norm * norms[j].item())
            row[j] += change(_Pair((group, i, j), norm, norms[j].item(), min(max(cosine, -1.0), 1.0)))
    return coefficients


def _combination(tensors: Sequence[Tensor | None], coefficients: Sequence[float]) -> Tensor:
    """The sum of the tensors times their coefficients; None is a tensor of zeros, at least one is not None."""
    terms = [(c, tensor) for c, tensor in zip(coefficients, tensors, strict=True) if c != 0 and tensor is not None]
    if not terms:
        return torch.zeros_like(next(tensor for tensor in tensors if tensor is not None))
    (first, total), *rest = terms
    total = total if first == 1 else first * total
    for coefficient, tensor in rest:
        total = torch.add(total, tensor, alpha=coefficient)
    return total
