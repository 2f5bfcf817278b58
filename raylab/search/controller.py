"""Tune's controller as a sweep of days needs it: it knows what a dead process means, and sees one that hangs.

By itself Tune counts every failure of a trial alike, whether its node was preempted or it failed at once, and however
far it came in between; gives a trial up at the first death of an actor that was just taking it over; ends the whole
sweep when Ray kills a process for want of memory; and waits for ever for an actor that does not answer. There is no
public option for any of this: the places that it takes are all in this file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.experiment import Trial

from raylab.search.deaths import Death, Deaths
from raylab.search.lean import LeanController, remembered_trainables
from raylab.search.searcher import JobSearcher
from raylab.search.vigil import forget, signs_of_life
from raylab.search.worker import hang_limit

_WATCH_SECONDS = 1.0
"""Between two looks for processes that hang."""

_ASK_SECONDS = 4.0
"""Between two looks for signs of life of a process that does not report."""

_GRACE_SECONDS = 10.0
"""Given to a process beyond its limit, to write down where it hangs."""

_ABSENCE_SECONDS = 10.0
"""Without a look the driver itself was away: stopped, or its disk was. Reports wait for it then."""


class SweepController(LeanController):
    """A controller of jobs.

    Args:
        searcher: Where the jobs come from; it is told why one is given up.
        hang_seconds: How long a job may make no progress.
        arguments: Tune's own.
    """

    def __init__(self, searcher: JobSearcher, hang_seconds: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._actor_manager: Any = _ActorManager(self._placements)
        self._searcher = searcher
        self._hang_seconds = hang_seconds
        self._deaths: dict[str, Deaths] = {}
        self._hung: dict[str, Death] = {}
        self._last_error: dict[str, BaseException] = {}
        self._progress_at: dict[Any, float] = {}  # when an actor last made progress, as far as is known
        self._asked: dict[Any, float] = {}
        self._signs: dict[str, int] = {}
        self._looked = time.monotonic()

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Nothing but an empty note at the end, where Tune looks for one: a sweep goes on from the storage."""
        if force and wait:
            super().checkpoint(force, wait)

    def save_to_dir(self) -> None:
        """Write the empty note."""
        note = Path(self.experiment_state_path)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"trial_data": [], "runner_data": {}, "stats": {}}), encoding="utf-8")

    def on_step_begin(self) -> None:
        """Look for processes that hang, besides what Tune does."""
        super().on_step_begin()
        now = time.monotonic()
        if now - self._looked < _WATCH_SECONDS:
            return
        if now - self._looked > _ABSENCE_SECONDS:
            self._progress_at = dict.fromkeys(self._progress_at, now)
        self._looked = now
        for actor, (handle, _) in list(self._actor_manager._live_actors_to_ray_actors_resources.items()):
            trial = self._actor_to_trial.get(actor)
            if trial is None:  # it waits for a job, or ends
                self._progress_at.pop(actor, None)
                self._asked.pop(actor, None)
            elif now - self._progress_at.setdefault(actor, now) > _ASK_SECONDS:
                self._look_at(actor, handle, trial)

    def _look_at(self, actor: Any, handle: Any, trial: Trial) -> None:
        """End a process of which nothing is heard for too long, neither a report nor another sign of life."""
        now, name = time.monotonic(), handle._actor_id.hex()
        if now - self._asked.get(actor, 0.0) > _ASK_SECONDS:
            self._asked[actor] = now
            with contextlib.suppress(RayError):  # the head is away for a while
                count = signs_of_life(name)
                if count is not None and count != self._signs.get(name):
                    self._signs[name] = count
                    self._progress_at[actor] = now
        limit = hang_limit(trial.config["job"], self._hang_seconds)
        if now - self._progress_at[actor] <= limit + _GRACE_SECONDS:
            return
        # One that never came up may have waited for a node.
        self._hung[trial.trial_id] = Death.of_hanging(limit, actor not in self._started_actors)
        self._progress_at[actor] = now
        ray.kill(handle)

    def cleanup(self) -> None:
        """Clean up, the signs of life too."""
        for name in self._signs:
            with contextlib.suppress(Exception):  # the cluster may be gone
                forget(name)
        super().cleanup()

    def _on_training_result(self, trial: Trial, result: Any) -> None:
        if isinstance(result, dict) and "progress" in result:
            self._deaths.setdefault(trial.trial_id, Deaths()).progressed(result["progress"])
            self._progress_at[self._trial_to_actor[trial]] = time.monotonic() - result["silence"]
            if result["done"]:
                self._deaths.pop(trial.trial_id, None)
                self._last_error.pop(trial.trial_id, None)
        super()._on_training_result(trial, result)

    def _process_trial_failure(self, trial: Trial, exception: Any) -> None:
        # Of an actor that dies while it takes a job over Tune hears twice, of the actor and of its task, and gives up
        # at the second.
        if self._last_error.get(trial.trial_id) is exception:
            return
        self._last_error[trial.trial_id] = exception
        self._resetting_trials.discard(trial)
        if trial.status == Trial.PENDING:
            self._set_trial_status(trial, Trial.RUNNING)
        deaths = self._deaths.setdefault(trial.trial_id, Deaths())
        death = self._hung.pop(trial.trial_id, None) or Death.of(exception)
        give_up = deaths.died(death)
        if give_up:
            storage, key = trial.config["storage"], trial.config["job"].key
            stacks = storage.read_error(key) if death.may_have_left_stacks else None
            storage.write_error(key, f"{deaths.details}\n{stacks or ''}")
            self._searcher.given_up[trial.trial_id] = deaths.reason
            self._deaths.pop(trial.trial_id)
        else:
            self._searcher.interrupted(trial.trial_id, death.reason)
        trial.max_failures = -1
        if give_up:
            trial.max_failures = 0
            trial.run_metadata.num_failures = 1  # beyond it, also where Tune does not count this one
        super()._process_trial_failure(trial, exception)


class _ActorManager(RayActorManager):
    """Takes every error of Ray for what it is: the end of an actor, or of its task."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = _ended_by(exception)
        super()._actor_task_failed(tracked_actor_task, exception)


def _ended_by(error: RayError) -> RayActorError:
    """The error that Tune expects, which still tells of the one that it got."""
    wrapped = RayActorError(error_msg=str(error))
    wrapped.__cause__ = error
    return wrapped


@contextlib.contextmanager
def sweep_controller(searcher: JobSearcher, hang_seconds: float) -> Iterator[None]:
    """Have the Tuner that runs meanwhile use a `SweepController`."""
    module: Any = importlib.import_module("ray.tune.tune")
    before = module.TuneController
    module.TuneController = lambda **arguments: SweepController(searcher, hang_seconds, **arguments)
    said = ray._private.worker.print_to_stdstream
    # Ray says of each node that is lost what its raylet's log held last: dozens of lines, of use to Ray's developers.
    ray._private.worker.print_to_stdstream = lambda *arguments, **options: None
    try:
        with remembered_trainables():
            yield
    finally:
        ray._private.worker.print_to_stdstream = said
        module.TuneController = before
