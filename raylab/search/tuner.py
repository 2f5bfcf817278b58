"""One flat Tuner over all jobs."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

import raylab.search.cluster  # noqa: F401  # what Ray reads when it is imported
from raylab.config import ScalingConfig
from raylab.search.controller import sweep_controller
from raylab.search.searcher import JobSearcher
from raylab.search.worker import JobWorker


class _Searcher(Searcher):
    """A `JobSearcher` as Tune knows it."""

    def __init__(self, jobs: JobSearcher) -> None:
        super().__init__()
        self._jobs = jobs

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the searcher's

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._jobs.suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._jobs.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._jobs.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the storage holds all there is to know, and a new sweep reads it there."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Stops(FIFOScheduler):
    """Tune's scheduler, as far as a searcher decides what it does."""

    def __init__(self, searcher: JobSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the searcher's

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        stops = self._searcher.reported(trial.trial_id, result.get("fresh", []))
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)


class _Starts(tune.Callback):
    """Tells the searcher when an actor takes a job."""

    def __init__(self, searcher: JobSearcher) -> None:
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._searcher.on_trial_start(trial.trial_id)


class _StopRequested(tune.Stopper):
    """Ends the Tuner when asked: running jobs keep a checkpoint."""

    def __init__(self, requested: threading.Event) -> None:
        self._requested = requested

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the searcher's

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._requested.is_set()


def run_jobs(searcher: JobSearcher, scaling: ScalingConfig, at_once: int, stop: threading.Event) -> None:
    """Run all that the searcher hands out, until it has no more or `stop` is set.

    Args:
        searcher: The stream of jobs.
        scaling: What one job runs on.
        at_once: How many jobs of one worker run at once.
        stop: Set to end early.
    """
    for name in ("ray.tune", "ray.train", "ray._private"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the progress lines say what failed
    # Jobs that wait for an actor: with one alone, short jobs would all go to the first actor and no other would start.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_once)
    searcher.slots = at_once
    bundle = {"CPU": scaling.cpus_per_worker, "GPU": 1 if scaling.use_gpu else 0}

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        # Of several workers none is the actor that watches them: it takes nothing.
        workers = config["workers"]
        return tune.PlacementGroupFactory([bundle] if workers == 1 else [{}, *[bundle] * workers])

    # Tune's own notes, of use to nobody: the sweep goes on from the storage, and Trainables leave nothing here.
    with tempfile.TemporaryDirectory(prefix="raylab-tune-", ignore_cleanup_errors=True) as folder:
        tuner = tune.Tuner(
            tune.with_resources(JobWorker, resources),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(searcher),
                num_samples=-1,
                scheduler=_Stops(searcher) if searcher.stops_early else None,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.config["job"].name.replace(" ", "_"),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                stop=_StopRequested(stop),
                callbacks=[_Starts(searcher)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with sweep_controller(searcher, scaling.hang_seconds):
            tuner.fit()
