"""Angles between gradients: how alike what languages ask of the parameters that they share is (paper, Figure 3).

    cos(i, j) = mean over repeats r, s of  g_ir . g_js / (||g_ir|| ||g_js||),     r < s where i = j

for each pair of languages and, as the baseline, for each language with itself: over all shared parameters, per layer,
per module and per module of a layer. All of them follow from the inner products of the gradients, one matrix for each
place, summed in float64.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raylab.model.places import Place, place_of
from raylab.train.run import Measurement

METRIC = "gradient/cosine/"
"""What the names of measured cosines begin with; two languages and a place follow, as `en-hi/layer.0.attention`."""

WINDOWS_OF_PLACES = 10
"""Windows of a `GradientWatch` that its cosines of single layers and modules are means of."""

_AT_ONCE = 1 << 20  # elements that are in float64 at one time, of each gradient


class Vector(NamedTuple):
    """One of several independent measurements of a language."""

    language: str
    repeat: int


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


def cosines(inner: Tensor) -> Tensor:
    """[K, K] from inner products [K, K]; 0 where a vector is all zeros."""
    norms = inner.diagonal().sqrt()
    scale = norms[:, None] * norms[None, :]
    return torch.where(scale > 0, inner / scale, 0.0).clamp(-1.0, 1.0)


def pairs(languages: Sequence[str], vectors: Sequence[Vector]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """The places of the vectors to compare, for each pair of languages and each language with itself.

    Of one language, only vectors of different repeats; a language with one repeat alone has none and is left out.
    """
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for first, second in combinations_with_replacement(languages, 2):
        of = [[place for place, vector in enumerate(vectors) if vector.language == name] for name in (first, second)]
        compared = list(combinations(of[0], 2)) if first == second else list(product(of[0], of[1]))
        if compared:
            found[first, second] = compared
    return found


class GradientWatch:
    """Compares the gradients that training has computed anyway, which costs no pass.

    The gradients of a language's batches are summed over a window of steps, those of every second batch by themselves:
    two sums of one language are the baseline of two sums of different ones. The weights move in the meantime, by as
    much as they do in so many steps. A language, or a pair, of which a window has too few batches has no cosine there.

    Args:
        languages: In their order.
        every: Steps of a window.
    """

    def __init__(self, languages: Sequence[str], every: int) -> None:
        self._languages = tuple(languages)
        self._every = every
        self._sums: dict[Vector, dict[str, Tensor]] = {}
        self._batches: Counter[Vector] = Counter()
        self._of_places: defaultdict[str, list[float]] = defaultdict(list)
        self._windows = 0

    def add(self, language: str, gradient: Mapping[str, Tensor], scale: float) -> None:
        """Take note of one batch's gradient.

        Args:
            language: Of the batch.
            gradient: Of its mean loss times `scale`, by the encoder's parameter names. It is not changed.
            scale: The loss scale.
        """
        vector = min((Vector(language, repeat) for repeat in range(2)), key=lambda vector: self._batches[vector])
        self._batches[vector] += 1
        into = self._sums.setdefault(vector, {})
        for name in gradient.keys() - into.keys():
            into[name] = torch.zeros_like(gradient[name])
        torch._foreach_add_([into[name] for name in gradient], list(gradient.values()), alpha=1 / scale)

    def measured(self, step: int) -> list[Measurement]:
        """What the window that ends with this step gave; nothing within a window, or where a gradient overflowed.

        Over all shared parameters, and every tenth time also the mean of ten windows at each place.
        """
        if step % self._every:
            return []
        vectors = sorted(self._sums)
        products = inner_products([self._sums[vector] for vector in vectors])
        self._sums = {}
        self._batches.clear()
        self._windows += 1
        found = []
        if all(bool(inner.isfinite().all()) for inner in products.values()):
            for place, inner in products.items():
                cosine_of = cosines(inner).tolist()
                for (first, second), compared in pairs(self._languages, vectors).items():
                    name = f"{METRIC}{first}-{second}{place.suffix}"
                    value = sum(cosine_of[i][j] for i, j in compared) / len(compared)
                    if place == Place(None, None):
                        found.append(Measurement(name, value, step))
                    else:
                        self._of_places[name].append(value)
        if self._windows % WINDOWS_OF_PLACES == 0:
            found += [Measurement(name, sum(of) / len(of), step) for name, of in self._of_places.items()]
            self._of_places.clear()
        return found

    def state(self) -> dict[str, Any]:
        """What later windows depend on; tensors are not copied."""
        return {
            "sums": [(*vector, dict(tensors)) for vector, tensors in self._sums.items()],
            "batches": [(*vector, count) for vector, count in self._batches.items()],
            "of_places": dict(self._of_places),
            "windows": self._windows,
        }

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what `state` gave; the tensors become this watch's."""
        self._sums = {
            Vector(language, repeat): {name: tensor.to(device) for name, tensor in tensors.items()}
            for language, repeat, tensors in state["sums"]
        }
        self._batches = Counter({Vector(language, repeat): count for language, repeat, count in state["batches"]})
        self._of_places = defaultdict(list, state["of_places"])
        self._windows = state["windows"]


def _inner(gradients: Sequence[Mapping[str, Tensor]], name: str) -> Tensor:
    """[K, K] over one tensor; in float64 on the device too, where a float32 product may round to TensorFloat-32."""
    like = next(gradient[name] for gradient in gradients if name in gradient)
    rows = [(gradient[name] if name in gradient else torch.zeros_like(like)).flatten() for gradient in gradients]
    inner = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=like.device)
    for parts in zip(*(row.split(_AT_ONCE) for row in rows), strict=True):
        stacked = torch.stack(parts).double()  # [K, n]
        inner += stacked @ stacked.T
    return inner.cpu()
