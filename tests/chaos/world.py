"""What a disturbed sweep runs in: a Ray cluster of several nodes, a study, an MLflow store, all of them real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import yaml

os.environ["RAY_AUTH_MODE"] = "disabled"  # a token of the user is of another cluster

from ray._private.utils import get_ray_address_file, read_ray_address
from ray.cluster_utils import Cluster

STUDY: dict[str, Any] = {
    "study": "chaos",
    "languages": [["aa", "bb"]],
    "variants": ["mono", "joint", "adapter"],
    "model": {"num_layers": 1, "dim": 32, "num_heads": 2, "ffn_dim": 64, "max_length": 64},
    "pretrain": {"steps": 400, "batch_size": 8, "sequence_length": 32, "valid_every": 200, "warmup_steps": 10},
    "finetune": {"epochs": 3, "max_length": 64, "grid": {"batch_size": [8], "learning_rate": [1e-3, 3e-3]}},
    "scaling": {"num_workers": 2, "checkpoint_seconds": 0.5, "hang_seconds": 30},
}


class World:
    """A cluster and the sweep that runs on it.

    Args:
        folder: Where the study and its storage `runs` lie.
        corpus: The study's data.
        store: A SQLite file with MLflow's tables.
        fields: Fields of the study that differ from `STUDY`.
        nodes: Nodes of the cluster, besides its head, which runs no jobs.
        server: Whether a server stands before the MLflow store.
    """

    def __init__(
        self, folder: Path, corpus: Path, store: Path, *, fields: dict[str, Any], nodes: int = 2, server: bool = False
    ) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.runs.mkdir(parents=True)
        self.store = folder / "mlflow.db"
        shutil.copy(store, self.store)
        self.study = folder / "chaos.yaml"
        content = {**STUDY, "data": {"source": str(corpus), "vocab_size": 150}, **fields}
        self.study.write_text(yaml.safe_dump(content), encoding="utf-8")
        # Apart from other clusters of this machine; sockets lie there, whose paths must be short.
        self._temporary = Path(tempfile.mkdtemp(prefix="rl"))
        arguments = {"num_cpus": 0, "include_dashboard": False, "temp_dir": str(self._temporary)}
        self.cluster = Cluster(initialize_head=True, head_node_args=arguments)
        if read_ray_address() == self.cluster.gcs_address:  # other sweeps of this machine shall not join it
            Path(get_ray_address_file(None)).unlink()
        for _ in range(nodes):
            self.add_node()
        self._port = _free_port()
        self._server: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._port}" if server else f"sqlite:///{self.store}"
        if server:
            self.start_server()
        self.driver: subprocess.Popen[str] | None = None
        self.log = folder / "driver.log"
        self._due: list[tuple[float, Callable[[], None]]] = []

    def add_node(self) -> None:
        """One more node, with room for two workers."""
        self.cluster.add_node(num_cpus=2, object_store_memory=80_000_000)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something after a while, in `sleep`: Ray starts nodes in the main thread alone."""
        self._due.append((time.monotonic() + seconds, what))

    def sleep(self, seconds: float) -> None:
        """Let the sweep work, and do what is due meanwhile."""
        end = time.monotonic() + seconds
        while True:
            due = [item for item in self._due if item[0] <= time.monotonic()]
            for item in due:
                self._due.remove(item)
                item[1]()
            if time.monotonic() >= end:
                return
            time.sleep(0.1)

    def start_driver(self, storage: str = "runs") -> subprocess.Popen[str]:
        """Start the sweep; its output is added to `log`."""
        elsewhere = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
        options = ["--storage", storage, "--address", self.cluster.address, "--tracking-uri", self.uri]
        with self.log.open("a", encoding="utf-8") as stream:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "raylab.sweep", str(self.study), *options],
                cwd=self.folder,
                env={name: value for name, value in os.environ.items() if name not in elsewhere},
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return self.driver

    def ended(self) -> int | None:
        """The exit code of the sweep, or None while it runs."""
        assert self.driver is not None
        return self.driver.poll()

    def forget(self) -> None:
        """Remove the results of a sweep that has ended, so that the next one runs everything."""
        for name in ("jobs", "studies", "features", "checked"):
            shutil.rmtree(self.runs / name, ignore_errors=True)
        client = mlflow.MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("chaos")
        assert experiment is not None
        client.rename_experiment(experiment.experiment_id, f"before {time.time()}")

    def records(self) -> dict[str, int]:
        """When the record of each finished job was written, by key."""
        found = {}
        for path in self.runs.glob("jobs/*/result.json"):
            found[path.parent.name] = path.stat().st_mtime_ns
        return found

    def results(self) -> dict[str, Any]:
        """The results of the finished jobs, by key, without times."""
        return {
            path.parent.name: _without_times(json.loads(path.read_text(encoding="utf-8"))["result"])
            for path in self.runs.glob("jobs/*/result.json")
        }

    def processes(self, *titles: str) -> list[int]:
        """Processes of the cluster whose title has one of these in it."""
        return [pid for pid, title in _descendants(os.getpid()) if any(wanted in title for wanted in titles)]

    def start_server(self) -> None:
        """Start the MLflow server, and wait for it."""
        options = ["--backend-store-uri", f"sqlite:///{self.store}", "--port", str(self._port), "--workers", "1"]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *options],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(1800):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2)
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the MLflow server did not start within three minutes")

    def stop_server(self) -> None:
        """Kill the MLflow server."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()

    def close(self) -> None:
        """End all that was started."""
        if self.driver is not None and self.driver.poll() is None:
            os.killpg(self.driver.pid, signal.SIGKILL)
            self.driver.wait()
        self.stop_server()
        self.cluster.shutdown()
        shutil.rmtree(self._temporary, ignore_errors=True)


def table(output: str) -> str:
    """What a sweep printed last of its results."""
    start = output.rindex("Negative interference")
    return output[start : output.index("results  ", start)]


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(inside) for name, inside in value.items() if "seconds" not in name}
    return value


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _descendants(pid: int) -> list[tuple[int, str]]:
    """The processes that a process started, and those that they started: id and title."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(folder.name)] = (folder / "cmdline").read_text().rstrip("\0")
            except OSError:
                continue  # it has just ended
    found, pending = [], [pid]
    while pending:
        parent = pending.pop()
        children = [child for child, its_parent in parents.items() if its_parent == parent]
        found += [(child, titles[child]) for child in children]
        pending += children
    return found
