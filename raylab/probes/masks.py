"""Groups of an encoder's shared parameters, and the encoder with some of them scaled or removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from raylab.model import Encoder
from raylab.model.modules import Attention, PerLanguage
from raylab.model.places import Place, place_of


class Site(NamedTuple):
    """Neighbouring groups of one linear map.

    Attributes:
        module: The linear map's path.
        place: Layer and module that it belongs to.
        first: Number of the first group.
        names: Of its groups.
        width: Neighbouring inputs of the linear map that a group scales; 0: it scales one output, weight row and bias.
        parameters: Of one group.
    """

    module: str
    place: Place
    first: int
    names: list[str]
    width: int
    parameters: int


class Masks:
    """The groups of an encoder's shared projections, in attention, feed-forward layers and shared adapters.

    A mask multiplies what a projection gives, which is to multiply its row of weights and bias, but needs no gradient
    of the weights. The mask of a head multiplies what the output projection takes from it: at 0, the head might as well
    not be there. Embeddings, norms and what one language has for itself are left alone.

    Args:
        encoder: The model; hooks are put on its projections, which do nothing without a mask.
        groups: `rows`, or `heads`: attention by heads, all else by rows.

    Attributes:
        sites: In the order of the model.
        count: Groups, G.
        sizes: [G] parameters of each group, on the CPU.
    """

    def __init__(self, encoder: Encoder, groups: str = "rows"):
        self._mask: Tensor | None = None
        self.sites: list[Site] = []
        first = 0
        for module, names, width, parameters in _projections(encoder, groups):
            self.sites.append(Site(module, place_of(module), first, names, width, parameters))
            first += len(names)
            self._hook(encoder.get_submodule(module), self.sites[-1])
        self.count = first
        self.sizes = torch.cat([torch.full((len(site.names),), site.parameters) for site in self.sites])

    @contextmanager
    def applied(self, mask: Tensor) -> Iterator[None]:
        """The encoder computes with this mask [G]; gradients flow to it."""
        self._mask = mask
        try:
            yield
        finally:
            self._mask = None

    def names(self) -> list[str]:
        """Of all groups, such as `layer.0.attention.query.17`. [G]"""
        return [name for site in self.sites for name in site.names]

    def places(self) -> dict[Place, Tensor]:
        """The numbers of the groups in each place, the whole model first."""
        found: dict[Place, list[Tensor]] = {}
        for site in self.sites:
            numbers = torch.arange(site.first, site.first + len(site.names))
            for place in site.place.around():
                found.setdefault(place, []).append(numbers)
        return {place: torch.cat(numbers) for place, numbers in found.items()}

    def _hook(self, module: nn.Module, site: Site) -> None:
        part = slice(site.first, site.first + len(site.names))

        def scale_output(module: nn.Module, arguments: Any, output: Tensor) -> Tensor | None:
            return None if self._mask is None else output * self._mask[part].to(output.dtype)

        def scale_input(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor] | None:
            if self._mask is None:
                return None
            factors = self._mask[part].repeat_interleave(site.width)
            return (arguments[0] * factors.to(arguments[0].dtype),)

        if site.width:
            module.register_forward_pre_hook(scale_input)
        else:
            module.register_forward_hook(scale_output)


def _projections(encoder: Encoder, groups: str) -> Iterator[tuple[str, list[str], int, int]]:
    """Path, names of the groups, width and parameters of a group, of each projection that languages share."""
    for path, module in encoder.named_modules():
        owner = encoder.get_submodule(path.rpartition(".")[0])
        if not isinstance(module, nn.Linear) or f".{PerLanguage.key('')}" in path:
            continue
        name = place_of(path).suffix.removeprefix("/")
        row = module.in_features + (module.bias is not None)
        if not isinstance(owner, Attention):
            last = path.rpartition(".")[2]
            which = f"{path.split('.')[2].removesuffix('_adapter')}_{last}" if "adapter" in path else last
            yield path, [f"{name}.{which}.{number}" for number in range(module.out_features)], 0, row
        elif groups == "rows" and module is owner.query_key_value:
            each = range(owner.num_heads * owner.head_dim)
            parts = ("query", "key", "value")
            yield path, [f"{name}.{part}.{number}" for part in parts for number in each], 0, row
        elif groups == "rows":
            yield path, [f"{name}.output.{number}" for number in range(module.out_features)], 0, row
        elif module is owner.output:
            into = cast(nn.Linear, owner.query_key_value)
            parameters = owner.head_dim * (3 * (into.in_features + 1) + module.out_features)
            yield path, [f"{name}.head.{number}" for number in range(owner.num_heads)], owner.head_dim, parameters
