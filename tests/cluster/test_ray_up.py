"""`ray up cluster.yaml`, for real: sshd, rsync, Ray and MLflow on machines made of namespaces."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from machines import CHECKOUT, machines

Study = Callable[..., Path]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("real_machines")]

EXPERIMENTS = "import mlflow; print([found.name for found in mlflow.MlflowClient().search_experiments()])"

ALIVE = 'import urllib.request as r; r.urlopen("http://127.0.0.1:5500/health", timeout=9)'

JOIN = """
import sys
from raylab.config import ScalingConfig
from raylab.errors import InputError
from raylab.search.cluster import connect
try:
    with connect(sys.argv[1] or None, ScalingConfig()) as slots:
        print("slots", slots)
except InputError as error:
    print("refused:", error)
"""


def _records(storage: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in storage.glob("jobs/*/result.json")]


def _succeed(result: tuple[int, str]) -> str:
    code, output = result
    assert code == 0, output
    return output


def _wait_until(condition: Callable[[], bool], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_sweep_on_the_cluster_as_it_lies(tiny_study: Study, tmp_path: Path) -> None:
    study = str(tiny_study())
    with machines(tmp_path, "laptop") as (laptop,):
        laptop.install()
        output = _succeed(laptop.run("ray", "up", "-y", "cluster.yaml"))
        assert "MLflow: http://127.0.0.1:5500, user admin" in output
        listening = _succeed(laptop.run("ss", "-Hltn")).splitlines()
        open_ports = {line.split()[3] for line in listening if not line.split()[3].endswith(":22")}
        assert all("127.0.0.1" in port for port in open_ports), open_ports

        # From outside, and on the head in a terminal that knows nothing of the cluster.
        command = f"cd ~/.raylab/code && python -m raylab.sweep {study}"
        output = _succeed(laptop.run("ray", "exec", "cluster.yaml", command))
        assert "Negative interference" in output
        storage = laptop.home / ".raylab" / "runs"
        records = _records(storage)
        assert len(records) == 3 + 3 + 4
        assert f"results   {laptop.environment['HOME']}/.raylab/runs" in output
        assert "runs      http://127.0.0.1:5500" in output
        again = _succeed(laptop.run("python", "-m", "raylab.sweep", study, cwd=tmp_path))
        assert "10 jobs (3 prepare, 3 pretrain, 4 finetune), 10 done already" in again
        submitted = ["python", "-m", "raylab.sweep", study, "--set", "seeds=[1]", "--set", "variants=[joint]"]
        output = _succeed(
            laptop.run(
                "ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--", *submitted, RAY_AUTH_MODE="token"
            )
        )
        assert "succeeded" in output
        assert len(_records(storage)) > len(records)

        # Who is let in.
        environment = dict(
            line.removeprefix("export ").split("=", 1)
            for line in (laptop.home / ".raylab" / "env").read_text(encoding="utf-8").splitlines()
        )
        login = {name: value for name, value in environment.items() if name.startswith("MLFLOW")}
        assert "'tiny'" in _succeed(laptop.run("python", "-c", EXPERIMENTS, **login))
        code, output = laptop.run("python", "-c", EXPERIMENTS, **{**login, "MLFLOW_TRACKING_PASSWORD": "password1234"})
        assert code != 0
        assert "401" in output
        output = _succeed(laptop.run("python", "-c", JOIN, "", RAY_AUTH_TOKEN="a" * 64, RAY_AUTH_MODE="token"))
        assert (
            "refused: the Ray cluster that runs here (127.0.0.1:6379): it wants another authentication token" in output
        )
        code, output = laptop.run(
            "python", "-m", "raylab.sweep", study, "--set", "scaling.cpus_per_worker=4096", "--fresh"
        )
        assert code == 2
        assert "raylab: scaling: one worker needs 4096 CPU on one node; the cluster has" in output

        # MLflow dies, and is back with what it held; it ends with the cluster.
        _succeed(laptop.run("pkill", "-KILL", "-f", "mlflow"))
        _wait_until(lambda: laptop.run("python", "-c", ALIVE)[0] == 0)
        assert "'tiny'" in _succeed(laptop.run("python", "-c", EXPERIMENTS, **login))
        _succeed(laptop.run("ray", "down", "-y", "cluster.yaml"))
        _wait_until(lambda: laptop.processes() == [])
        assert not (laptop.home / ".raylab" / "env").exists()


def test_a_cluster_grows_by_addresses(tiny_study: Study, tmp_path: Path) -> None:
    study, storage = str(tiny_study(scaling={"cpus_per_worker": 1})), tmp_path / "shared"
    with machines(tmp_path, "head", "worker", "outside") as (head, worker, outside):
        head.connect(worker, "10.77.0")
        head.connect(outside, "10.78.0")
        assert outside.run("ip", "route", "add", "10.77.0.0/24", "via", "10.78.0.1") == (0, "")
        for machine in (head, worker):
            machine.install()
        cluster = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text(encoding="utf-8"))
        cluster["provider"] = {"type": "local", "head_ip": "10.77.0.1", "worker_ips": ["10.77.0.2"]}
        for name in ("head_start_ray_commands", "worker_start_ray_commands"):
            # One job at a time on each machine, so that both are needed.
            cluster[name] = [
                line.replace("~/.raylab/runs", str(storage)).replace("ray start", "ray start --num-cpus=1")
                for line in cluster[name]
            ]
        (tmp_path / "two.yaml").write_text(yaml.safe_dump(cluster), encoding="utf-8")
        _succeed(head.run("ray", "up", "-y", str(tmp_path / "two.yaml")))
        token = (head.home / ".ray" / "auth_token").read_text(encoding="utf-8")
        output = _succeed(
            outside.run("python", "-c", JOIN, "10.77.0.1:6379", RAY_AUTH_TOKEN=token, RAY_AUTH_MODE="token")
        )
        assert "refused: --address 10.77.0.1:6379: this machine is no node of that cluster (10.77.0.1" in output

        # Two workers want two machines; the sweep waits for the second.
        output = _succeed(
            head.run(
                "python", "-m", "raylab.sweep", study, "--set", "scaling.num_workers=2", "--set", "variants=[joint]"
            )
        )
        assert "Negative interference" in output or "joint" in output
        output = _succeed(head.run("python", "-m", "raylab.sweep", study))
        records = _records(storage)
        assert {record["host"] for record in records} == {"head", "worker"}
        assert (worker.home / ".raylab" / "code" / "raylab" / "sweep.py").is_file()
        assert (worker.home / ".ray" / "auth_token").read_text(encoding="utf-8") == token
        login = {
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": (head.home / ".raylab/mlflow/password").read_text(),
        }
        assert "'tiny'" in _succeed(
            head.run("python", "-c", EXPERIMENTS, MLFLOW_TRACKING_URI="http://10.77.0.1:5500", **login)
        )
        _succeed(head.run("ray", "down", "-y", str(tmp_path / "two.yaml")))
        _wait_until(lambda: head.processes() == [])
