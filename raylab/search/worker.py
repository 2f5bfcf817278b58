"""The one Tune trainable: it runs any job in pieces, and its process stays warm from job to job."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune

from raylab.data.source import Source
from raylab.errors import InputError
from raylab.search.execution import Execution
from raylab.search.storage import Storage
from raylab.train.memory import keep_freed_memory

REPORT_SECONDS = 1.0
"""Work between two reports to the driver: the delay of Ctrl-C, and of what MLflow shows."""


class JobWorker(tune.Trainable):
    """Runs jobs, one after another, in one process.

    A job goes on from its last checkpoint whatever ended it before: this actor, its node or the driver. A job that
    raises is reported as failed, and the actor takes the next one; an actor that dies is Tune's to start again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first job; Tune calls this in a new actor."""
        keep_freed_memory()
        torch.set_num_threads(int(config["threads"]))
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next job in this actor."""
        # Names apart from the base class's own attributes.
        self._job_settings = new_config
        self._results = Storage(Path(new_config["storage"]))
        self._execution: Execution | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Work for about a second; Tune calls this until it reports `done`."""
        try:
            before = []
            if self._execution is None:
                self._execution = Execution(
                    self._job_settings["job"],
                    self._results,
                    Source(Path(self._job_settings["source"])),
                    self._job_settings["device"],
                    self._job_settings["checkpoint_seconds"],
                )
                before = list(self._execution.history)
            fresh, done = self._execution.advance(REPORT_SECONDS)
            progress = self._execution.progress
            if done:
                self._execution = None
            return {"done": done, "fresh": before + fresh, "progress": progress}
        except InputError as error:
            return self._give_up(str(error), bad_input=True)
        except Exception as error:  # the job's own failure: the actor is sound, and other jobs go on
            return self._give_up(f"{type(error).__name__}: {error}", bad_input=False)

    def cleanup(self) -> None:
        """Keep what an unfinished job has done; Tune calls this when it stops the actor."""
        if self._execution is not None:
            self._execution.save()

    def _give_up(self, error: str, *, bad_input: bool) -> dict[str, Any]:
        self._execution = None
        folder = self._results.folder(self._job_settings["job"].key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        return {"done": True, "error": error, "bad_input": bad_input}
