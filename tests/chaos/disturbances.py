"""What happens to a sweep: each does one thing and says what, or None where there was nothing to do it to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from .world import World

ACTOR = ("ray::JobWorker", "Trainable")
WORKER = ("ray::RayTrainWorker",)


@dataclass
class Disturbance:
    """One kind.

    Attributes:
        name: For people.
        weight: How often, among all kinds.
        kills: Whether it kills something.
        do: What it does.
    """

    name: str
    weight: float
    kills: bool
    do: Callable[[World, random.Random], str | None]


def _kill(titles: tuple[str, ...], number: int) -> Callable[[World, random.Random], str | None]:
    def do(world: World, draw: random.Random) -> str | None:
        found = sorted(world.processes(*titles))
        if not found:
            return None
        pid = draw.choice(found)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return None
        return f"process {pid}"

    return do


def kill_driver(world: World, draw: random.Random) -> str | None:
    """SIGKILL; the same command is given again after a while."""
    driver = world.driver
    if driver is None or driver.poll() is not None:
        return None
    driver.kill()
    driver.wait()
    time.sleep(draw.choice([0.0, 0.5, 3.0]))
    world.start_driver()
    return f"process {driver.pid}"


def lose_node(world: World, draw: random.Random) -> str | None:
    """SIGKILL of a node's processes; another one comes, at once or after a while."""
    nodes = world.cluster.worker_nodes
    if not nodes:
        return None
    node = draw.choice(sorted(nodes, key=lambda node: node.node_id))
    world.cluster.remove_node(node, allow_graceful=False)
    world.later(draw.choice([0.0, 4.0]), world.add_node)
    return f"node {node.node_id[:8]}"


def preempt_node(world: World, draw: random.Random) -> str | None:
    """A notice that the node will go in some seconds, and then it goes."""
    nodes = world.cluster.worker_nodes
    if len(nodes) < 2:
        return None
    node = draw.choice(sorted(nodes, key=lambda node: node.node_id))
    seconds = 6
    accepted, _ = GcsClient(address=world.cluster.address).drain_node(
        node.node_id,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "chaos",
        int(time.time() * 1000) + seconds * 1000,
    )
    if not accepted:
        return None

    def go() -> None:
        if node in world.cluster.worker_nodes:
            world.cluster.remove_node(node, allow_graceful=False)
            world.add_node()

    world.later(seconds, go)
    return f"node {node.node_id[:8]} in {seconds} s"


def second_driver(world: World, draw: random.Random) -> str | None:
    """The same command beside the one that runs: refused."""
    driver = world.driver
    if driver is None or driver.poll() is not None or not list(world.runs.glob("jobs/*")):
        return None
    command = [sys.executable, "-m", "raylab.sweep", str(world.study), "--storage", "runs", "--tracking-uri", world.uri]
    second = subprocess.run(command, cwd=world.folder, capture_output=True, text=True, timeout=120)
    if driver.poll() is None:
        assert second.returncode == 2, second.stdout + second.stderr
        assert "another sweep of it runs" in second.stderr, second.stderr
    return "refused"


def stop_mlflow(world: World, draw: random.Random) -> str | None:
    """The MLflow server is away for a while."""
    if not world.uri.startswith("http"):
        return None
    world.stop_server()
    seconds = draw.choice([5, 20, 60])
    time.sleep(seconds)
    world.start_server()
    return f"for {seconds} s"


def fill_disk(world: World, draw: random.Random) -> str | None:
    """The storage's disk is full for a while."""
    if not os.path.ismount(world.runs):
        return None
    filler = world.runs / "filler"
    try:
        with filler.open("wb", buffering=0) as stream:
            while stream.write(bytes(1 << 20)):
                pass
    except OSError:
        pass
    seconds = draw.choice([2, 10])
    time.sleep(seconds)
    filler.unlink()
    return f"for {seconds} s"


ALL = (
    Disturbance("actor killed", 6, True, _kill(ACTOR, signal.SIGKILL)),
    Disturbance("training worker killed", 6, True, _kill(WORKER, signal.SIGKILL)),
    Disturbance("actor told to end", 2, True, _kill(ACTOR, signal.SIGTERM)),
    Disturbance("actor frozen", 1, True, _kill(ACTOR, signal.SIGSTOP)),
    Disturbance("training worker frozen", 1, True, _kill(WORKER, signal.SIGSTOP)),
    Disturbance("driver killed", 3, True, kill_driver),
    Disturbance("node lost", 2, True, lose_node),
    Disturbance("node preempted", 2, True, preempt_node),
    Disturbance("second driver", 1, False, second_driver),
    Disturbance("MLflow away", 1, False, stop_mlflow),
    Disturbance("disk full", 1, False, fill_disk),
)
