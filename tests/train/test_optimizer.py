from __future__ import annotations

import pytest
import torch
from torch import nn

from raylab.config import ModelConfig, PretrainConfig
from raylab.model import Encoder
from raylab.train.optimizer import adam_factors, make_optimizer


def make_model() -> Encoder:
    torch.manual_seed(0)
    return Encoder(ModelConfig(num_layers=1, dim=16, num_heads=2, ffn_dim=32), 50, ("aa", "bb"), "adapter")


def test_matrices_decay_and_vectors_do_not() -> None:
    model = make_model()
    optimizer = make_optimizer(model, PretrainConfig(weight_decay=0.1, learning_rate=0.5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.5 * 0.1 if parameter.ndim == 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_without_decay_it_is_adam() -> None:
    first, second = make_model(), make_model()
    config = PretrainConfig(learning_rate=1e-2, adam_betas=(0.8, 0.95), adam_epsilon=1e-6)
    optimizers = [
        make_optimizer(first, config),
        torch.optim.Adam(second.parameters(), lr=1e-2, betas=(0.8, 0.95), eps=1e-6),
    ]
    for step in range(3):
        for model, optimizer in zip((first, second), optimizers, strict=True):
            torch.manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("steps_before", [0, 1, 5])
def test_adam_factors_are_what_adam_would_multiply_by(steps_before: int) -> None:
    """Without a first moment (beta1 of 0) a step of Adam is learning rate x factor x gradient."""
    model = nn.Linear(4, 3)
    config = PretrainConfig(learning_rate=0.1, adam_betas=(0.0, 0.9), adam_epsilon=1e-3)
    optimizer = make_optimizer(model, config)
    for _ in range(steps_before):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    parameters = dict(model.named_parameters())
    gradients = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    factors = adam_factors(optimizer, parameters, gradients)
    expected = {name: p.detach() - 0.1 * factors[name] * gradients[name] for name, p in parameters.items()}
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()
    optimizer.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), expected[name])
