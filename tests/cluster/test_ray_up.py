"""`ray up cluster.yaml`, for real: sshd, rsync, Ray and MLflow on machines made of namespaces."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from machines import CHECKOUT, Machine, machines

Study = Callable[..., Path]

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("real_machines")]

ASK_MLFLOW = """
import base64, sys, urllib.error, urllib.request
uri, password = sys.argv[1:]
request = urllib.request.Request(uri + "/api/2.0/mlflow/experiments/get-by-name?experiment_name=tiny")
request.add_header("Authorization", "Basic " + base64.b64encode(b"admin:" + password.encode()).decode())
try:
    print(urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print("away")
"""

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


def _mlflow(machine: Machine, password: str, uri: str = "http://127.0.0.1:5500") -> str:
    """The status of a request for the study's experiment, or `away`."""
    return _succeed(machine.run("python", "-c", ASK_MLFLOW, uri, password)).strip()


def test_a_sweep_on_the_cluster_as_it_lies(tiny_study: Study, tmp_path: Path) -> None:
    study = str(tiny_study(variants=["joint"]))
    with machines(tmp_path, "laptop") as (laptop,):
        laptop.install()
        output = _succeed(laptop.run("ray", "up", "-y", "cluster.yaml"))
        assert "MLflow: http://127.0.0.1:5500, user admin" in output
        listening = {line.split()[3] for line in _succeed(laptop.run("ss", "-Hltn")).splitlines()}
        assert all("127.0.0.1" in address for address in listening if not address.endswith(":22")), listening

        # A sweep on the head, with the code that was synced; then the same one as a job of Ray's.
        command = f"cd ~/.raylab/code && python -m raylab.sweep {study}"
        output = _succeed(laptop.run("ray", "exec", "cluster.yaml", command))
        assert "4 jobs (1 prepare, 1 pretrain, 2 finetune), 0 done already" in output
        assert f"results   {laptop.environment['HOME']}/.raylab/runs" in output
        assert "runs      http://127.0.0.1:5500" in output
        records = _records(laptop.home / ".raylab" / "runs")
        assert len(records) == 4
        job = [
            "ray",
            "job",
            "submit",
            "--address",
            "http://127.0.0.1:8265",
            "--",
            "python",
            "-m",
            "raylab.sweep",
            study,
        ]
        output = _succeed(laptop.run(*job, RAY_AUTH_MODE="token"))
        assert "4 jobs (1 prepare, 1 pretrain, 2 finetune), 4 done already" in output

        # In a terminal of the head that knows nothing of the cluster.
        command = ["python", "-m", "raylab.sweep", study, "--set", "scaling.cpus_per_worker=4096", "--fresh"]
        code, output = laptop.run(*command, cwd=tmp_path)
        assert code == 2, output
        assert "raylab: scaling: one worker needs 4096 CPU on one node; the cluster has" in output
        assert _records(laptop.home / ".raylab" / "runs") == records

        # Who is let in.
        password = (laptop.home / ".raylab" / "mlflow" / "password").read_text(encoding="utf-8")
        assert _mlflow(laptop, password) == "200"
        assert _mlflow(laptop, "password1234") == "401"
        output = _succeed(laptop.run("python", "-c", JOIN, "", RAY_AUTH_TOKEN="a" * 64, RAY_AUTH_MODE="token"))
        assert (
            "refused: the Ray cluster that runs here (127.0.0.1:6379): it wants another authentication token" in output
        )
        code, output = laptop.run(*job, RAY_AUTH_MODE="disabled")
        assert code != 0
        assert "Unauthorized" in output or "Authentication" in output

        # MLflow dies, and is back with what it held; it ends with the cluster.
        _succeed(laptop.run("pkill", "-KILL", "-f", "mlflow"))
        assert _mlflow(laptop, password) == "away"
        _wait_until(lambda: _mlflow(laptop, password) == "200")
        _succeed(laptop.run("ray", "down", "-y", "cluster.yaml"))
        _wait_until(lambda: laptop.processes() == [])
        assert not (laptop.home / ".raylab" / "env").exists()


def test_a_cluster_grows_by_addresses(tiny_study: Study, tmp_path: Path) -> None:
    study, storage = str(tiny_study(variants=["joint"], scaling={"num_workers": 2})), tmp_path / "shared"
    with machines(tmp_path, "head", "worker", "outside") as (head, worker, outside):
        head.connect(worker, "10.77.0")
        head.connect(outside, "10.78.0")
        assert outside.run("ip", "route", "add", "10.77.0.0/24", "via", "10.78.0.1") == (0, "")
        for machine in (head, worker):
            machine.install()
        cluster = yaml.safe_load((CHECKOUT / "cluster.yaml").read_text(encoding="utf-8"))
        cluster["provider"] = {"type": "local", "head_ip": "10.77.0.1", "worker_ips": ["10.77.0.2"]}
        for name in ("head_start_ray_commands", "worker_start_ray_commands"):
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

        # Two workers want two machines, of one CPU each: the sweep waits for the second.
        output = _succeed(head.run("python", "-m", "raylab.sweep", study))
        assert "4 jobs (1 prepare, 1 pretrain, 2 finetune), 0 done already" in output
        records = _records(storage)
        assert len(records) == 4
        assert {record["workers"] for record in records if record["kind"] == "pretrain"} == {2}
        assert (worker.home / ".raylab" / "code" / "raylab" / "sweep.py").is_file()
        assert (worker.home / ".ray" / "auth_token").read_text(encoding="utf-8") == token
        password = (head.home / ".raylab" / "mlflow" / "password").read_text(encoding="utf-8")
        assert _mlflow(head, password, "http://10.77.0.1:5500") == "200"
        _succeed(head.run("ray", "down", "-y", str(tmp_path / "two.yaml")))
        _wait_until(lambda: head.processes() == [])
