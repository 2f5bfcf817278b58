"""The meta-gradient of language-specific parameters (paper, Eq. 3, 4 and 8).

With theta the shared parameters, phi those of one language, and beta the inner learning rate:

    g      = grad_theta L_train(theta, phi)
    theta' = theta - beta * g
    d, v   = grad_phi, grad_theta' of L_val(theta', phi)
    H v    = grad_phi [ grad_theta L_train(theta, phi) . v ]
    the total derivative of L_val by phi = d - beta * H v

With a preconditioned inner step, theta' = theta - beta * P g with constant factors P, that is d - beta * H (P v). The
methods differ in how they find a product with H and in nothing else. With a forward pass counted as 1, a backward pass
as 2, one to phi alone as 1, and L validation batches as large as the training batch, they cost

    finite_difference    3 + 3 L + 4
    forward_difference   3 + 3 L + 2
    exact                3 + 3 L + about 6, and twice the activations in memory; in micro-batches about 9

A difference subtracts two gradients that are nearly equal: with a short step it is rounding noise, with a long one
curvature. In bfloat16 no step is right: 4 layers of 256 at initialisation want one under 0.1, and 3 of 128 after 1000
steps do not reach 0.999 with any. So the passes of a difference are to run in float32 (`difference_loss`), even if all
others run in bfloat16, whose own gradients are good enough; then a step of 0.01 does for both methods. Least cosine of
the higher-order part with the exact one in float64, relative steps, GELU adapters, English and French text; 2 layers of
64, 3 of 128 and 4 of 256, each on three batches at initialisation and after 100 and 1000 steps:

    epsilon, and precision of the differences      0.001     0.003     0.01      0.03      0.1       0.3
    central, float32                               1.0000    1.0000    1.0000    0.9999    0.9915    0.787
    central, float32, all else in bfloat16         0.9999    0.9999    0.9999    0.9999    0.9915    0.787
    central, TensorFloat-32 (rounded as it does)   0.913     0.9885    0.9986    0.9998    0.9915    0.787
    central, bfloat16                              0.225     0.482     0.898     0.984     0.9916    0.787
    forward, float32                               1.0000    0.9999    0.9997    0.9978    0.965     0.580
    forward, float32, all else in bfloat16         0.9999    0.9999    0.9997    0.9977    0.965     0.580
    forward, TensorFloat-32 (rounded as it does)   0.789     0.956     0.9944    0.9978    0.965     0.580
    forward, bfloat16                              -0.024    0.327     0.755     0.947     0.965     0.581

The larger the model, the stronger the curvature at initialisation: 12 layers of 768 have 1.0000 (central) and 0.9976
(forward) at 0.01, and 0.9997 (forward) at 0.003. `exact` all in bfloat16 has 0.9999: where float32 is several times
slower and memory suffices, it is the better choice. ReLU adapters have kinks that a step crosses: 2 layers of 64,
central, float32, have 0.24 at 0.01 and 0.58 at 0.1 at initialisation, and 0.99 from step 100 on; `exact` has no step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import get_total_norm

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters, Parameters], Tensor]
Losses = Loss | Sequence[Loss]
Reduce = Callable[[list[Tensor]], None]


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


class InnerProblem(NamedTuple):
    """What a method is given to find g, and then products of H with a direction.

    Attributes:
        train: The parts of L_train; their mean is L_train.
        difference: The same function, as it is to be evaluated where two gradients are subtracted.
        theta: The shared parameters, leaves.
        phi: The specific parameters, leaves.
        step: Maps the direction v of a product to s, the factor of v in a difference, a scalar tensor.
        reduce: Sums a list of tensors over all workers, in place; None: there is but one.
    """

    train: Sequence[Loss]
    difference: Sequence[Loss]
    theta: Parameters
    phi: Parameters
    step: Callable[[Parameters], Tensor]
    reduce: Reduce | None

    def difference_gradient(self, s: Tensor, v: Parameters) -> Parameters:
        """grad_phi L_train(theta + s v, phi)."""
        theta = _moved(self.theta, s, v)
        (found,) = _gradients(self.difference, theta, self.phi, (self.phi,), self.reduce)
        return found


Inner = tuple[Parameters, Callable[[Parameters], Parameters]]  # g, and the function that maps v to H v


def meta_gradient(
    train_loss: Losses,
    val_loss: Losses,
    shared: Mapping[str, Tensor],
    specific: Mapping[str, Tensor],
    *,
    inner_lr: float,
    method: str = "finite_difference",
    epsilon: float = 0.01,
    relative: bool = True,
    difference_loss: Losses | None = None,
    precondition: Callable[[Parameters], Parameters] | None = None,
    reduce: Reduce | None = None,
) -> MetaGradient:
    """Gradient of the validation loss after one inner step, with respect to the specific parameters.

    A loss may be given as a sequence of parts whose mean is the loss, such as languages or micro-batches: then the
    activations of only one part are in memory at a time.

    Args:
        train_loss: Maps (shared, specific) to L_train, a scalar. It is called more than once and must be the same
            function each time: if the model has dropout, the random stream must be set in here.
        val_loss: Maps (shared, specific) to L_val, a scalar.
        shared: theta by name. Neither these tensors nor their `.grad` are changed.
        specific: phi by name, likewise.
        inner_lr: beta, the learning rate of the inner step.
        method: One of `METHODS`.
        epsilon: Step of a finite difference.
        relative: True: the step is epsilon * v / ||v||_2, of length epsilon in the space of theta. False: it is
            epsilon * v, as in the paper's Eq. 8. With `precondition`, read P * v for v.
        difference_loss: L_train as it is to be evaluated where two gradients are subtracted: without the autocast that
            `train_loss` may have. Default: `train_loss`. `exact` does without.
        precondition: Maps g by name to P by name, factors over 0 of the same shapes, taken as constants. The inner step
            is then theta' = theta - beta * P * g, and the higher-order part -beta * H (P * v).
        reduce: Called once on each list of gradients or Hessian products that was computed, to change it in place. With
            several workers, of which each has a share of every loss such that the shares' sum is the loss, it sums over
            the workers. If the losses are scaled, it takes the scale out.

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
    theta, phi = _leaves(shared), _leaves(specific)
    train = _parts(train_loss)
    difference = train if difference_loss is None else _parts(difference_loss)
    g, product = METHODS[method](
        InnerProblem(train, difference, theta, phi, lambda v: _step(v, epsilon, relative), reduce)
    )
    factors = precondition(g) if precondition is not None else None
    adapted = _leaves(_moved(theta, -inner_lr, _scaled(g, factors)))
    del g
    direct, v = _gradients(_parts(val_loss), adapted, phi, (phi, adapted), reduce)
    del adapted
    higher_order = {name: -inner_lr * tensor for name, tensor in product(_scaled(v, factors)).items()}
    return MetaGradient({name: direct[name] + higher_order[name] for name in phi}, direct, higher_order)


def finite_difference(inner: InnerProblem) -> Inner:
    """H v = [grad_phi L(theta + s v) - grad_phi L(theta - s v)] / 2s (Eq. 8), wrong by O(s^2)."""
    (g,) = _gradients(inner.train, inner.theta, inner.phi, (inner.theta,), inner.reduce)

    def product(v: Parameters) -> Parameters:
        s = inner.step(v)
        plus = inner.difference_gradient(s, v)
        minus = inner.difference_gradient(-s, v)
        return {name: (plus[name] - minus[name]) / (2 * s) for name in inner.phi}

    return g, product


def forward_difference(inner: InnerProblem) -> Inner:
    """H v = [grad_phi L(theta + s v) - grad_phi L(theta)] / s, wrong by O(s); the latter comes with g.

    So g comes from the loss of the differences too: two precisions must not meet in one of them.
    """
    g, here = _gradients(inner.difference, inner.theta, inner.phi, (inner.theta, inner.phi), inner.reduce)

    def product(v: Parameters) -> Parameters:
        s = inner.step(v)
        plus = inner.difference_gradient(s, v)
        return {name: (plus[name] - here[name]) / s for name in inner.phi}

    return g, product


def exact(inner: InnerProblem) -> Inner:
    """H v by differentiating g . v; the length of a step plays no part.

    The graph of g is kept for the product if L_train has one part. The graphs of several parts are made again one by
    one, which costs another forward and backward pass: L_train comes in parts to save memory, and a graph that is kept
    holds the activations of its part, and more.
    """

    def graph(loss: Loss) -> Parameters:
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
            g = _differentiated(loss(inner.theta, inner.phi), list(inner.theta.values()), create_graph=True)
        return dict(zip(inner.theta, g, strict=True))

    if len(inner.train) == 1:
        kept = graph(inner.train[0])
        graphs = [lambda: kept]
        g = dict(zip(kept, _reduced([tensor.detach() for tensor in kept.values()], inner.reduce), strict=True))
    else:
        graphs = [partial(graph, loss) for loss in inner.train]
        with sdpa_kernel(SDPBackend.MATH):  # another kernel might draw another dropout mask
            (g,) = _gradients(inner.train, inner.theta, inner.phi, (inner.theta,), inner.reduce)

    def product(v: Parameters) -> Parameters:
        norm = get_total_norm(v.values()).clamp(min=torch.finfo(torch.float32).tiny)
        unit = {name: tensor / norm for name, tensor in v.items()}  # float16 overflows with a long v

        def slope(graph: Callable[[], Parameters]) -> Loss:
            return lambda theta, phi: torch.stack([torch.sum(part * unit[n]) for n, part in graph().items()]).sum()

        (found,) = _gradients([slope(graph) for graph in graphs], inner.theta, inner.phi, (inner.phi,), inner.reduce)
        return {name: norm * tensor for name, tensor in found.items()}

    return g, product


METHODS: dict[str, Callable[[InnerProblem], Inner]] = {
    "finite_difference": finite_difference,
    "forward_difference": forward_difference,
    "exact": exact,
}


def _parts(loss: Losses) -> Sequence[Loss]:
    return [loss] if callable(loss) else loss


def _leaves(parameters: Mapping[str, Tensor]) -> Parameters:
    """The same tensors, in the same memory, as leaves of the graphs to come."""
    return {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}


def _moved(theta: Parameters, length: Tensor | float, direction: Parameters) -> Parameters:
    """theta + length * direction, as constants: a backward pass to phi then leaves out the gradients of theta."""
    factors = {name: torch.as_tensor(length, dtype=tensor.dtype).to(tensor.device) for name, tensor in theta.items()}
    return {name: torch.addcmul(tensor.detach(), factors[name], direction[name]) for name, tensor in theta.items()}


def _scaled(direction: Parameters, factors: Parameters | None) -> Parameters:
    """factors * direction; no factors are ones."""
    return direction if factors is None else {name: factors[name] * tensor for name, tensor in direction.items()}


def _step(v: Parameters, epsilon: float, relative: bool) -> Tensor:
    """s, the factor of v in a finite difference."""
    norm = get_total_norm(v.values())
    if not relative:
        return torch.full_like(norm, epsilon)
    return epsilon / norm.clamp(min=torch.finfo(torch.float32).tiny)  # where v is 0, any step finds H v = 0


def _gradients(
    losses: Sequence[Loss], theta: Parameters, phi: Parameters, groups: Sequence[Parameters], reduce: Reduce | None
) -> list[Parameters]:
    """The gradient of the mean of the losses for each group of parameters, reduced."""
    inputs = [tensor for group in groups for tensor in group.values()]
    total = _differentiated(losses[0](theta, phi) / len(losses), inputs)
    for loss in losses[1:]:
        part = _differentiated(loss(theta, phi) / len(losses), inputs)
        total = [a + b for a, b in zip(total, part, strict=True)]
    gradients = iter(_reduced(total, reduce))
    return [{name: next(gradients) for name in group} for group in groups]


def _differentiated(loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> Sequence[Tensor]:
    """The gradient of a loss; 0 where the loss does not depend on an input."""
    return torch.autograd.grad(loss, inputs, create_graph=create_graph, materialize_grads=True)


def _reduced(tensors: Sequence[Tensor], reduce: Reduce | None) -> Sequence[Tensor]:
    if reduce is None:
        return tensors
    own = [tensor.clone() for tensor in tensors]  # those that autograd returns may share memory
    reduce(own)
    return own
