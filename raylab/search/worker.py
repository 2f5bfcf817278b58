"""The one Tune trainable: it runs any job in pieces, and its process stays warm from job to job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.exceptions import RayError

from raylab.search.execution import REPORT_SECONDS, Execution, set_up_process
from raylab.search.mailbox import JobFailure
from raylab.search.storage import Storage

if TYPE_CHECKING:
    from raylab.search.workers import DistributedExecution


class JobWorker(tune.Trainable):
    """Runs jobs, one after another: in this process, or on training workers that it starts and watches.

    A job goes on from its last checkpoint whatever ended it before: this actor, its node or the driver. A job that
    raises is reported as failed, and the actor takes the next one; an actor that dies is Tune's to start again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first job; Tune calls this in a new actor."""
        set_up_process(int(config["threads"]))
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next job in this actor."""
        # Names apart from the base class's own attributes.
        self._job_settings = new_config
        self._results = Storage(Path(new_config["storage"]))
        self._execution: Execution | DistributedExecution | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Work for about a second; Tune calls this until it reports `done`."""
        try:
            before = []
            if self._execution is None:
                self._execution = self._begin()
                before = list(self._execution.history)
            fresh, done = self._execution.advance(REPORT_SECONDS)
            progress = self._execution.progress
            if done:
                self._execution = None
            return {"done": done, "fresh": before + fresh, "progress": progress}
        except RayError:  # a process died that this one leans on: Tune starts the job again
            self._execution = None
            raise
        except JobFailure as failure:
            return self._give_up(failure)
        except Exception as error:  # the job's own failure: the actor is sound, and other jobs go on
            return self._give_up(JobFailure.of(error))

    def cleanup(self) -> None:
        """Keep what an unfinished job has done; Tune calls this when it stops the actor."""
        if self._execution is not None:
            self._execution.save()

    def _begin(self) -> Execution | DistributedExecution:
        settings = self._job_settings
        if settings["workers"] > 1:
            from raylab.search.workers import DistributedExecution  # it takes a second that few actors need

            return DistributedExecution(settings)
        return Execution(
            settings["job"],
            self._results,
            settings["source"],
            settings["device"],
            settings["checkpoint_seconds"],
            accumulation=settings["accumulation"],
            compile=settings["compile"],
        )

    def _give_up(self, failure: JobFailure) -> dict[str, Any]:
        self._execution = None
        folder = self._results.folder(self._job_settings["job"].key)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(failure.details, encoding="utf-8")
        return {"done": True, "error": failure.reason, "bad_input": failure.bad_input}
