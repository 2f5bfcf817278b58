"""The optimizer of pretraining."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raylab.config import PretrainConfig

_FUSED_DEVICES = ("cpu", "cuda")


def make_optimizer(model: nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) in two groups: matrices decay; vectors (biases and layer norms) do not.

    With `weight_decay` 0, the default, it is Adam. Its step is one fused kernel where PyTorch has one.

    Args:
        model: What to train.
        config: Learning rate, betas, epsilon and weight decay.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.adam_betas,
        eps=config.adam_epsilon,
        fused=parameters[0].device.type in _FUSED_DEVICES,
    )


def adam_factors(
    optimizer: torch.optim.AdamW, parameters: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What Adam would multiply each gradient by in its next step: 1 / (sqrt(v) + epsilon).

    v is the second moment as that step would find it, with the gradient itself in its running mean and the bias
    corrected. The first moment has no part in it.

    Args:
        optimizer: Not changed.
        parameters: By name.
        gradients: By the same names.
    """
    beta, epsilon = optimizer.defaults["betas"][1], optimizer.defaults["eps"]
    factors = {}
    for name, gradient in gradients.items():
        state = optimizer.state.get(parameters[name], {})
        steps = state.get("step", 0.0) + 1  # a tensor once there is a state; to read it would be to wait for a GPU
        moment = gradient.square() * (1 - beta)
        if "exp_avg_sq" in state:
            moment.add_(state["exp_avg_sq"], alpha=beta)
        factors[name] = moment.div_(1 - beta**steps).sqrt_().add_(epsilon).reciprocal_()
    return factors
