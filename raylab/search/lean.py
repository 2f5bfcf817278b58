"""Tune's controller for a stream of many thousand short trials: what it holds and asks does not grow with their number.

By itself Tune keeps every trial that ever ran, with its configuration and last result, and looks through all of them at
every step; asks Ray's key-value store five times a trial which class its trainable is; and requests a placement group
for each trial that waits, which is withdrawn unused when the trial takes over an actor instead. There is no public
option for any of this: the places that it takes are all in this file.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray
from ray.air.execution import PlacementGroupResourceManager, ResourceRequest
from ray.tune import registry
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

_SPARE_SECONDS = 1.0
"""How long a placement group that nothing waits for any more is kept for the next trial."""


class LeanController(TuneController):
    """A controller that forgets the trials that have ended.

    Args:
        arguments: Tune's own.
    """

    def __init__(self, **arguments: Any) -> None:
        self._placements = _Placements()
        arguments["resource_manager_factory"] = lambda: self._placements
        # It keeps every trial for lines that a sweep does not show.
        callbacks = arguments.pop("callbacks", None) or []
        callbacks = [callback for callback in callbacks if not isinstance(callback, TrialProgressCallback)]
        self._pending_trials_list: list[Trial] = []
        super().__init__(callbacks=callbacks, **arguments)
        self._class_cache = _ActorClasses()

    def on_step_end(self) -> None:
        """Forget what has ended, besides what Tune does."""
        super().on_step_end()
        self._placements.withdraw_old()
        # Of those that wait; while actors are asked for, Tune does not look at it.
        self._pending_trials_list = [trial for trial in self._pending_trials_list if trial in self._pending_trials]
        ended = self._stopped_trials | self._failed_trials
        for trial in ended:
            if len(self._trials) > 1:  # at the end Tune looks for a file where it knows of no trial
                self.forget(trial)

    def forget(self, trial: Trial) -> None:
        """Drop every reference to a trial that has ended."""
        self._trials.remove(trial)
        for among in (self._live_trials, self._stopped_trials, self._failed_trials):
            among.discard(trial)

    def _remove_actor(self, tracked_actor: Any) -> None:
        super()._remove_actor(tracked_actor)
        # Tune keeps for ever what it would have told an actor that it withdraws before it started.
        self._actor_manager._pending_actors_to_enqueued_actor_tasks.pop(tracked_actor, None)

    def _mark_trial_to_checkpoint(self, trial: Trial) -> None:
        """Nothing: a sweep goes on from the storage."""


class _ActorClasses:
    """Actor classes as Ray makes them.

    Tune gives each environment variables of its own, and so a process that Ray has yet to start, beside those that it
    has ready.
    """

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}

    def get(self, trainable: type) -> Any:
        """The actor class of a trainable; the same each time."""
        if trainable not in self._made:
            self._made[trainable] = ray.remote(trainable)
        return self._made[trainable]


class _Placements(PlacementGroupResourceManager):
    """Placement groups of which one that is withdrawn serves the next request that is equal, if that comes soon."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._spare: Counter[ResourceRequest] = Counter()
        self._spare_since = 0.0

    def request_resources(self, resource_request: ResourceRequest) -> None:
        if self._spare[resource_request]:
            self._spare[resource_request] -= 1
            return
        self._withdraw()  # what is not of use must not take the place of what is
        super().request_resources(resource_request)

    def cancel_resource_request(self, resource_request: ResourceRequest) -> None:
        if not self._spare.total():
            self._spare_since = time.monotonic()
        self._spare[resource_request] += 1

    def withdraw_old(self) -> None:
        """Withdraw the placement groups that were not of use soon."""
        if self._spare.total() and time.monotonic() - self._spare_since > _SPARE_SECONDS:
            self._withdraw()

    def _withdraw(self) -> None:
        for request in self._spare.elements():
            super().cancel_resource_request(request)
        self._spare.clear()


@contextlib.contextmanager
def remembered_trainables() -> Iterator[None]:
    """Have Tune ask for a trainable once."""
    tunes = registry._global_registry
    known: dict[tuple[str, str], Any] = {}
    get, contains = tunes.get, tunes.contains

    def remembered(category: str, key: str) -> Any:
        if (category, key) not in known:
            known[category, key] = get(category, key)
        return known[category, key]

    tunes.get = remembered
    tunes.contains = lambda category, key: (category, key) in known or contains(category, key)
    try:
        yield
    finally:
        del tunes.get, tunes.contains
