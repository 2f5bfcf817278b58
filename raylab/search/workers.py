"""One pretraining job on several training workers of Ray Train, as its Tune actor sees it and as a worker does."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
from ray.train.torch import get_device

from raylab.search.deaths import Death, WorkersLost
from raylab.search.execution import Execution, Stamped, set_up_process
from raylab.search.job_log import printed_to
from raylab.search.mailbox import REPORT_SECONDS, JobFailure, Mail, Mailbox, is_out_of_memory
from raylab.search.network import NodeTorchConfig
from raylab.search.storage import Storage
from raylab.search.trainer import TrialTrainer
from raylab.search.vigil import Vigil
from raylab.train.distributed import Workers

_STOP_SECONDS = 300.0
"""How long a stopped job may take to write its checkpoint."""


class DistributedExecution:
    """A job under way on several workers; driven as an `Execution` is.

    The workers take the bundles of the placement group of the Tune trial in whose actor this is. A worker that dies
    stops all, and the driver starts the job again from its last checkpoint, elsewhere where its node is lost; when this
    actor dies, they die with it.

    Args:
        settings: The actor's configuration, `job` and `workers` among it.

    Attributes:
        history: Empty: what was measured before is the first that `advance` returns.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.history: list[Stamped] = []
        self._mail = Mail([])
        self._mailbox = ray.remote(num_cpus=0)(Mailbox).remote(settings["workers"])
        self._limit = settings["hang_seconds"]
        self._storage: Storage = settings["storage"]
        job = settings["job"]
        self._key = job.key
        self._scratch = settings["storage"].folder(job.key) / "train"
        self._trainer = TrialTrainer(
            _train,
            train_loop_config={**settings, "mailbox": self._mailbox},
            torch_config=NodeTorchConfig(backend="cpu:gloo,cuda:nccl" if settings["device"] == "cuda" else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=settings["workers"],
                use_gpu=settings["device"] == "cuda",
                resources_per_worker={"CPU": settings["threads"]},
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(self._scratch.parent),
                failure_config=ray.train.FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
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

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life of the worker that was heard of last."""
        return self._mail.silence

    @property
    def nodes(self) -> set[str]:
        """The nodes of the workers, as Ray names them; none while they start."""
        return self._trainer.nodes()

    def advance(self, seconds: float) -> tuple[list[Stamped], bool]:
        """Let the workers work for about `seconds`.

        Returns:
            What they measured, and whether the job is done.

        Raises:
            JobFailure: It failed by itself.
            WorkersLost: A worker died, or they could not start.
            ray.exceptions.RayError: Another process died.
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
                raise mail.failure or _lost(self._error)
        elif mail.silence > self._limit and mail.stacks:
            where = "".join(f"worker {rank}:\n{stacks}\n" for rank, stacks in sorted(mail.stacks.items()))
            self._storage.write_error(self._key, f"it made no progress; where its threads were:\n\n{where}")
        return mail.fresh, mail.done

    def ask_for_checkpoint(self) -> None:
        """Have the workers write a checkpoint soon, and go on."""
        ray.get(self._mailbox.ask_for_checkpoint.remote())

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
        rank = ray.train.get_context().get_world_rank()
        with printed_to(settings["storage"].folder(settings["job"].key) / f"log.{rank}.txt"):
            _work(settings, mailbox)
    except Exception as error:
        if _may_be_of_lost_worker(error):
            raise  # the driver starts the job again
        # To raise would be to start it again, for nothing: the Tune actor ends the workers when it reads this.
        ray.get(mailbox.post_failure.remote(JobFailure.of(error)))


def _work(settings: Mapping[str, Any], mailbox: Any) -> None:
    set_up_process(int(settings["threads"]))
    workers = Workers.current()
    rank, leads = workers.rank, workers.rank == 0
    storage, job = settings["storage"], settings["job"]
    if leads and storage.has_files(job.key):  # by a first worker that died right after
        ray.get(mailbox.post.remote([], 1.0, True))
        return
    # Of this worker's own work: where it waits for another one, it hangs as well.
    vigil = Vigil(
        lambda stacks: ray.get(mailbox.post_stacks.remote(rank, stacks)),
        lambda count: ray.get(mailbox.post_sign.remote(rank)),
    )
    limit = settings["hang_seconds"]
    with vigil.over(limit):
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
    checkpoints = 0
    while True:
        mailbox.post_sign.remote(rank)
        # Here alone the first worker does what the others do not, and it waits for none of them.
        if leads:
            order = ray.get(mailbox.post.remote(fresh, execution.progress, done))
            if not done and (order.stop or order.checkpoint > checkpoints):
                checkpoints = order.checkpoint
                execution.save()
            if not done and order.stop:
                ray.get(mailbox.post_stopped.remote())
                return
        if done:
            return
        with vigil.over(limit):
            fresh, done = execution.advance(REPORT_SECONDS)


def _may_be_of_lost_worker(error: Exception) -> bool:
    """Whether the worker may have failed because another one died: an operation that they do together says so."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, RuntimeError | ConnectionError | ray.exceptions.RayError)


def _lost(error: Exception | None) -> WorkersLost:
    """What the driver hears when Ray Train gave up."""
    details = "" if error is None else "".join(traceback.format_exception(error))
    failures = list(getattr(error, "worker_failures", {}).values())
    own = [failure for failure in failures if isinstance(failure, RuntimeError)]
    deaths = [Death.of(getattr(failure, "health_check_failure", failure)) for failure in failures if failure not in own]
    if deaths:  # what the others raised is of this
        death = next((death for death in deaths if death.blameless), deaths[0])
        return WorkersLost(f"a worker was lost: {death.reason}", death.blameless, details)
    if own:
        return WorkersLost(f"a worker failed: {JobFailure.of(own[0]).reason}", False, details)
    return WorkersLost("its workers could not start", True, details)
