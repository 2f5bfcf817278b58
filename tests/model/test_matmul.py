from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from raylab.model.matmul import linear, use_widest_matmul


@pytest.fixture(autouse=True)
def setting() -> Iterator[None]:
    """What a test sets for the process is undone."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


def test_linear_is_pytorchs() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((2, 3, 5), (4, 5), (4,))]
    torch.testing.assert_close(linear(*inputs), F.linear(*inputs))
    torch.testing.assert_close(linear(*inputs[:2], None), F.linear(*inputs[:2]))
    torch.autograd.gradcheck(linear, inputs)
    torch.autograd.gradgradcheck(linear, inputs)


def test_products_stay_float32() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    changed = use_widest_matmul()
    assert changed == (torch.backends.mkldnn.matmul.fp32_precision != before)
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in ((128, 256, 96), (33, 65, 1000), (512, 64, 64)):
        a, b = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
        exact = a.double() @ b.double()
        bound = 2 * inner**0.5 * torch.finfo(torch.float32).eps * (a.double().abs() @ b.double().abs())
        assert ((a @ b - exact).abs() <= bound).all()
        assert ((torch.bmm(a[None], b[None])[0] - exact).abs() <= bound).all()
        rounded = a.bfloat16().double() @ b.bfloat16().double()
        assert ((rounded - exact).abs() > bound).any()  # the bound would see it


def test_only_where_it_is_known_to_help() -> None:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        assert not use_widest_matmul()
