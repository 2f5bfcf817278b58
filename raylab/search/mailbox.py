"""What the training workers of one job and its Tune actor tell each other. It imports nothing that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raylab.errors import InputError

if TYPE_CHECKING:
    from raylab.search.execution import Stamped


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
        return cls(f"{type(error).__name__}: {first}" if first else type(error).__name__, False, details)


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
    """

    fresh: list[Stamped]
    progress: float = 0.0
    begun: bool = False
    done: bool = False
    failure: JobFailure | None = None
    stopped: bool = False


class Mailbox:
    """A Ray actor between the two, for neither can listen while it works."""

    def __init__(self) -> None:
        self._mail = Mail([])
        self._stop = False
        self._ended = asyncio.Event()

    async def post(self, fresh: list[Stamped], progress: float, done: bool) -> bool:
        """From the first worker: what it measured, how far it is, and whether the job has its result.

        Returns:
            Whether to write a checkpoint and stop.
        """
        self._mail.fresh += fresh
        self._mail.progress = progress
        self._mail.begun = True
        if done:
            self._mail.done = True
            self._ended.set()
        return self._stop

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
        self._stop = True

    async def take(self, seconds: float) -> Mail:
        """For the Tune actor: what there is after `seconds`, or at once when the work has ended."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        taken, self._mail = self._mail, replace(self._mail, fresh=[])
        return taken
