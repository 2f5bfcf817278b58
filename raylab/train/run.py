"""What every job looks like to whoever drives it: work in pieces, stoppable and resumable between any two."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Measurement(NamedTuple):
    """One value of a metric at one step."""

    name: str
    value: float
    step: int


class Run(Protocol):
    """One job's work."""

    @property
    def finished(self) -> bool:
        """Whether all work is done, and `finish` may be called."""

    @property
    def progress(self) -> float:
        """Share of the work that is done, from 0 to 1."""

    def advance(self, seconds: float) -> list[Measurement]:
        """Work for about `seconds` (at least one small unit of work) and return what was measured meanwhile."""

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from here in another process, fit for `torch.save`."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`, given by an equal job."""

    def finish(self, folder: Path) -> dict[str, Any]:
        """Write the job's lasting files into `folder` and return its result, fit for JSON."""
