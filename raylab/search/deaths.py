"""Why a job's process died, in words for people, and how often one may die before its job is given up."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray.exceptions import (
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

RETRIES = 3
"""How often work is started again after a process died that did it."""

BLAMELESS_RETRIES = 10 * RETRIES
"""How often a job is started again, without progress, that lost its node: it is not to blame, but may be after all."""

_MEMORY_ADVICE = (
    "fewer jobs on a node (scaling.cpus_per_worker), a smaller batch_size, or scaling.accumulation when pretraining, "
    "may help"
)

_LOST_NODE = "node has died"  # in Ray's own words


class Preempted(RayError):
    """A process was told to end, has written a checkpoint, and goes on elsewhere."""


class WorkersLost(RayError):
    """The training workers of a job ended before it did.

    Args:
        reason: Why, in one line.
        blameless: Whether the job had no part in it.
        details: For error.txt.
    """

    def __init__(self, reason: str, blameless: bool, details: str) -> None:
        super().__init__(reason, blameless, details)
        self.reason = reason
        self.blameless = blameless
        self.details = details


@dataclass(frozen=True)
class Death:
    """Why a process of a job died.

    Attributes:
        reason: For people, in one line.
        blameless: Whether the job had no part in it.
        details: For error.txt.
        advice: What may help, when it goes on like this.
        may_have_left_stacks: Whether the process itself may have written into error.txt where it hung.
    """

    reason: str
    blameless: bool
    details: str
    advice: str = ""
    may_have_left_stacks: bool = False

    @classmethod
    def of_hanging(cls, seconds: float, blameless: bool) -> Death:
        """It made no progress for so long that it was killed."""
        advice = "the stacks of its threads, where it could write them, are in error.txt"
        return cls(f"no progress for {seconds:g} s", blameless, "Killed by the driver.", advice, True)

    @classmethod
    def of(cls, error: BaseException) -> Death:
        """What Ray's error says of it."""
        details = str(error)
        if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
            error = error.cause
        elif isinstance(error.__cause__, RayError):
            error = error.__cause__
        if isinstance(error, WorkersLost):
            return cls(error.reason, error.blameless, error.details)
        if isinstance(error, Preempted):
            return cls("its process was told to end", True, details)
        if isinstance(error, OutOfMemoryError):
            return cls("Ray killed its process: the memory of the node was nearly full", False, details, _MEMORY_ADVICE)
        if isinstance(error, RayActorError) and (error.preempted or _LOST_NODE in details):
            return cls("its node was preempted" if error.preempted else "its node was lost", True, details)
        if isinstance(error, NodeDiedError | LocalRayletDiedError | ActorUnavailableError):
            return cls("its node was lost, or out of reach", True, details)
        if "connection error code 2" in details:
            advice = "where memory was short, the kernel's log on the node says that it killed it"
            return cls("its process was killed from outside, or crashed", False, details, advice)
        lines = [line.strip() for line in details.splitlines() if line.strip()] or [type(error).__name__]
        return cls(f"its process died: {lines[-1]}", False, details)


@dataclass
class Deaths:
    """The deaths of one job since it last made progress.

    Progress is more of the work done than ever before: a job that dies at the same place again and again makes none,
    one that is preempted ten times on its way does.
    """

    _furthest: float = 0.0
    _furthest_at_death: float = 0.0
    _since: list[Death] = field(default_factory=list)

    def progressed(self, progress: float) -> None:
        """Hear how far the job is, from 0 to 1."""
        self._furthest = max(self._furthest, progress)

    def died(self, death: Death) -> bool:
        """Hear of a death; whether the job is to be given up."""
        if self._furthest > self._furthest_at_death:
            self._since = []
        self._furthest_at_death = self._furthest
        self._since.append(death)
        own = sum(not death.blameless for death in self._since)
        return own > RETRIES or len(self._since) > BLAMELESS_RETRIES

    @property
    def reason(self) -> str:
        """Why the job is given up, in one line."""
        if not self._since:
            return "its process died"
        last = self._since[-1]
        times = f"{last.reason} ({len(self._since)} deaths without progress between them)"
        return f"{times}; {last.advice}" if last.advice else times

    @property
    def details(self) -> str:
        """All that Ray said of these deaths."""
        return "\n\n".join(f"{death.reason}\n{death.details}" for death in self._since) + "\n"
