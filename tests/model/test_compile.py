"""Compiled layers do what the others do, and are compiled once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.func import functional_call

from raylab.config import ModelConfig
from raylab.data.masking import predicted
from raylab.model import Encoder

LANGUAGES = ("en", "fr")


class Objective(nn.Module):
    """The loss as a module's `forward`, which is what `functional_call` calls."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, language: str, seed: int, dropout_seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(5, 50, (4, 8), generator=generator)
        chosen = torch.rand(4, 8, generator=generator) < 0.3  # so many of the 32 that their number differs by seed
        inputs, labels = tokens.masked_fill(chosen, 4), tokens.masked_fill(~chosen, -100)
        torch.manual_seed(dropout_seed)
        return self.encoder.mlm_loss(inputs, *predicted(labels), language)


def make_objective(*, compiled: bool, dropout: float = 0.0) -> Objective:
    torch.manual_seed(0)
    config = ModelConfig(num_layers=3, dim=16, num_heads=2, ffn_dim=32, max_length=8, dropout=dropout)
    objective = Objective(Encoder(config, 50, LANGUAGES, "meta_adapter"))
    if compiled:
        objective.encoder.compile_layers()
    return objective


def measure(objective: Objective, language: str, seed: int) -> list[Tensor]:
    """Losses and gradients of a plain step, and of passes with other parameters as a meta step makes them."""
    encoder = objective.encoder
    loss = objective(language, seed)
    own = encoder.specific_parameters(language)
    found = [loss, *torch.autograd.grad(loss, [*encoder.shared_parameters().values(), *own.values()])]
    phi = {f"encoder.{name}": tensor.detach().requires_grad_() for name, tensor in own.items()}
    for needs_gradient in (True, False):
        theta = {
            f"encoder.{name}": (1.1 * tensor.detach()).requires_grad_(needs_gradient)
            for name, tensor in encoder.shared_parameters().items()
        }
        loss = functional_call(objective, {**theta, **phi}, (language, seed), tie_weights=False)
        wanted = [*phi.values(), *theta.values()] if needs_gradient else [*phi.values()]
        found += [loss, *torch.autograd.grad(loss, wanted)]
    return found


@pytest.mark.slow
def test_compiled_layers_are_the_layers() -> None:
    eager, compiled = make_objective(compiled=False), make_objective(compiled=True)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    graphs = []
    for language, seed in (("en", 0), ("fr", 0), ("en", 1), ("fr", 2)):
        for expected, found in zip(measure(eager, language, seed), measure(compiled, language, seed), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert set(graphs) == {graphs[0]}  # nothing was compiled for the second language, or after the first step
    with torch.compiler.set_stance("force_eager"):
        assert torch.equal(compiled("en", 0), eager("en", 0))


@pytest.mark.slow
def test_dropout_of_compiled_layers_follows_the_generator() -> None:
    objective = make_objective(compiled=True, dropout=0.5)

    def gradient(seed: int) -> Tensor:
        (found,) = torch.autograd.grad(objective("en", 0, seed), objective.encoder.positions.weight)
        return found

    assert torch.equal(gradient(0), gradient(0))
    assert not torch.allclose(gradient(0), gradient(1))
