"""Ray Train in the Tune trial that starts it: in the trial's placement group, and led by the trial's actor.

By itself Train V2 takes a second placement group for its workers, out of Tune's sight: its CPUs are not the trial's, so
two jobs may wait for each other's; and the group stays taken when whoever started the training dies, where no Ray
dashboard runs. Here the trial asks for the workers' bundles, all at once; they train in these, and Tune gives them back
whatever ends the trial. And Train would start an actor for its controller alone, and others for data sets, placement
groups and autoscaling that are of no use here: seconds each, and memory. Ray has no public option for any of this: the
places that it takes are all in this file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import AcceleratorSetupCallback, BackendSetupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import DefaultPlacementGroupHandle, PlacementGroupHandle, WorkerGroup
from ray.util.placement_group import get_current_placement_group

# Read when a controller is made.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # how late the end, or the death, of a worker is seen
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # one more actor; `Vigil` sees it without


class TrialTrainer(TorchTrainer):
    """A TorchTrainer for a Tune trial whose placement group has one bundle for each worker.

    Made in the trial's actor; `fit` may run in another thread than the actor's own.
    """

    _controller: TrainController | None = None

    def kill(self, fit: threading.Thread) -> None:
        """Kill the workers, and wait for the thread that runs `fit`, which raises an error then."""
        while fit.is_alive():
            group = self._controller.get_worker_group() if self._controller is not None else None
            if group is not None:
                with contextlib.suppress(ValueError):  # it has ended meanwhile
                    for worker in group.get_workers():
                        ray.kill(worker.actor)
            fit.join(0.1)

    def nodes(self) -> set[str]:
        """The nodes of the workers, as Ray names them; none while they start."""
        group = self._controller.get_worker_group() if self._controller is not None else None
        with contextlib.suppress(ValueError):  # it has ended meanwhile
            return {worker.metadata.node_id for worker in group.get_workers()} if group is not None else set()
        return set()

    def _create_default_callbacks(self) -> list[Any]:
        needed = (AcceleratorSetupCallback, BackendSetupCallback)
        return [callback for callback in super()._create_default_callbacks() if isinstance(callback, needed)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["scaling_policy"] = _TrialsWorkers(self.scaling_config)
        self._controller = _Controller(**arguments)
        asyncio.run(self._controller.run())
        return self._controller.get_result()


class _TrialsWorkers(FixedScalingPolicy):
    """As many workers as are asked for; the autoscaler has heard of them by the trial's placement group."""

    def after_controller_start(self, *context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _TrialsGroup(DefaultPlacementGroupHandle):
    """The trial's placement group, which is not Train's to remove."""

    def shutdown(self) -> None:
        pass


class _WorkerGroup(WorkerGroup):
    def _create_placement_group(self, *context: Any) -> PlacementGroupHandle:
        return _TrialsGroup(get_current_placement_group())


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup
