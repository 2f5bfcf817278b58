"""Ray: the running cluster if there is one, else Ray in this machine."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Ray reads these when it is imported.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leave CUDA_VISIBLE_DEVICES of CPU workers alone
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # results go to MLflow, from the driver
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # `interruptible` is the handler
if any(map(os.environ.get, ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))) or (Path.home() / ".ray/auth_token").is_file():
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # as Ray does by itself, but not where an address is given

import ray
from ray._private.utils import read_ray_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its stub file lacks it

import raylab
from raylab.config import ScalingConfig
from raylab.errors import InputError
from raylab.search.running import answers

WAIT_SECONDS = 15 * 60.0
"""How long nodes are waited for that the cluster is still setting up."""


@contextlib.contextmanager
def connect(address: str | None, scaling: ScalingConfig) -> Iterator[int]:
    """Join a running cluster, or start Ray in this machine, and leave it at the end.

    The cluster is the one at `address`, else at RAY_ADDRESS, else the one that runs on this machine (`ray up` or
    `ray start`). The address `local` asks for Ray in this machine whatever runs; `auto` for the cluster that runs here.

    Yields:
        How many jobs of one worker run at once.

    Raises:
        InputError: No Ray answers at the address, or one that this process cannot join, or it cannot hold one job.
    """
    target, named = _find(address)
    at_sigterm = signal.getsignal(signal.SIGTERM)
    if target is None:
        if not scaling.use_gpu and scaling.cpus_per_worker == 1:  # Ray starts a process a CPU, and each will run jobs
            os.environ.setdefault("RAY_enable_worker_prestart", "1")  # before there is a driver
            os.environ.setdefault("RAY_preload_python_modules", "torch,ray.tune")
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    else:
        _join(target, named)
    signal.signal(signal.SIGTERM, at_sigterm)  # which Ray has taken over, for an end at once
    try:
        yield slots(scaling)
    finally:
        _leave()


def _leave() -> None:
    """Disconnect from Ray.

    A thread that drops a reference to one of Ray's objects in that moment ends the whole process; so what the garbage
    collector would drop is dropped before, and it rests meanwhile.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _find(address: str | None) -> tuple[str | None, str]:
    """The address of the cluster to join, or None; and its name for the user.

    Raises:
        InputError: The address is not one, or nothing answers there.
    """
    asked = address or os.environ.get("RAY_ADDRESS")
    named = f"--address {address}" if address else f"RAY_ADDRESS={asked}"
    if asked == "local":
        return None, named
    if asked and asked != "auto":
        if "://" in asked or not asked.rpartition(":")[2].isdigit():
            raise InputError(
                f"{named}: a driver joins Ray itself, at HOST:PORT (port 6379 as a rule), from a node of the cluster; "
                f"from elsewhere: ray job submit --address http://HOST:8265 -- python -m raylab.sweep"
            )
        if not answers(asked, 5.0):
            raise InputError(f"{named}: no Ray cluster answers there; `ray up cluster.yaml` starts one")
        return asked, named
    for found in (os.environ.get("RAYLAB_ADDRESS"), read_ray_address()):
        if found and answers(found):
            return found, f"the Ray cluster that runs here ({found})"
        if found and not asked:
            print(f"raylab: the Ray cluster at {found} has ended; Ray starts in this machine", file=sys.stderr)
            break
    if asked:
        raise InputError(f"{named}: no Ray cluster runs on this machine; `ray up cluster.yaml` starts one")
    return None, ""


def _join(target: str, named: str) -> None:
    """Connect this process to a cluster that answers.

    `ray.init` tries for minutes what cannot work, and does not say why; so it is looked at before.

    Raises:
        InputError: The token, a version or this machine does not fit.
    """
    instead = "" if named.startswith(("--address", "RAY_ADDRESS")) else "; `--address local` starts Ray in this machine"
    try:
        client = GcsClient(address=target)
        found = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=10))
        hosts = {node.node_manager_address for node in client.get_all_node_info(timeout=10).values() if node.state == 0}
    except ray.exceptions.AuthenticationError:
        raise InputError(
            f"{named}: it wants another authentication token; the cluster's own is in ~/.ray/auth_token of its head "
            f"(RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN or the same file here){instead}"
        ) from None
    except (ray.exceptions.RayError, TypeError) as error:
        raise InputError(f"{named}: what answers there is no Ray cluster ({_first_line(error)}){instead}") from None
    versions = {
        "Ray": (found["ray_version"], ray.__version__),
        "Python": (found["python_version"], platform.python_version()),
    }
    if any(theirs != ours for theirs, ours in versions.values()):
        theirs, ours = (", ".join(f"{name} {pair[side]}" for name, pair in versions.items()) for side in (0, 1))
        raise InputError(f"{named}: the cluster runs {theirs}, this process {ours}; they must be the same{instead}")
    if not any(map(_is_own, hosts)):
        raise InputError(
            f"{named}: this machine is no node of that cluster ({', '.join(sorted(hosts))}); run the sweep on its head "
            f"(`ray exec`), or from here: ray job submit --address http://HOST:8265 -- python -m raylab.sweep{instead}"
        )
    try:
        ray.init(
            address=target,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=_code() | _credentials(),
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(f"{named}: it cannot be joined ({_first_line(error)}){instead}") from None


def _code() -> dict[str, Any]:
    """What the nodes need to run this process's raylab: nothing where `ray up` put the same code on all of them."""
    folder = Path(raylab.__file__).resolve().parent
    if folder.is_relative_to((Path.home() / ".raylab/code").resolve()):
        return {}
    if "py_modules" in _submitted():  # Ray takes one list alone
        return {}
    return {"py_modules": [str(folder)], "excludes": ["**/__pycache__/**"]}


def _credentials() -> dict[str, Any]:
    """Keys to an object store that this process was given, for the nodes; without any, they use their own."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    there = _submitted().get("env_vars", {})  # on the nodes too, and Ray takes each name once
    given = {name: os.environ[name] for name in names if name in os.environ and name not in there}
    return {"env_vars": given} if given else {}


def _submitted() -> dict[str, Any]:
    """The runtime environment that `ray job submit` gave this process and the nodes."""
    found: dict[str, Any] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {})
    return found


def _is_own(host: str) -> bool:
    """Whether an address is one of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        return True
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def slots(scaling: ScalingConfig) -> int:
    """How many workers the connected cluster can run at once; all jobs but pretraining have one each.

    Of a cluster with an autoscaler, what it may start counts too (RAYLAB_NODE_TYPES, which clusters/ set). Nodes
    that are being set up, and will say only then what they have, are waited for if there is no room without them.

    Raises:
        InputError: Not even the workers of one job.
    """
    types: list[dict[str, int]] = json.loads(os.environ.get("RAYLAB_NODE_TYPES") or "[]")
    coming = sum(kind["nodes"] for kind in types if "CPU" not in kind)
    deadline, told = time.monotonic() + WAIT_SECONDS, False
    while True:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        now = sum(_room(node["Resources"], scaling) for node in nodes)
        if now >= scaling.num_workers or len(nodes) > coming or time.monotonic() > deadline:
            break
        if not told:
            print(f"raylab: waiting for {coming + 1 - len(nodes)} nodes that are being set up", file=sys.stderr)
            told = True
        time.sleep(2)
    heads = sum(_room(node["Resources"], scaling) for node in nodes if "node:__internal_head__" in node["Resources"])
    most = max(now, heads + sum(kind["nodes"] * _room(kind, scaling) for kind in types))
    if most < max(scaling.num_workers, 1):
        raise InputError(_too_small(most, len(nodes), scaling))
    if now < most:
        print(
            f"raylab: the cluster has room for {now} workers, and grows to {most} as they are needed", file=sys.stderr
        )
    return most


def _room(resources: dict[str, Any], scaling: ScalingConfig) -> int:
    """How many workers fit a node."""
    fits = int(resources.get("CPU", 0) // scaling.cpus_per_worker)
    return min(fits, int(resources.get("GPU", 0))) if scaling.use_gpu else fits


def _too_small(most: int, nodes: int, scaling: ScalingConfig) -> str:
    needed = f"{scaling.cpus_per_worker} CPU" + (" and 1 GPU" if scaling.use_gpu else "")
    resources = ray.cluster_resources()
    have = f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU on {nodes} node{'s' * (nodes > 1)}"
    if most == 0:
        return f"scaling: one worker needs {needed} on one node; the cluster has {have} in all"
    return (
        f"scaling.num_workers: found {scaling.num_workers}, each with {needed} on one node; the cluster has {have} "
        f"in all, which is room for {most}; at most {most} would do"
    )
