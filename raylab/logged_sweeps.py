"""Which sweeps have logged a study's runs, noted in the tags of its MLflow experiment.

MLflow's server says of an experiment neither what is new in it nor what was deleted. With these notes a reader that
keeps what it has read (`analysis.cache`) asks for the runs of new sweeps alone.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "raylab.sweeps"
"""Of the experiment: a `Note` as JSON."""

RUN_TAG = "sweep"
"""Of a run: the sweep that logged it."""

_MOST = 250  # of as many the note is below what MLflow takes as a tag


@dataclass
class Note:
    """What the tag says.

    Attributes:
        all: The last sweeps that logged anything, oldest first.
        open: The one that may be logging now, or was killed.
        removed: How many times finished runs were removed or marked: what was read before may be gone.
    """

    all: list[str] = field(default_factory=list)
    open: str | None = None
    removed: int = 0

    @classmethod
    def read(cls, tag: str | None) -> Note | None:
        """The note in a tag, if there is one."""
        try:
            return None if tag is None else cls(**json.loads(tag))
        except (ValueError, TypeError):  # of another version
            return None

    def changed_since(self, before: Note) -> list[str] | None:
        """The sweeps whose runs may differ from what they were at an earlier note; None: all runs may."""
        if self.removed != before.removed or (before.all and before.all[-1] not in self.all):
            return None
        return [sweep for sweep in self.all if sweep not in before.all or sweep in (before.open, self.open)]


class LoggedSweeps:
    """The note of one experiment, kept by a sweep.

    Args:
        client: What reaches MLflow.
        experiment: The experiment's identifier.
    """

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client = client
        self._experiment = experiment
        self._note = Note.read(client.get_experiment(experiment).tags.get(TAG)) or Note()
        self._own = f"{time.time_ns() // 1_000_000:x}"
        self._removed = False

    def begin(self) -> str:
        """The tag of a run that is about to be logged; the first one notes the sweep."""
        if self._note.open != self._own:
            self._note.all = [*self._note.all, self._own][-_MOST:]
            self._note.open = self._own
            self._write()
        return self._own

    def remove(self) -> None:
        """A finished run is gone, or marked, or no longer marked."""
        self._removed = True

    def flush(self) -> None:
        """Note what was removed."""
        if self._removed:
            self._removed = False
            self._note.removed += 1
            self._write()

    def close(self) -> None:
        """The sweep logs no more."""
        self.flush()
        if self._note.open == self._own:
            self._note.open = None
            self._write()

    def _write(self) -> None:
        self._client.set_experiment_tag(self._experiment, TAG, json.dumps(asdict(self._note)))
