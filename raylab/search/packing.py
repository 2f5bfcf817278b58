"""When a job of several workers can start, and which smaller jobs may run until then: EASY backfilling.

The next job reserves the earliest time at which, by the estimates, enough slots are free for it. A job behind it may
start before it if that does not delay this: it ends by then, or it takes slots that the next job leaves free.
(Lifka 1995, "The ANL/IBM SP scheduling system".)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple


class Gap(NamedTuple):
    """What the next job leaves to others.

    Attributes:
        free: Slots that are free now.
        seconds: Until enough of them are; infinite where the cluster is too small.
        spare: Slots that are free then, beside those that it takes.
    """

    free: int
    seconds: float
    spare: int

    def takes(self, workers: int, seconds: float) -> bool:
        """Whether a job of so many workers and estimated seconds may start now, before the next one."""
        return workers <= self.free and (seconds <= self.seconds or workers <= self.spare)


def gap_before(needed: int, slots: int, running: Iterable[tuple[int, float]]) -> Gap:
    """The gap before a job that has no room yet.

    Args:
        needed: Its workers, each in one slot.
        slots: Of the whole cluster.
        running: Workers of each running job, and the estimated seconds until it ends.
    """
    ends = sorted((seconds, workers) for workers, seconds in running)
    free = slots - sum(workers for _, workers in ends)
    for until in dict.fromkeys(seconds for seconds, _ in ends):
        then = free + sum(workers for seconds, workers in ends if seconds <= until)
        if then >= needed:
            return Gap(free, until, then - needed)
    return Gap(free, math.inf, 0)
