"""The learning rate as a function of the step."""

from __future__ import annotations

import math


def inverse_sqrt(step: int, *, peak: float, warmup_steps: int, initial: float = 1e-7) -> float:
    """Learning rate of XLM's schedule: a linear warm-up, then decay with the inverse square root of the step.

    Args:
        step: Optimizer steps done, from 0.
        peak: Learning rate at `step == warmup_steps`, the highest.
        warmup_steps: Steps from `initial` to `peak`; 0 starts at the peak, as 1 does from step 1 on.
        initial: Learning rate at step 0 of a warm-up.

    Raises:
        ValueError: `step` or `warmup_steps` is negative.

    Example:
        >>> [inverse_sqrt(step, peak=1.0, warmup_steps=4, initial=0.0) for step in (0, 2, 4, 16)]
        [0.0, 0.5, 1.0, 0.5]
    """
    if step < 0 or warmup_steps < 0:
        raise ValueError(f"step and warmup_steps must not be negative; found {step} and {warmup_steps}")
    if step < warmup_steps:
        return initial + (peak - initial) * step / warmup_steps
    return peak * math.sqrt(max(warmup_steps, 1) / max(step, 1))
