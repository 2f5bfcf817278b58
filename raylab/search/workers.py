"""One pretraining job on several training workers of Ray Train, as its Tune actor sees it and as a worker does."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, get_device

from raylab.search.execution import REPORT_SECONDS, RETRIES, Execution, Stamped, set_up_process
from raylab.search.mailbox import JobFailure, Mail, Mailbox
from raylab.search.storage import Storage
from raylab.search.trainer import TrialTrainer
from raylab.train.distributed import Workers

_START_RETRIES = 60
"""How often workers that do not start are started again: once a minute, where a lost node is waited for."""

_STOP_SECONDS = 300.0
"""How long a stopped job may take to write its checkpoint."""


class DistributedExecution:
    """A job under way on several workers; driven as an `Execution` is.

    The workers take the bundles of the placement group of the Tune trial in whose actor this is. A worker that dies
    stops all, and Ray Train starts them again from the last checkpoint; when this actor dies, they die with it.

    Args:
        settings: The actor's configuration, `job` and `workers` among it.

    Attributes:
        history: Empty: what was measured before is the first that `advance` returns.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.history: list[Stamped] = []
        self._mail = Mail([])
        self._mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        job = settings["job"]
        self._scratch = Path(settings["storage"]) / "jobs" / job.key / "train"
        self._trainer = TrialTrainer(
            _train,
            train_loop_config={**settings, "mailbox": self._mailbox},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if settings["device"] == "cuda" else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=settings["workers"],
                use_gpu=settings["device"] == "cuda",
                resources_per_worker={"CPU": settings["threads"]},
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(self._scratch.parent),
                failure_config=ray.train.FailureConfig(max_failures=RETRIES, controller_failure_limit=_START_RETRIES),
            ),
        )
        self._error: Exception | None = None
        self._clear()  # of what an actor that died left
        self._thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        self._thread.start()

    @property
    def progress(self) -> float:
        """Share of the work that is done, from 0 to 1."""
        return self._mail.progress

    def advance(self, seconds: float) -> tuple[list[Stamped], bool]:
        """Let the workers work for about `seconds`.

        Returns:
            What they measured, and whether the job is done.

        Raises:
            JobFailure: It failed by itself, or lost workers too often.
            ray.exceptions.RayError: A process that is not a worker died.
        """
        running = self._thread.is_alive()  # asked before the mail, which so holds all that an ended run wrote
        try:
            self._mail = mail = ray.get(self._mailbox.take.remote(seconds))
        except ray.exceptions.RayError:
            self.close()
            raise
        if mail.done or mail.failure is not None or not running:
            self.close()
            if not mail.done:
                raise mail.failure or _failure_of_train(self._error)
        return mail.fresh, mail.done

    def save(self) -> None:
        """Have the workers write a checkpoint, and end."""
        ray.get(self._mailbox.stop.remote())
        deadline = time.monotonic() + _STOP_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            mail = ray.get(self._mailbox.take.remote(0.1))
            if not mail.begun:
                return  # they are not at work yet, and die with this actor
            if mail.stopped or mail.done or mail.failure:
                break
        self.close()

    def close(self) -> None:
        """End the workers as they are."""
        self._trainer.kill(self._thread)
        ray.kill(self._mailbox)
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:
            self._error = error


def _train(settings: dict[str, Any]) -> None:
    """What every worker does, in a process of its own; Ray Train has joined them in a process group."""
    mailbox = settings["mailbox"]
    try:
        _work(settings, mailbox)
    except Exception as error:
        if _may_be_of_lost_worker(error):
            raise  # Ray Train starts all workers again
        # To raise would be to start them again, for nothing: the Tune actor ends them when it reads this.
        ray.get(mailbox.post_failure.remote(JobFailure.of(error)))


def _work(settings: Mapping[str, Any], mailbox: Any) -> None:
    set_up_process(int(settings["threads"]))
    workers = Workers.current()
    leads = workers.rank == 0
    storage, job = Storage(Path(settings["storage"])), settings["job"]
    if leads and storage.is_finished(job.key):  # by a first worker that died right after
        ray.get(mailbox.post.remote([], 1.0, True))
        return
    execution = Execution(
        job,
        storage,
        settings["source"],
        str(get_device()) if settings["device"] == "cuda" else "cpu",
        settings["checkpoint_seconds"],
        workers=workers,
        accumulation=settings["accumulation"],
        compile=settings["compile"],
    )
    fresh, done = list(execution.history), False
    while True:
        # Here alone the first worker does what the others do not, and it waits for none of them.
        if leads and ray.get(mailbox.post.remote(fresh, execution.progress, done)) and not done:
            execution.save()
            ray.get(mailbox.post_stopped.remote())
            return
        if done:
            return
        fresh, done = execution.advance(REPORT_SECONDS)


def _may_be_of_lost_worker(error: Exception) -> bool:
    """Whether the worker may have failed because another one died: an operation that they do together says so."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, RuntimeError | ConnectionError | ray.exceptions.RayError)


def _failure_of_train(error: Exception | None) -> JobFailure:
    """What it says to the user that Ray Train gave up."""
    details = "" if error is None else "".join(traceback.format_exception(error))
    for reason in getattr(error, "worker_failures", {}).values():
        if isinstance(reason, RuntimeError):
            what = f"its workers failed more often than is retried; {JobFailure.of(reason).reason}"
            return JobFailure(what, False, details)
    return JobFailure("its workers died more often than is retried; the node's logs say why", False, details)
