"""The one Tune trainable: it runs any job in pieces, and its process stays warm from job to job."""

from __future__ import annotations

import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.exceptions import RayError

from raylab.heartbeat import beat
from raylab.search.deaths import Preempted
from raylab.search.job_log import LOG_FILE, printed_to
from raylab.search.mailbox import REPORT_SECONDS, JobFailure
from raylab.search.plan import Job
from raylab.search.storage import Storage
from raylab.search.vigil import Vigil, pass_on

if TYPE_CHECKING:
    from raylab.search.execution import Execution
    from raylab.search.workers import DistributedExecution

DRAINING_SECONDS = 5.0
"""Work between two checkpoints on a node that will be taken away."""

_IN_ONE_PIECE = frozenset({"prepare", "import"})
"""Kinds of jobs with long pieces that give no sign of life: a tokenizer is trained, a model downloaded."""


def hang_limit(job: Job, hang_seconds: float) -> float:
    """How long a job may make no progress, in seconds."""
    return hang_seconds * 10 if job.kind in _IN_ONE_PIECE else hang_seconds


class JobWorker(tune.Trainable):
    """Runs jobs, one after another: in this process, or on training workers that it starts and watches.

    A job goes on from its last checkpoint whatever ended it before: this actor, its node or the driver. A job that
    raises is reported as failed, and the actor takes the next one; an actor that dies, or makes no progress, is the
    driver's to start again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first job; Tune calls this in a new actor."""
        from raylab.search.execution import set_up_process  # and with it torch, which the driver does without

        set_up_process(int(config["threads"]))
        self._vigil = Vigil(self._note_hang, partial(pass_on, ray.get_runtime_context().get_actor_id()))
        self._told_to_end = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note_end)
        self._execution: Execution | DistributedExecution | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next job in this actor."""
        if self._execution is not None:
            self._execution.close()  # it was stopped early
        # Names apart from the base class's own attributes.
        self._job_settings = new_config
        self._results: Storage = new_config["storage"]
        self._execution = None
        self._share = 0.0
        self._saved = 0.0
        return True

    def step(self) -> dict[str, Any]:
        """Work for about a second; Tune calls this until it reports `done`."""
        settings = self._job_settings
        try:
            with (
                self._vigil.over(hang_limit(settings["job"], settings["hang_seconds"])),
                printed_to(self._results.folder(settings["job"].key) / LOG_FILE),
            ):
                return self._work()
        except RayError:  # a process died that this one leans on, or this one shall end: Tune starts the job again
            self._execution = None
            raise
        except JobFailure as failure:
            return self._give_up(failure)
        except Exception as error:  # the job's own failure: the actor is sound, and other jobs go on
            return self._give_up(JobFailure.of(error))

    def get_auto_filled_metrics(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """What Tune adds to every report, but for the configuration, which the driver has."""
        filled: dict[str, Any] = super().get_auto_filled_metrics(*arguments, **options)
        filled.pop("config", None)
        return filled

    def cleanup(self) -> None:
        """Keep what an unfinished job has done; Tune calls this when it stops the actor."""
        if self._execution is not None:
            self._execution.save()

    def _work(self) -> dict[str, Any]:
        before = []
        if self._execution is None:
            self._execution = self._begin()
            before = list(self._execution.history)
        fresh, done = self._execution.advance(REPORT_SECONDS)
        report = {"done": done, "fresh": before + fresh, **self._state(self._execution)}
        if done:
            self._execution = None
        else:
            self._save_if_node_ends(self._execution)
        return report

    def _begin(self) -> Execution | DistributedExecution:
        settings = self._job_settings
        if settings["workers"] > 1:
            from raylab.search.workers import DistributedExecution  # it takes a second that few actors need

            return DistributedExecution(settings)
        from raylab.search.execution import Execution

        return Execution(
            settings["job"],
            self._results,
            settings["source"],
            settings["device"],
            settings["checkpoint_seconds"],
            self._note_share,
            accumulation=settings["accumulation"],
            compile=settings["compile"],
        )

    def _state(self, execution: Execution | DistributedExecution) -> dict[str, float]:
        """How far the job is, and how long it has made no progress."""
        return {"progress": max(self._share, execution.progress), "silence": execution.silence}

    def _save_if_node_ends(self, execution: Execution | DistributedExecution) -> None:
        """Write a checkpoint, at once and then every few seconds, where the node will be taken away."""
        if self._told_to_end:
            execution.save()
            raise Preempted("SIGTERM")
        if self._vigil.any_drains(execution.nodes) and time.monotonic() - self._saved > DRAINING_SECONDS:
            execution.ask_for_checkpoint()
            self._saved = time.monotonic()

    def _give_up(self, failure: JobFailure) -> dict[str, Any]:
        self._execution = None
        self._results.write_error(self._job_settings["job"].key, failure.details)
        return {
            "done": True,
            "fresh": [],
            "progress": self._share,
            "silence": 0.0,
            "error": failure.reason,
            "bad_input": failure.bad_input,
        }

    def _note_share(self, what: str, share: float) -> None:
        self._share = share
        beat()

    def _note_end(self, number: int, frame: Any) -> None:
        self._told_to_end = True

    def _note_hang(self, stacks: str) -> None:
        key = self._job_settings["job"].key
        self._results.write_error(key, f"it made no progress; where its threads were:\n\n{stacks}")
