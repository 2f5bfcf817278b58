"""Meta-gradients against a reference that differentiates through theta' = theta - beta g with double backward."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from raylab.config import MetaConfig, ModelConfig
from raylab.data.masking import predicted
from raylab.model import Encoder
from raylab.train.gradients import cosine
from raylab.train.meta import METHODS, Loss, MetaGradient, Parameters, meta_gradient

LANGUAGES = ("en", "fr", "hi")
TRAIN, HELD_OUT = 4, (2, 6, 3)  # sequences of the training batch, and of each language's validation batch
DIFFERENCES = ("finite_difference", "forward_difference")


class Objective(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor, labels: Tensor, language: str) -> Tensor:
        return self.encoder.mlm_loss(inputs, *predicted(labels), language)


class Text:
    """Masked random tokens of one language."""

    def __init__(self, language: str, sequences: int, length: int, vocab_size: int) -> None:
        self.language = language
        tokens = torch.randint(5, vocab_size, (sequences, length))
        chosen = torch.rand(tokens.shape) < 0.3
        self.inputs, self.labels = tokens.masked_fill(chosen, 4), tokens.masked_fill(~chosen, -100)
        self.count = len(predicted(self.labels)[0])


class Problem:
    """A small adapter model, a training batch of its first language and a validation batch of each, of unequal sizes.

    With `scaled`, so far from the default initialisation that every term of the gradient counts.
    """

    def __init__(
        self,
        layers: int = 1,
        dim: int = 8,
        activation: str = "gelu",
        dtype: torch.dtype = torch.float64,
        languages: int = 2,
        length: int = 16,
        factor: int = 1,
        vocab_size: int = 60,
        scaled: bool = True,
        steps: int = 0,
    ) -> None:
        sizes = {"num_layers": layers, "dim": dim, "ffn_dim": 2 * dim, "max_length": length}
        config = ModelConfig.model_validate({**sizes, "dropout": 0.0, "adapter_activation": activation})
        torch.manual_seed(0)
        encoder = Encoder(config, vocab_size, LANGUAGES[:languages], "meta_adapter")
        if scaled:
            for parameter in encoder.parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        self.train = Text("en", TRAIN * factor, length, vocab_size)
        held_out = (factor * sequences for sequences in HELD_OUT[:languages])
        self.held_out = [Text(*of, length, vocab_size) for of in zip(encoder.languages, held_out, strict=True)]
        self.encoder = encoder
        self._train(steps)
        self.encoder.to(dtype)
        self.shared: Parameters = dict(encoder.shared_parameters())
        self.specific: Parameters = dict(encoder.specific_parameters("en"))

    def _train(self, steps: int) -> None:
        optimizer = torch.optim.Adam(self.encoder.parameters(), lr=1e-3)
        for _ in range(steps):
            self.loss(self.train)({}, {}).backward()
            optimizer.step()
            optimizer.zero_grad()

    def loss(self, text: Text, rows: slice = slice(None), scale: float = 1.0, autocast: bool = False) -> Loss:
        """These rows' share of the mean loss of a text, times a scale."""
        objective = Objective(self.encoder)

        def loss(shared: Parameters, specific: Parameters) -> Tensor:
            parameters = {f"encoder.{name}": tensor for name, tensor in {**shared, **specific}.items()}
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                total: Tensor = functional_call(
                    objective, parameters, (text.inputs[rows], text.labels[rows], text.language)
                )
            return total * (scale / text.count)

        return loss

    def meta_gradient(self, **arguments: object) -> MetaGradient:
        losses = (self.loss(self.train), [self.loss(text) for text in self.held_out])
        return meta_gradient(*losses, self.shared, self.specific, **{"inner_lr": 0.1, **arguments})  # type: ignore[arg-type]

    def reference(self, inner_lr: float = 0.1, factors: Parameters | None = None) -> MetaGradient:
        return reference(
            self.loss(self.train),
            lambda *parameters: torch.stack([self.loss(text)(*parameters) for text in self.held_out]).mean(),
            self.shared,
            self.specific,
            inner_lr,
            factors,
        )


def reference(
    train_loss: Loss,
    val_loss: Loss,
    shared: Parameters,
    specific: Parameters,
    inner_lr: float,
    factors: Parameters | None = None,
) -> MetaGradient:
    """Autograd does it all: the whole gradient through theta', and the direct part with theta' held fixed."""
    theta = {name: tensor.detach().requires_grad_() for name, tensor in shared.items()}
    phi = {name: tensor.detach().requires_grad_() for name, tensor in specific.items()}
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(train_loss(theta, phi), list(theta.values()), create_graph=True)
        g = dict(zip(theta, gradients, strict=True))
        adapted = {name: theta[name] - inner_lr * (factors[name] if factors else 1) * g[name] for name in theta}
        total = torch.autograd.grad(val_loss(adapted, phi), list(phi.values()), retain_graph=True)
        fixed = {name: tensor.detach() for name, tensor in adapted.items()}
        direct = torch.autograd.grad(val_loss(fixed, phi), list(phi.values()))
    return MetaGradient(
        gradient=dict(zip(phi, total, strict=True)),
        direct=dict(zip(phi, direct, strict=True)),
        higher_order={name: t - d for name, t, d in zip(phi, total, direct, strict=True)},
    )


def some_factors(parameters: Parameters) -> Parameters:
    """Factors over 0 that differ from one element to the next."""
    generator = torch.Generator().manual_seed(1)
    return {n: torch.rand(t.shape, generator=generator, dtype=t.dtype) + 0.1 for n, t in parameters.items()}


def relative_error(found: Parameters, expected: Parameters) -> float:
    assert found.keys() == expected.keys()
    difference = sum(((found[name].double() - expected[name].double()) ** 2).sum() for name in found)
    scale = sum((expected[name].double() ** 2).sum() for name in found)
    return (difference / scale).sqrt().item()  # type: ignore[union-attr]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("languages", [2, 3])
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("inner_lr", [1e-4, 1e-1])
def test_exact_is_autograd_in_float64(activation: str, languages: int, preconditioned: bool, inner_lr: float) -> None:
    problem = Problem(layers=2, dim=16, activation=activation, languages=languages)
    expected = problem.reference(inner_lr, some_factors(problem.shared) if preconditioned else None)
    found = problem.meta_gradient(
        inner_lr=inner_lr, method="exact", precondition=some_factors if preconditioned else None
    )
    assert relative_error(found.gradient, expected.gradient) < 1e-9
    assert relative_error(found.direct, expected.direct) < 1e-9
    assert relative_error(found.higher_order, expected.higher_order) < 1e-6
    assert cosine(found.higher_order, found.direct) < 0.99  # the parts differ, so that the test can tell them apart


@pytest.mark.parametrize(("method", "order"), [("finite_difference", 2), ("forward_difference", 1)])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_difference_has_its_order_of_accuracy(method: str, order: int, preconditioned: bool) -> None:
    problem = Problem(layers=1, dim=16)
    exact = problem.reference(factors=some_factors(problem.shared) if preconditioned else None)
    errors = []
    for epsilon in (2e-3, 1e-3):
        found = problem.meta_gradient(
            method=method, epsilon=epsilon, precondition=some_factors if preconditioned else None
        )
        assert relative_error(found.direct, exact.direct) < 1e-12
        errors.append(relative_error(found.higher_order, exact.higher_order))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.05)
    assert errors[1] < 1e-2


@pytest.mark.parametrize("method", DIFFERENCES)
def test_difference_that_crosses_no_kink_is_exact_for_relu(method: str) -> None:
    problem = Problem(layers=1, dim=16, activation="relu")
    found = problem.meta_gradient(method=method, epsilon=1e-7)
    assert cosine(found.higher_order, problem.reference().higher_order) > 1 - 1e-9


SIZES = {"2x64": (2, 64, 0), "3x128": (3, 128, 0), "4x256": (4, 256, 0), "2x64, trained": (2, 64, 50)}


@cache
def sized(size: str) -> tuple[Problem, MetaGradient]:
    """A model in float32, and its meta-gradient in float64 by the reference."""
    layers, dim, steps = SIZES[size]

    def problem(dtype: torch.dtype) -> Problem:
        return Problem(layers, dim, "gelu", dtype, length=32, factor=4, vocab_size=500, scaled=False, steps=steps)

    return problem(torch.float32), problem(torch.float64).reference(inner_lr=1e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_precision_at_the_default_step(size: str, autocast: bool, method: str) -> None:
    """In float32, and under bfloat16 autocast with the passes of the differences in float32."""
    problem, exact = sized(size)
    found = meta_gradient(
        problem.loss(problem.train, autocast=autocast),
        [problem.loss(text, autocast=autocast) for text in problem.held_out],
        problem.shared,
        problem.specific,
        inner_lr=1e-3,
        method=method,
        epsilon=MetaConfig().epsilon,
        relative=MetaConfig().relative,
        difference_loss=problem.loss(problem.train),
    )
    assert cosine(found.higher_order, exact.higher_order) > 0.999
    assert relative_error(found.direct, exact.direct) < (2e-2 if autocast else 1e-3)


def in_parts(problem: Problem, text: Text, count: int) -> list[Loss]:
    return [problem.loss(text, slice(part, None, count), scale=count) for part in range(count)]


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_are_the_whole(method: str) -> None:
    problem = Problem(layers=2, languages=3)
    found = meta_gradient(
        in_parts(problem, problem.train, 2),
        [part for text in problem.held_out for part in in_parts(problem, text, 2)],
        problem.shared,
        problem.specific,
        inner_lr=0.1,
        method=method,
        precondition=some_factors,
    )
    for part, expected in zip(found, problem.meta_gradient(method=method, precondition=some_factors), strict=True):
        assert relative_error(part, expected) < 1e-9


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_two_workers_on_shares_of_scaled_losses_are_one_on_the_whole(method: str, micro_batches: int) -> None:
    """Each worker is a thread with a model of its own; what they give to `reduce` is summed and taken down again."""
    scale, lists, both = 1024.0, {}, threading.Barrier(2, timeout=60)  # type: ignore[var-annotated]

    def work(rank: int) -> MetaGradient:
        problem = problems[rank]

        def shares(text: Text) -> list[Loss]:
            starts = range(rank, 2 * micro_batches, 2)
            return [problem.loss(text, slice(i, None, 2 * micro_batches), scale=scale * micro_batches) for i in starts]

        def reduce(tensors: list[Tensor]) -> None:
            lists[rank] = [tensor.clone() for tensor in tensors]
            both.wait()
            for tensor, *parts in zip(tensors, *lists.values(), strict=True):
                tensor.copy_((parts[0] + parts[1]) / scale)
            both.wait()

        return meta_gradient(
            shares(problem.train),
            [share for text in problem.held_out for share in shares(text)],
            problem.shared,
            problem.specific,
            inner_lr=0.1,
            method=method,
            reduce=reduce,
            precondition=some_factors,
        )

    problems = [Problem(layers=2) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        workers = list(threads.map(work, range(2)))
    expected = Problem(layers=2).meta_gradient(method=method, precondition=some_factors)
    for found in workers:
        for part, whole in zip(found, expected, strict=True):
            assert relative_error(part, whole) < 1e-9


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


@pytest.mark.parametrize("preconditioned", [False, True])
def test_relative_and_absolute_steps_agree_when_scaled(preconditioned: bool) -> None:
    problem = Problem()
    factors = some_factors(problem.shared) if preconditioned else {n: torch.ones(()) for n in problem.shared}
    precondition = some_factors if preconditioned else None
    theta = {name: tensor.detach().requires_grad_() for name, tensor in problem.shared.items()}
    g = torch.autograd.grad(problem.loss(problem.train)(theta, problem.specific), list(theta.values()))
    adapted = {
        n: (t - 0.1 * factors[n] * s).detach().requires_grad_() for (n, t), s in zip(theta.items(), g, strict=True)
    }
    held_out = torch.stack([problem.loss(text)(adapted, problem.specific) for text in problem.held_out]).mean()
    v = dict(zip(adapted, torch.autograd.grad(held_out, list(adapted.values())), strict=True))
    norm = torch.stack([(factors[name] * part).square().sum() for name, part in v.items()]).sum().sqrt().item()
    relative = problem.meta_gradient(epsilon=0.05, precondition=precondition)
    absolute = problem.meta_gradient(epsilon=0.05 / norm, relative=False, precondition=precondition)
    assert relative_error(absolute.higher_order, relative.higher_order) < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_reduce_may_change_what_autograd_returns_as_views(method: str) -> None:
    """The gradient of a sum is one number in memory, however large its shape."""

    def loss(shared: Parameters, specific: Parameters) -> Tensor:
        return specific["a"].sum() * (shared["w"].sum() + shared["b"].sum())

    parameters = ({"w": torch.ones(2, 3), "b": torch.ones(3)}, {"a": torch.ones(4)})
    found = meta_gradient(
        lambda *at: 2 * loss(*at),
        lambda *at: 2 * loss(*at),
        *parameters,
        inner_lr=0.1,
        method=method,
        reduce=lambda tensors: torch._foreach_div_(tensors, 2),
    )
    torch.testing.assert_close(found, meta_gradient(loss, loss, *parameters, inner_lr=0.1, method=method))


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
    problem = Problem(activation="relu", dtype=torch.float32)
    before = {name: parameter.detach().clone() for name, parameter in problem.encoder.named_parameters()}
    problem.meta_gradient(
        method=method, precondition=some_factors, reduce=lambda tensors: torch._foreach_zero_(tensors)
    )
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


def test_exact_product_does_not_overflow_float16_with_a_long_direction() -> None:
    """Adam's factors make P v thousands of times as long as v."""

    def train(shared: Parameters, specific: Parameters) -> Tensor:
        return (shared["w"].half() * specific["a"].half()).sum().float()

    def val(shared: Parameters, specific: Parameters) -> Tensor:
        return 3e3 * shared["w"].sum()

    found = meta_gradient(
        train,
        val,
        {"w": torch.ones(4)},
        {"a": torch.ones(4)},
        inner_lr=1.0,
        method="exact",
        precondition=lambda g: {name: torch.full_like(tensor, 1e3) for name, tensor in g.items()},
    )
    torch.testing.assert_close(found.higher_order["a"], torch.full((4,), -3e6), rtol=1e-3, atol=0)
