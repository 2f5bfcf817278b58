"""Meta-gradients against a reference that differentiates through theta' = theta - beta g with double backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from raylab.config import ModelConfig
from raylab.data.masking import predicted
from raylab.model import Encoder
from raylab.train.meta import METHODS, MetaGradient, cosine, meta_gradient

Parameters = dict[str, Tensor]
Loss = Callable[[Parameters, Parameters], Tensor]
LANGUAGES = ("en", "fr")


class Objective(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor, labels: Tensor, language: str) -> Tensor:
        positions, targets = predicted(labels)
        return self.encoder.mlm_loss(inputs, positions, targets, language) / len(targets)


class Problem:
    """A small adapter model of two languages, a training batch of the first and a validation batch of each."""

    def __init__(
        self,
        layers: int,
        dim: int,
        activation: str,
        dtype: torch.dtype,
        batch: int = 4,
        length: int = 16,
        vocab_size: int = 60,
        scaled: bool = True,
    ) -> None:
        config = ModelConfig.model_validate(
            {
                "num_layers": layers,
                "dim": dim,
                "ffn_dim": 2 * dim,
                "dropout": 0.0,
                "max_length": length,
                "adapter_activation": activation,
            }
        )
        torch.manual_seed(0)
        encoder = Encoder(config, vocab_size, LANGUAGES, "meta_adapter")
        if scaled:  # so far from the start that every term of the gradient counts
            for parameter in encoder.parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        self.encoder = encoder.to(dtype)
        self.shared: Parameters = dict(encoder.shared_parameters())
        self.specific: Parameters = dict(encoder.specific_parameters("en"))
        self.train_loss = self._loss("en", batch, length, vocab_size)
        self.val_losses = [self._loss(language, batch, length, vocab_size) for language in LANGUAGES]

    def _loss(self, language: str, batch: int, length: int, vocab_size: int) -> Loss:
        tokens = torch.randint(5, vocab_size, (batch, length))
        chosen = torch.rand(tokens.shape) < 0.3
        inputs, labels = tokens.masked_fill(chosen, 4), tokens.masked_fill(~chosen, -100)
        objective = Objective(self.encoder)

        def loss(shared: Parameters, specific: Parameters) -> Tensor:
            parameters = {f"encoder.{name}": tensor for name, tensor in {**shared, **specific}.items()}
            return functional_call(objective, parameters, (inputs, labels, language))

        return loss

    def mean_val_loss(self, shared: Parameters, specific: Parameters) -> Tensor:
        return torch.stack([loss(shared, specific) for loss in self.val_losses]).mean()


def reference(
    train_loss: Loss, val_loss: Loss, shared: Parameters, specific: Parameters, inner_lr: float
) -> MetaGradient:
    """Autograd does it all: the whole gradient through theta', and the direct part with theta' held fixed."""
    theta = {name: tensor.detach().requires_grad_() for name, tensor in shared.items()}
    phi = {name: tensor.detach().requires_grad_() for name, tensor in specific.items()}
    with sdpa_kernel(SDPBackend.MATH):
        g = torch.autograd.grad(train_loss(theta, phi), list(theta.values()), create_graph=True)
        adapted = {name: theta[name] - inner_lr * step for name, step in zip(theta, g, strict=True)}
        total = torch.autograd.grad(val_loss(adapted, phi), list(phi.values()), retain_graph=True)
        fixed = {name: tensor.detach() for name, tensor in adapted.items()}
        direct = torch.autograd.grad(val_loss(fixed, phi), list(phi.values()))
    return MetaGradient(
        gradient=dict(zip(phi, total, strict=True)),
        direct=dict(zip(phi, direct, strict=True)),
        higher_order={name: t - d for name, t, d in zip(phi, total, direct, strict=True)},
    )


def relative_error(found: Parameters, expected: Parameters) -> float:
    assert found.keys() == expected.keys()
    difference = sum(((found[name].double() - expected[name].double()) ** 2).sum() for name in found)
    scale = sum((expected[name].double() ** 2).sum() for name in found)
    return (difference / scale).sqrt().item()  # type: ignore[union-attr]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("inner_lr", [1e-4, 1e-1])
def test_exact_is_autograd_in_float64(activation: str, inner_lr: float) -> None:
    problem = Problem(layers=2, dim=16, activation=activation, dtype=torch.float64)
    arguments = (problem.shared, problem.specific)
    expected = reference(problem.train_loss, problem.mean_val_loss, *arguments, inner_lr)
    found = meta_gradient(problem.train_loss, problem.val_losses, *arguments, inner_lr=inner_lr, method="exact")
    assert relative_error(found.gradient, expected.gradient) < 1e-9
    assert relative_error(found.direct, expected.direct) < 1e-9
    assert relative_error(found.higher_order, expected.higher_order) < 1e-6
    assert cosine(found.higher_order, found.direct) < 0.99  # the parts differ, so that the test can tell them apart


def test_several_validation_losses_are_their_mean() -> None:
    problem = Problem(layers=1, dim=8, activation="gelu", dtype=torch.float64)
    arguments = (problem.shared, problem.specific)
    several = meta_gradient(problem.train_loss, problem.val_losses, *arguments, inner_lr=0.1)
    one = meta_gradient(problem.train_loss, problem.mean_val_loss, *arguments, inner_lr=0.1)
    for part, expected in zip(several, one, strict=True):
        assert relative_error(part, expected) < 1e-9


@pytest.mark.parametrize(("method", "order"), [("finite_difference", 2), ("forward_difference", 1)])
def test_finite_difference_has_its_order_of_accuracy(method: str, order: int) -> None:
    problem = Problem(layers=1, dim=16, activation="gelu", dtype=torch.float64)
    arguments = (problem.train_loss, problem.val_losses, problem.shared, problem.specific)
    exact = meta_gradient(*arguments, inner_lr=0.1, method="exact")
    errors = []
    for epsilon in (2e-3, 1e-3):
        found = meta_gradient(*arguments, inner_lr=0.1, method=method, epsilon=epsilon)
        assert relative_error(found.direct, exact.direct) < 1e-12
        errors.append(relative_error(found.higher_order, exact.higher_order))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.05)
    assert errors[1] < 1e-2


@pytest.mark.parametrize("method", ["finite_difference", "forward_difference"])
def test_difference_that_crosses_no_kink_is_exact_for_relu(method: str) -> None:
    problem = Problem(layers=1, dim=16, activation="relu", dtype=torch.float64)
    arguments = (problem.train_loss, problem.val_losses, problem.shared, problem.specific)
    exact = meta_gradient(*arguments, inner_lr=0.1, method="exact")
    found = meta_gradient(*arguments, inner_lr=0.1, method=method, epsilon=1e-7)
    assert cosine(found.higher_order, exact.higher_order) > 1 - 1e-9


@pytest.mark.parametrize(("method", "epsilon"), [("finite_difference", 0.1), ("forward_difference", 0.01)])
def test_float32_differences(method: str, epsilon: float) -> None:
    """At the default step; the forward difference, less accurate, at a shorter one. GELU, for a ReLU has kinks."""
    sizes = {"layers": 4, "dim": 64, "activation": "gelu", "batch": 16, "length": 32, "vocab_size": 500}
    single = Problem(**sizes, dtype=torch.float32, scaled=False)
    double = Problem(**sizes, dtype=torch.float64, scaled=False)
    found = meta_gradient(
        single.train_loss,
        single.val_losses,
        single.shared,
        single.specific,
        inner_lr=1e-2,
        method=method,
        epsilon=epsilon,
    )
    exact = reference(double.train_loss, double.mean_val_loss, double.shared, double.specific, inner_lr=1e-2)
    assert cosine(found.higher_order, exact.higher_order) > 0.999
    assert relative_error(found.direct, exact.direct) < 1e-3


def quadratic(shared: Parameters, specific: Parameters) -> Tensor:
    """L = |a * w|^2 / 2 + a . w: products with a Hessian are linear in v, so a central difference is exact."""
    product = specific["a"] * shared["w"]
    return 0.5 * product.square().sum() + product.sum()


@settings(deadline=None, max_examples=30)
@given(
    w=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    a=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    inner_lr=st.floats(1e-3, 1.0),
    epsilon=st.floats(1e-3, 1.0),
    relative=st.booleans(),
)
def test_closed_form(w: list[float], a: list[float], inner_lr: float, epsilon: float, relative: bool) -> None:
    theta, phi = torch.tensor(w, dtype=torch.float64), torch.tensor(a, dtype=torch.float64)
    adapted = theta - inner_lr * (phi**2 * theta + phi)
    direct = phi * adapted**2 + adapted
    v = phi**2 * adapted + phi
    expected = direct - inner_lr * (2 * phi * theta + 1) * v
    for method in ("finite_difference", "exact"):
        found = meta_gradient(
            quadratic,
            quadratic,
            {"w": theta},
            {"a": phi},
            inner_lr=inner_lr,
            method=method,
            epsilon=epsilon,
            relative=relative,
        )
        torch.testing.assert_close(found.direct["a"], direct)
        torch.testing.assert_close(found.gradient["a"], expected, atol=1e-9, rtol=1e-6)


def test_relative_and_absolute_steps_agree_when_scaled() -> None:
    problem = Problem(layers=1, dim=8, activation="gelu", dtype=torch.float64)
    arguments = (problem.train_loss, problem.val_losses, problem.shared, problem.specific)
    theta = {name: tensor.detach().requires_grad_() for name, tensor in problem.shared.items()}
    g = torch.autograd.grad(problem.train_loss(theta, problem.specific), list(theta.values()))
    adapted = {n: (t - 0.1 * s).detach().requires_grad_() for (n, t), s in zip(theta.items(), g, strict=True)}
    v = torch.autograd.grad(problem.mean_val_loss(adapted, problem.specific), list(adapted.values()))
    norm = torch.stack([part.square().sum() for part in v]).sum().sqrt().item()
    relative = meta_gradient(*arguments, inner_lr=0.1, epsilon=0.05)
    absolute = meta_gradient(*arguments, inner_lr=0.1, epsilon=0.05 / norm, relative=False)
    assert relative_error(absolute.higher_order, relative.higher_order) < 1e-9


def test_without_a_direction_the_higher_order_part_is_zero() -> None:
    def val_loss(shared: Parameters, specific: Parameters) -> Tensor:
        return specific["a"].square().sum()

    shared, specific = {"w": torch.ones(3)}, {"a": torch.ones(3)}
    for method in METHODS:
        found = meta_gradient(quadratic, val_loss, shared, specific, inner_lr=0.1, method=method)
        assert torch.equal(found.higher_order["a"], torch.zeros(3))
        assert torch.equal(found.gradient["a"], torch.full((3,), 2.0))


@pytest.mark.parametrize("method", list(METHODS))
def test_nothing_of_the_caller_is_changed(method: str) -> None:
    problem = Problem(layers=1, dim=8, activation="relu", dtype=torch.float32)
    before = {name: parameter.detach().clone() for name, parameter in problem.encoder.named_parameters()}
    meta_gradient(problem.train_loss, problem.val_losses, problem.shared, problem.specific, inner_lr=0.1, method=method)
    for name, parameter in problem.encoder.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'newton'.*finite_difference"):
        meta_gradient(quadratic, quadratic, {}, {}, inner_lr=0.1, method="newton")


def test_cosine() -> None:
    a, b = (
        {"x": torch.tensor([3.0, 0.0]), "y": torch.tensor([4.0])},
        {"x": torch.tensor([3.0, 0.0]), "y": torch.zeros(1)},
    )
    assert cosine(a, a) == pytest.approx(1.0)
    assert cosine(a, b) == pytest.approx(0.6)
    assert cosine(a, {"x": torch.zeros(2), "y": torch.zeros(1)}) == 0.0
