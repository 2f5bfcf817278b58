"""Which library multiplies matrices on a CPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_CPUINFO = Path("/proc/cpuinfo")
_KERNELS = 8192  # that oneDNN keeps, about 50 KiB each; it makes one for each shape, and batches of text have many


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`. On a CPU that writes the bias to every row and then adds the product; to add the bias last is faster.

    Args:
        x: [..., in].
        weight: [out, in].
        bias: [out], if there is one.
    """
    if bias is None or x.device.type != "cpu":
        return F.linear(x, weight, bias)
    return F.linear(x, weight).add_(bias)


def use_widest_matmul() -> bool:
    """Make float32 matrix products on AMD CPUs use AVX-512, where that leaves their precision as it is.

    PyTorch multiplies float32 matrices with MKL, which leaves the AVX-512 units of AMD's CPUs idle. oneDNN uses them,
    at twice the rate (Zen 5), but is handed float32 products only with leave to round their factors to bfloat16. It
    does that with AMX units alone, which these CPUs lack: so leave is given, and withdrawn should a factor be rounded.

    oneDNN keeps 1,024 kernels by itself, fewer than a finetuning has shapes: each step would make some of them again.

    For the whole process; call it once, before training starts. A process that has a GPU stays as it is: it multiplies
    there, and PyTorch's older settings of TensorFloat-32 refuse to be mixed with this one.

    Returns:
        Whether it took effect.
    """
    backend: Any = torch.backends.mkldnn
    if torch.cuda.is_available() or not backend.is_available() or not _is_amd_with_avx512():
        return False
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))  # read at oneDNN's first product
    before = backend.matmul.fp32_precision
    backend.matmul.fp32_precision = "bf16"
    if _multiplies_in_float32():
        return True
    backend.matmul.fp32_precision = before
    return False


def _is_amd_with_avx512() -> bool:
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _CPUINFO.is_file()
        and "AuthenticAMD" in _CPUINFO.read_text(encoding="utf-8")
    )


def _multiplies_in_float32() -> bool:
    """Whether products keep every bit of either factor; products of fewer than 16^3 terms take other ways."""
    factor = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    one = torch.eye(64)
    return torch.equal(factor @ one, factor) and torch.equal(one @ factor, factor)
