"""Ray: the running cluster if there is one, else Ray in this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

# Ray reads these when it is imported.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave CUDA_VISIBLE_DEVICES of CPU workers alone
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # results go to MLflow, from the driver
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # `interruptible` is the handler

import ray

from raylab.config import ScalingConfig
from raylab.errors import InputError


@contextlib.contextmanager
def connect(address: str | None, scaling: ScalingConfig) -> Iterator[int]:
    """Join the cluster at `address` (or RAY_ADDRESS), or start Ray in this machine, and leave it at the end.

    Yields:
        How many jobs of one worker run at once.

    Raises:
        InputError: No Ray answers at the address, or the cluster cannot hold one job.
    """
    target = address or os.environ.get("RAY_ADDRESS")
    try:
        ray.init(
            address=target,
            include_dashboard=None if target else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if target is None:
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"--address {target}: no Ray cluster answers there ({reason})") from None
    try:
        yield slots(scaling)
    finally:
        ray.shutdown()


def slots(scaling: ScalingConfig) -> int:
    """How many workers the connected cluster can run at once; all jobs but pretraining have one each.

    Raises:
        InputError: Not even the workers of one job.
    """
    total = nodes = 0
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        resources = node["Resources"]
        fits = int(resources.get("CPU", 0) // scaling.cpus_per_worker)
        if scaling.use_gpu:
            fits = min(fits, int(resources.get("GPU", 0)))
        total += fits
        nodes += 1
    needed = f"{scaling.cpus_per_worker} CPU" + (" and 1 GPU" if scaling.use_gpu else "")
    resources = ray.cluster_resources()
    have = f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU on {nodes} node{'s' * (nodes > 1)}"
    if total == 0:
        raise InputError(f"scaling: one worker needs {needed} on one node; the cluster has {have} in all")
    if total < scaling.num_workers:
        raise InputError(
            f"scaling.num_workers: found {scaling.num_workers}, each with {needed} on one node; the cluster has {have} "
            f"in all, which is room for {total}; at most {total} would do"
        )
    return total
