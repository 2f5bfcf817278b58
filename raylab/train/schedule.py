"""The learning rate as a function of the step, and what else changes on the way."""

from __future__ import annotations

import math
from typing import Literal

from raylab.config import PretrainConfig


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


def linear(step: int, *, peak: float, warmup_steps: int, total_steps: int, initial: float = 1e-7) -> float:
    """A linear warm-up, then a linear fall that reaches 0 one step after the last.

    Args:
        step: Optimizer steps done, from 0.
        peak: Learning rate at `step == warmup_steps`.
        warmup_steps: Steps from `initial` to `peak`.
        total_steps: The last step.
        initial: Learning rate at step 0 of a warm-up.

    Raises:
        ValueError: `step` or `warmup_steps` is negative.

    Example:
        >>> [linear(step, peak=1.0, warmup_steps=2, total_steps=5, initial=0.0) for step in (0, 1, 2, 4, 5, 6)]
        [0.0, 0.5, 1.0, 0.5, 0.25, 0.0]
    """
    if step < warmup_steps:
        return inverse_sqrt(step, peak=peak, warmup_steps=warmup_steps, initial=initial)
    return peak * (1 - _share_done(step, warmup_steps, total_steps))


def cosine(step: int, *, peak: float, warmup_steps: int, total_steps: int, initial: float = 1e-7) -> float:
    """A linear warm-up, then half a period of a cosine that reaches 0 one step after the last.

    Args and errors as `linear`'s.

    Example:
        >>> [round(cosine(step, peak=1.0, warmup_steps=0, total_steps=3), 3) for step in (0, 1, 2, 3, 4)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if step < warmup_steps:
        return inverse_sqrt(step, peak=peak, warmup_steps=warmup_steps, initial=initial)
    return peak * (1 + math.cos(math.pi * _share_done(step, warmup_steps, total_steps))) / 2


def _share_done(step: int, warmup_steps: int, total_steps: int) -> float:
    if step < 0 or warmup_steps < 0:
        raise ValueError(f"step and warmup_steps must not be negative; found {step} and {warmup_steps}")
    return min(1.0, (step - warmup_steps) / max(total_steps + 1 - warmup_steps, 1))


def in_force(config: PretrainConfig, step: int, field: Literal["learning_rate", "temperature"]) -> float:
    """The value of a field that may change on the way, as it is in a step, from 1.

    Example:
        >>> config = PretrainConfig.model_validate({"temperature": 1.0, "changes": [{"step": 2, "temperature": 5.0}]})
        >>> [in_force(config, step, "temperature") for step in (1, 2, 3)]
        [1.0, 1.0, 5.0]
    """
    value: float = getattr(config, field)
    for change in config.changes:
        changed = getattr(change, field)
        if changed is not None and change.step < step:
            value = changed
    return value


def learning_rate(config: PretrainConfig, step: int) -> float:
    """The learning rate of a step, from 1, of a pretraining job.

    A change gives the schedule another peak; its shape goes on, as far as it is.
    """
    peak = in_force(config, step, "learning_rate")
    if config.schedule == "inverse_sqrt":
        return inverse_sqrt(step, peak=peak, warmup_steps=config.warmup_steps)
    fall = {"linear": linear, "cosine": cosine}[config.schedule]
    return fall(step, peak=peak, warmup_steps=config.warmup_steps, total_steps=config.steps)
