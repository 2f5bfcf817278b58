"""Where a parameter stands in the encoder, as probes report it: a layer and a module."""

from __future__ import annotations

import re
from typing import NamedTuple

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_NORMS = ("norm", "attention_norm", "feed_forward_norm")
_ADAPTERS = ("attention_adapter", "feed_forward_adapter")


class Place(NamedTuple):
    """A part of the encoder.

    Attributes:
        layer: From 0; None: of no layer, or of all of them together.
        module: `embeddings`, `attention`, `ffn`, `norm` or `adapter`; None: all of them together.
    """

    layer: int | None
    module: str | None

    @property
    def suffix(self) -> str:
        """What follows a metric's name: "", "/attention", "/layer.0" or "/layer.0.attention"."""
        words = ([] if self.layer is None else [f"layer.{self.layer}"]) + ([self.module] if self.module else [])
        return "/" + ".".join(words) if words else ""

    def around(self) -> list[Place]:
        """The parts that this one belongs to: the model, its layer, its module in all layers, and itself."""
        return list(dict.fromkeys([Place(None, None), Place(self.layer, None), Place(None, self.module), self]))


def place_of(parameter: str) -> Place:
    """Where the encoder's parameter of this name stands.

    Example:
        >>> place_of("layers.1.attention.query_key_value.weight").suffix
        '/layer.1.attention'
        >>> place_of("tokens.weight").suffix
        '/embeddings'
    """
    found = _LAYER.match(parameter)
    layer, rest = (int(found[1]), found[2]) if found else (None, parameter)
    part = rest.split(".")[0]
    if part in _NORMS:
        return Place(layer, "norm")
    if layer is None:
        return Place(None, "embeddings")  # of tokens and positions, and the output's bias
    if part in _ADAPTERS:
        return Place(layer, "adapter")
    return Place(layer, {"attention": "attention", "feed_forward": "ffn"}[part])
