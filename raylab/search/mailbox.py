"""What the training workers of one job and its Tune actor tell each other. It imports nothing that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from raylab.errors import InputError

if TYPE_CHECKING:
    from raylab.search.execution import Stamped


REPORT_SECONDS = 1.0
"""Work between two reports to the driver: the delay of Ctrl-C, and of what MLflow shows."""


class JobFailure(Exception):
    """A job failed by itself: to run it again would be no use.

    Args:
        reason: For people, in one line.
        bad_input: Whether the user's input is at fault.
        details: The traceback.
    """

    def __init__(self, reason: str, bad_input: bool, details: str) -> None:
        super().__init__(reason, bad_input, details)
        self.reason = reason
        self.bad_input = bad_input
        self.details = details

    @classmethod
    def of(cls, error: Exception) -> JobFailure:
        """What a job's own error says to the user."""
        details = "".join(traceback.format_exception(error))
        if isinstance(error, InputError):
            return cls(str(error), True, details)
        first = (str(error).strip().splitlines() or [""])[0]
        what = f"{type(error).__name__}: {first}" if first else type(error).__name__
        return cls(f"{what}{_MEMORY_HINT}" if is_out_of_memory(error) else what, False, details)


_MEMORY_HINT = (
    "; it needs less memory with a smaller batch_size or max_length (finetune), or with a smaller batch_size or "
    "sequence_length, or scaling.accumulation, when pretraining"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the process asked for more memory, of its machine or its GPU, than there is."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, which is not imported for its name's sake
        or "can't allocate memory" in str(error)  # of PyTorch's CPU allocator, a RuntimeError
    )


class Order(NamedTuple):
    """What the Tune actor asks of the workers.

    Attributes:
        stop: To write a checkpoint and stop.
        checkpoint: A number; to write a checkpoint when it is larger than the last time.
    """

    stop: bool
    checkpoint: int


@dataclass
class Mail:
    """How the work stands, and what was measured since the last time.

    Attributes:
        fresh: What was measured.
        progress: Share of the work that is done, from 0 to 1.
        begun: Whether the workers are at work, and hear that they shall stop.
        done: Whether the job has its result.
        failure: Why it never will.
        stopped: Whether the workers have written a checkpoint and stopped, as they were asked.
        silence: Seconds without a sign of life of the worker that was heard of last.
        stacks: Where the threads of workers were that hung, by rank.
    """

    fresh: list[Stamped]
    progress: float = 0.0
    begun: bool = False
    done: bool = False
    failure: JobFailure | None = None
    stopped: bool = False
    silence: float = 0.0
    stacks: dict[int, str] = field(default_factory=dict)


class Mailbox:
    """A Ray actor between the two, for neither can listen while it works.

    Args:
        workers: How many there are.
    """

    def __init__(self, workers: int) -> None:
        self._mail = Mail([])
        self._order = Order(False, 0)
        self._ended = asyncio.Event()
        self._heard_at = dict.fromkeys(range(workers), time.monotonic())

    async def post(self, fresh: list[Stamped], progress: float, done: bool) -> Order:
        """From the first worker: what it measured, how far it is, and whether the job has its result."""
        self._mail.fresh += fresh
        self._mail.progress = progress
        self._mail.begun = True
        if done:
            self._mail.done = True
            self._ended.set()
        return self._order

    async def post_failure(self, failure: JobFailure) -> None:
        """From any worker: the job failed by itself. The first to say so is believed."""
        self._mail.failure = self._mail.failure or failure
        self._ended.set()

    async def post_stopped(self) -> None:
        """From the first worker: there is a checkpoint, and no work goes on."""
        self._mail.stopped = True
        self._ended.set()

    async def stop(self) -> None:
        """From the Tune actor: ask the workers to write a checkpoint and stop."""
        self._order = self._order._replace(stop=True)

    async def ask_for_checkpoint(self) -> None:
        """From the Tune actor: ask the workers to write a checkpoint, and go on."""
        self._order = self._order._replace(checkpoint=self._order.checkpoint + 1)

    async def post_sign(self, rank: int) -> None:
        """From any worker: its work goes on."""
        self._heard_at[rank] = time.monotonic()

    async def post_stacks(self, rank: int, stacks: str) -> None:
        """From any worker: its work hangs."""
        self._mail.stacks[rank] = stacks

    async def take(self, seconds: float) -> Mail:
        """For the Tune actor: what there is after `seconds`, or at once when the work has ended."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        taken, self._mail = self._mail, replace(self._mail, fresh=[])
        return replace(taken, silence=time.monotonic() - min(self._heard_at.values()))
