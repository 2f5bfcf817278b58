from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raylab.model.dropout import Dropout, dropout


def dropped(shape: tuple[int, ...], probability: float, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return dropout(torch.ones(shape), probability)


@pytest.mark.parametrize("probability", [0.003, 0.1, 0.5, 0.9])
def test_rate_and_scale(probability: float) -> None:
    count = 1 << 22
    found = dropped((count,), probability)
    rate = (found == 0).double().mean().item()
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert abs(rate - probability) < 4 * deviation + 2**-17  # 16 random bits each
    assert found.unique().tolist() == [0.0, pytest.approx(1 / (1 - probability), rel=1e-4)]
    assert found.double().mean().item() == pytest.approx(1.0, abs=4 * deviation / (1 - probability))


@pytest.mark.parametrize("lag", [1, 2, 3, 16, 127, 128, 129, 256, 1024])
def test_elements_are_dropped_independently(lag: int) -> None:
    lost = (dropped((1 << 22,), 0.1) == 0).double() - 0.1
    correlation = (lost[lag:] * lost[:-lag]).mean().item() / 0.09
    assert abs(correlation) < 0.003  # six standard deviations


def test_blocks_lose_as_many_as_chance_has_it() -> None:
    lost = (dropped((1 << 14, 256), 0.1) == 0).sum(1).double()  # [blocks]
    assert lost.var().item() / (256 * 0.09) == pytest.approx(1.0, abs=0.06)


def test_the_generator_decides() -> None:
    assert torch.equal(dropped((3, 5, 7), 0.5), dropped((3, 5, 7), 0.5))
    assert not torch.equal(dropped((3, 5, 7), 0.5), dropped((3, 5, 7), 0.5, seed=1))
    torch.manual_seed(0)
    assert not torch.equal(*(dropout(torch.ones(99), 0.5) for _ in range(2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_all_formats_lose_the_same_elements(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = dropout(torch.ones(100, dtype=dtype), 0.3)
    assert found.dtype is dtype
    assert torch.equal(found == 0, dropped((100,), 0.3) == 0)


def test_gradients_pass_where_elements_did() -> None:
    x = torch.randn(4, 33, dtype=torch.float64, requires_grad=True)

    def cubed(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return dropout(x, 0.4) ** 3

    torch.autograd.gradcheck(cubed, x)
    torch.autograd.gradgradcheck(cubed, x)


def test_transposed_elements_keep_their_places() -> None:
    x = torch.arange(1.0, 7.0).view(2, 3).mT
    found = dropout(x, 0.5)
    assert torch.equal(found, torch.where(found == 0, 0.0, 2 * x))


def test_off_in_evaluation_and_at_zero() -> None:
    x = torch.ones(1000)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert (Dropout(0.5)(x) == 0).any()
    assert dropout(x, 0.999999).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_pytorchs() -> None:
    x = torch.ones(1000, device="cuda")
    torch.manual_seed(0)
    found = dropout(x, 0.1)
    torch.manual_seed(0)
    assert torch.equal(found, F.dropout(x, 0.1))
