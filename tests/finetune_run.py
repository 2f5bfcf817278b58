"""Finetuning runs in tests."""

from __future__ import annotations

from collections.abc import Callable

from raylab.train.finetune import FinetuneRun
from raylab.train.run import Measurement

Start = Callable[..., FinetuneRun]
"""The fixture `start`: begins a run of a small job; keyword arguments change the job."""


def complete(run: FinetuneRun) -> list[Measurement]:
    """Train to the end."""
    measured = []
    while not run.finished:
        measured += run.advance(0.2)
    return measured
