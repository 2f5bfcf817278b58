"""Number formats of a training step. Master weights, gradients and optimizer states are float32 in all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raylab.errors import InputError

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_SCALE = 1e-3  # float16 that overflows below this scale overflows for a reason that no scale mends


class Precision:
    """How one job computes.

    Args:
        name: `fp32`; `tf32`, float32 whose matrix products round their factors to TensorFloat-32; `bf16` or `fp16`,
            autocast to these formats, the latter with a gradient scaler.
        device: Where.

    Attributes:
        scaler: The gradient scaler: of fp16, and one that does nothing for the others.
        skipped_steps: Updates left out because float16 gradients overflowed: of phi, of theta, or of both at once.

    Raises:
        InputError: The device cannot compute so.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._device = device
        if name == "tf32" and not _has_tf32(device):
            raise InputError(
                f"pretrain.precision: found tf32, which NVIDIA GPUs have from Ampere on; this job runs on {device}; "
                "fp32 or bf16 would do"
            )
        if name in _AUTOCAST and (problem := _probe(device, _AUTOCAST[name])):
            raise InputError(
                f"pretrain.precision: found {name}, in which {device} of this machine cannot train ({problem}); "
                f"fp32{' or bf16' if name == 'fp16' else ''} would do"
            )
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
        self.skipped_steps = 0
        self._scale = self.scaler.get_scale()  # kept, because to read it is to wait for a GPU

    @contextlib.contextmanager
    def matmuls(self) -> Iterator[None]:
        """Around forward and backward passes: TensorFloat-32 where it is asked for, and nowhere else."""
        if self.name != "tf32":
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def autocast(self, *, full: bool = False) -> torch.autocast:
        """Around forward passes. `full`: in float32, whatever the job's precision."""
        dtype = _AUTOCAST.get(self.name)
        return torch.autocast(self._device.type, dtype, enabled=dtype is not None and not full)

    def scale(self) -> Tensor:
        """What losses are multiplied by before the backward pass, a scalar."""
        return self.scaler.scale(torch.ones((), device=self._device))

    @property
    def loss_scale(self) -> float:
        """What losses are multiplied by now; 1 but in fp16."""
        return self._scale

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Step the optimizer on gradients that are unscaled already, or skip the step if they overflowed.

        Raises:
            FloatingPointError: They overflow however small the scale.
        """
        self.scaler.step(optimizer)
        self.scaler.update()
        before, self._scale = self._scale, self.scaler.get_scale()
        if self._scale < before:
            self.skipped_steps += 1
            if before < _SMALLEST_SCALE:
                raise FloatingPointError(
                    f"the float16 gradients are infinite or not numbers even at a loss scale of {before:g}, after "
                    f"{self.skipped_steps} skipped updates"
                )

    def state(self) -> dict[str, Any]:
        """All that changes while training."""
        return {"scaler": self.scaler.state_dict(), "skipped_steps": self.skipped_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self._scale = self.scaler.get_scale()
        self.skipped_steps = state["skipped_steps"]


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def _probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a small network cannot be trained so; None if it can."""
    weight = torch.ones(8, 8, device=device, requires_grad=True)
    x = torch.ones(1, 2, 4, 8, device=device)
    try:
        with torch.autocast(device.type, dtype):
            hidden = F.gelu(F.linear(x, weight))
            mixed = F.scaled_dot_product_attention(hidden, hidden, hidden)
            F.layer_norm(mixed, (8,)).float().square().sum().backward()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        return " ".join(str(error).split())[:120]
    if (
        device.type == "cuda"
        and dtype is torch.bfloat16
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return "its GPU has no bfloat16 units"
    return None
