"""Which Ray a sweep joins, and what it says of one that it cannot."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from raylab.config import ScalingConfig
from raylab.errors import InputError
from raylab.search.cluster import connect, slots
from raylab.search.running import answers, default_storage, enter_running_cluster


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address of this machine at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def web_server() -> Iterator[str]:
    """The address of a server that is not Ray's."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def grpc_server() -> Iterator[str]:
    """The address of a server of the kind that Ray's is."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home folder of a head: its `env` is to be written."""
    for name in ("RAY_ADDRESS", "RAYLAB_STORAGE", "RAYLAB_ADDRESS", "MLFLOW_TRACKING_URI", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # so that whatever is set is undone
        del os.environ[name]
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".raylab").mkdir()
    return tmp_path


def _write(head: Path, address: str) -> None:
    lines = [
        f"export RAYLAB_ADDRESS={address}",
        "export RAYLAB_STORAGE='/a b/runs'",
        "export MLFLOW_TRACKING_URI=http://h:1",
    ]
    (head / ".raylab" / "env").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_ray_server_is_told_from_others(nobody: str, web_server: str, grpc_server: str) -> None:
    assert answers(grpc_server)
    assert not answers(web_server)
    assert not answers(nobody)
    assert not answers("127.0.0.1")


def test_a_sweep_on_the_head_takes_the_clusters_storage_and_mlflow(head: Path, grpc_server: str) -> None:
    assert default_storage() == "runs"
    _write(head, grpc_server)
    os.environ["MLFLOW_TRACKING_URI"] = "http://mine:1"
    assert default_storage() == "/a b/runs"
    assert os.environ["RAYLAB_ADDRESS"] == grpc_server
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://mine:1"


def test_who_asks_for_another_ray_gets_nothing_of_the_cluster(head: Path, grpc_server: str) -> None:
    _write(head, grpc_server)
    assert enter_running_cluster("local") is None
    assert enter_running_cluster("10.0.0.1:6379") is None
    assert default_storage("local") == "runs"
    assert enter_running_cluster("auto") == grpc_server


def test_a_cluster_that_has_ended_is_not_taken_for_one(head: Path, nobody: str) -> None:
    _write(head, nobody)
    assert default_storage() == "runs"


def test_an_address_without_ray_is_refused_in_one_line(nobody: str, web_server: str) -> None:
    for address, expected in (
        (nobody, "no Ray cluster answers there"),
        (web_server, "no Ray cluster answers there"),
        ("ray://127.0.0.1:10001", "ray job submit"),
        ("http://127.0.0.1:8265", "ray job submit"),
        ("127.0.0.1", "HOST:PORT"),
    ):
        with pytest.raises(InputError) as error, connect(address, ScalingConfig()):
            pass
        assert str(error.value).startswith(f"--address {address}: ")
        assert expected in str(error.value)
        assert "\n" not in str(error.value)


def test_an_address_in_the_environment_is_named_as_such(monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    with pytest.raises(InputError, match=f"^RAY_ADDRESS={nobody}: no Ray cluster"), connect(None, ScalingConfig()):
        pass


@pytest.mark.slow
def test_what_the_autoscaler_may_start_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with connect("local", ScalingConfig()) as here:
        with pytest.raises(InputError, match=r"scaling.num_workers: found 900, .* room for \d+; at most"):
            slots(ScalingConfig(num_workers=900))
        with pytest.raises(InputError, match="scaling: one worker needs 1 CPU and 1 GPU on one node; the cluster has"):
            slots(ScalingConfig(use_gpu=True))
        # Of one node type 10 with room for two workers each; of the other none has a GPU.
        types = [{"nodes": 10, "CPU": 8, "GPU": 2}, {"nodes": 5, "CPU": 3}]
        monkeypatch.setenv("RAYLAB_NODE_TYPES", json.dumps(types))
        assert slots(ScalingConfig(use_gpu=True, num_workers=20)) == 20
        assert slots(ScalingConfig(cpus_per_worker=3)) == 10 * 2 + 5 + here // 3
        with pytest.raises(InputError, match="room for 20"):
            slots(ScalingConfig(use_gpu=True, num_workers=21))
