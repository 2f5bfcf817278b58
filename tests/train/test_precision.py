from __future__ import annotations

import pytest
import torch

from raylab.errors import InputError
from raylab.train.precision import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    precision = Precision(name, CPU)
    matrix = torch.ones(2, 2)
    with precision.autocast():
        assert (matrix @ matrix).dtype is dtype
    with precision.autocast(full=True):
        assert (matrix @ matrix).dtype is torch.float32
    assert precision.scale().item() == (65536.0 if name == "fp16" else 1.0)


def test_tf32_needs_a_gpu_that_has_it() -> None:
    with pytest.raises(InputError, match=r"pretrain\.precision: found tf32.*this job runs on cpu; fp32 or bf16 would"):
        Precision("tf32", CPU)


def test_a_format_that_the_device_cannot_train_in_is_bad_input() -> None:
    """`meta` tensors hold no values, so the probe fails there as on a machine without the format."""
    with pytest.raises(InputError, match=r"pretrain\.precision: found fp16.*would do"):
        Precision("fp16", torch.device("meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tf32_is_on_within_a_step_only() -> None:
    precision = Precision("tf32", torch.device("cuda"))
    before = torch.get_float32_matmul_precision()
    with precision.matmuls():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
