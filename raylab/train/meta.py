"""The meta-gradient of language-specific parameters (paper, Eq. 3, 4 and 8).

With theta the shared parameters, phi those of one language, and beta the inner learning rate:

    g      = grad_theta L_train(theta, phi)
    theta' = theta - beta * g
    d, v   = grad_phi, grad_theta' of L_val(theta', phi)
    H v    = grad_phi [ grad_theta L_train(theta, phi) . v ]
    the total derivative of L_val by phi = d - beta * H v

The methods differ in how they find H v and in nothing else. With a forward pass counted as 1, a backward pass as 2, one
to phi alone as 1, and L validation batches as large as the training batch, they cost

    finite_difference    3 + 3 L + 4
    forward_difference   3 + 3 L + 2
    exact                3 + 3 L + about 6, and twice the activations in memory

A finite difference subtracts two gradients that are nearly equal: with a short step it is rounding noise, with a long
one it is curvature. Cosine of the higher-order part with the exact one, relative steps, 2 layers of 64, English and
French text, least and greatest of seven measurements from step 0 to 1500:

    epsilon                             0.001            0.01            0.1             0.3
    central, GELU, float32              1.000 - 1.000    1.000 - 1.000   1.000 - 1.000   0.999 - 1.000
    central, GELU, bfloat16             0.24  - 0.64     0.92  - 0.99    0.999 - 1.000   0.999 - 1.000
    forward, GELU, float32              1.000 - 1.000    1.000 - 1.000   0.996 - 0.999   0.967 - 0.992
    central, ReLU, float32, up to 30    0.14  - 0.35     0.25  - 0.34    0.61  - 0.72    0.81  - 0.84
    central, ReLU, float32, from 100    0.999 - 1.000    0.96  - 1.000   0.998 - 1.000   0.998 - 1.000
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import get_total_norm

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters, Parameters], Tensor]
Inner = tuple[Parameters, Callable[[Parameters], Parameters]]  # g, and the function that maps v to H v


class MetaGradient(NamedTuple):
    """A meta-gradient and its two parts, each by name of the specific parameter.

    Attributes:
        gradient: direct + higher_order.
        direct: d, what reaches phi through the validation loss itself.
        higher_order: -beta * H v, what reaches phi through theta' (Eq. 4), with the sign with which it is added.
    """

    gradient: Parameters
    direct: Parameters
    higher_order: Parameters


def meta_gradient(
    train_loss: Loss,
    val_loss: Loss | Sequence[Loss],
    shared: Mapping[str, Tensor],
    specific: Mapping[str, Tensor],
    *,
    inner_lr: float,
    method: str = "finite_difference",
    epsilon: float = 0.1,
    relative: bool = True,
) -> MetaGradient:
    """Gradient of the validation loss after one inner step, with respect to the specific parameters.

    Args:
        train_loss: Maps (shared, specific) to L_train, a scalar. It is called up to three times and must be the same
            function each time: if the model has dropout, the random stream must be set in here.
        val_loss: Maps (shared, specific) to L_val, a scalar. Or several such functions, whose mean is L_val: then the
            activations of only one of them are in memory at a time.
        shared: theta by name. Neither these tensors nor their `.grad` are changed.
        specific: phi by name, likewise.
        inner_lr: beta, the learning rate of the inner step.
        method: One of `METHODS`.
        epsilon: Step of a finite difference.
        relative: True: the step is epsilon * v / ||v||_2, of length epsilon in the space of theta. False: it is
            epsilon * v, as in the paper's Eq. 8.

    Raises:
        ValueError: The method is unknown.

    Example:
        >>> theta, phi = {"w": torch.tensor(2.0)}, {"a": torch.tensor(3.0)}
        >>> def loss(shared, specific):
        ...     return 0.5 * (shared["w"] * specific["a"]) ** 2
        >>> found = meta_gradient(loss, loss, theta, phi, inner_lr=0.1)
        >>> [round(part["a"].item(), 3) for part in (found.gradient, found.direct, found.higher_order)]
        [-2.04, 0.12, -2.16]
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; one of {', '.join(METHODS)}")
    val_losses = [val_loss] if callable(val_loss) else val_loss
    theta, phi = _leaves(shared), _leaves(specific)
    g, product = METHODS[method](train_loss, theta, phi, epsilon, relative)
    adapted = _moved(theta, -inner_lr, g)
    del g
    direct, v = _validation_gradients(val_losses, adapted, phi)
    del adapted
    higher_order = {name: -inner_lr * tensor for name, tensor in product(v).items()}
    return MetaGradient({name: direct[name] + higher_order[name] for name in phi}, direct, higher_order)


def finite_difference(train_loss: Loss, theta: Parameters, phi: Parameters, epsilon: float, relative: bool) -> Inner:
    """H v = [grad_phi L(theta + s v) - grad_phi L(theta - s v)] / 2s (Eq. 8), wrong by O(s^2)."""
    (g,) = _gradients(train_loss(theta, phi), theta)

    def product(v: Parameters) -> Parameters:
        s = _step(v, epsilon, relative)
        (plus,) = _gradients(train_loss(_moved(theta, s, v), phi), phi)
        (minus,) = _gradients(train_loss(_moved(theta, -s, v), phi), phi)
        return {name: (plus[name] - minus[name]) / (2 * s) for name in phi}

    return g, product


def forward_difference(train_loss: Loss, theta: Parameters, phi: Parameters, epsilon: float, relative: bool) -> Inner:
    """H v = [grad_phi L(theta + s v) - grad_phi L(theta)] / s, wrong by O(s); the latter comes with g."""
    g, here = _gradients(train_loss(theta, phi), theta, phi)

    def product(v: Parameters) -> Parameters:
        s = _step(v, epsilon, relative)
        (plus,) = _gradients(train_loss(_moved(theta, s, v), phi), phi)
        return {name: (plus[name] - here[name]) / s for name in phi}

    return g, product


def exact(train_loss: Loss, theta: Parameters, phi: Parameters, epsilon: float, relative: bool) -> Inner:
    """H v by differentiating g . v; `epsilon` and `relative` play no part."""
    with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
        (g,) = _gradients(train_loss(theta, phi), theta, create_graph=True)

    def product(v: Parameters) -> Parameters:
        (found,) = _gradients(torch.stack([torch.sum(g[name] * v[name]) for name in theta]).sum(), phi)
        return found

    return g, product


METHODS: dict[str, Callable[[Loss, Parameters, Parameters, float, bool], Inner]] = {
    "finite_difference": finite_difference,
    "forward_difference": forward_difference,
    "exact": exact,
}


def cosine(a: Parameters, b: Parameters) -> float:
    """Cosine of the angle between two sets of tensors with equal names and shapes; 0 if one of them is all zeros."""
    dot = sum(torch.sum(a[name].double() * b[name].double()).item() for name in a)
    norms = [get_total_norm([tensor.double() for tensor in side.values()]).item() for side in (a, b)]
    return dot / (norms[0] * norms[1]) if all(norms) else 0.0


def _leaves(parameters: Mapping[str, Tensor]) -> Parameters:
    """The same tensors, in the same memory, as leaves of the graphs to come."""
    return {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}


def _moved(theta: Parameters, length: float, direction: Parameters) -> Parameters:
    """theta + length * direction, as constants: a backward pass to phi then leaves out the gradients of theta."""
    return {name: torch.add(theta[name].detach(), direction[name].detach(), alpha=length) for name in theta}


def _step(v: Parameters, epsilon: float, relative: bool) -> float:
    """s, the factor of v in a finite difference."""
    if not relative:
        return epsilon
    norm = get_total_norm(v.values()).item()
    return epsilon / max(norm, torch.finfo(torch.float32).tiny)  # where v is 0, any step finds H v = 0


def _gradients(loss: Tensor, *groups: Parameters, create_graph: bool = False) -> list[Parameters]:
    """The gradient of a loss for each group of parameters; 0 where the loss does not depend on one."""
    inputs = [tensor for group in groups for tensor in group.values()]
    gradients = iter(torch.autograd.grad(loss, inputs, create_graph=create_graph, materialize_grads=True))
    return [{name: next(gradients) for name in group} for group in groups]


def _validation_gradients(
    val_losses: Sequence[Loss], adapted: Parameters, phi: Parameters
) -> tuple[Parameters, Parameters]:
    """d and v, the gradients of the mean validation loss with respect to phi and to theta'."""
    adapted = _leaves(adapted)
    direct: Parameters = {}
    v: Parameters = {}
    for val_loss in val_losses:
        parts = _gradients(val_loss(adapted, phi) / len(val_losses), phi, adapted)
        for total, part in zip((direct, v), parts, strict=True):
            for name, gradient in part.items():  # not in place: what autograd returns may share memory
                total[name] = total[name] + gradient if name in total else gradient
    return direct, v
