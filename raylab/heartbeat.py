"""Signs of life of the work of this process: who watches hears how long there was none.

What takes long says that it goes on.

A training step needs no sign of its own; loops over many batches, and pieces of work of another kind, do.
"""

from __future__ import annotations

import time

_last = time.monotonic()
_count = 0


def beat() -> None:
    """Say that the work goes on."""
    global _last, _count
    _last = time.monotonic()
    _count += 1


def beats() -> int:
    """How many signs of life there were."""
    return _count


def silence() -> float:
    """Seconds since the last one."""
    return time.monotonic() - _last
