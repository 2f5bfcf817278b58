"""What the head of a cluster runs beside Ray: an MLflow server with a login, restarted when it dies, ended with Ray.

    head.py start --storage STORAGE    before `ray start`: write ~/.raylab/env, start the server in the background
    head.py wait                       after it: wait until the server answers

`node.sh` calls both; it needs no more than the standard library, and MLflow for the server itself.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO, Any

HOME = Path.home() / ".raylab"
FOLDER = HOME / "mlflow"
ENVIRONMENT = HOME / "env"
BOOTSTRAP = Path.home() / "ray_bootstrap_config.yaml"
"""What `ray up` tells the autoscaler, as JSON."""

RAY_PORT = 6379
MLFLOW_PORT = 5500

START_SECONDS = 120
"""How long Ray may take to start, and MLflow."""

GONE_TRIES = 5
"""How often in a row, a second apart, Ray must not answer before it is taken for ended."""


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("start", "wait", "supervise"))
    parser.add_argument("--storage", default="")
    options = parser.parse_args()
    if options.action == "start":
        start(options.storage)
    elif options.action == "supervise":
        supervise()
    else:
        return wait()
    return 0


def start(storage: str) -> None:
    """Write ~/.raylab/env and start the server, in place of an earlier one."""
    stop()
    FOLDER.mkdir(parents=True, exist_ok=True)
    FOLDER.chmod(0o700)
    cluster = json.loads(BOOTSTRAP.read_text(encoding="utf-8"))
    address = own_address(cluster)
    environment = {
        "RAYLAB_ADDRESS": f"{address}:{RAY_PORT}",
        "RAYLAB_HEAD_IP": address,
        "RAYLAB_STORAGE": storage if "://" in storage else str(Path(storage).expanduser()),
        "RAYLAB_NODE_TYPES": json.dumps(node_types(cluster)),
        "RAY_AUTH_MODE": "token",
        "MLFLOW_TRACKING_URI": f"http://{address}:{MLFLOW_PORT}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": password(),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
    write_private(ENVIRONMENT, "".join(lines))
    with (FOLDER / "log").open("w") as log:
        subprocess.Popen(
            [sys.executable, __file__, "supervise"],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def own_address(cluster: dict[str, Any]) -> str:
    """The head's address in its cluster: what cluster.yaml says, else that of the network interface."""
    provider = cluster["provider"]
    if provider["type"] == "local":
        return str(socket.gethostbyname(provider["head_ip"]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent: it asks which interface would
        return str(probe.getsockname()[0])


def node_types(cluster: dict[str, Any]) -> list[dict[str, int]]:
    """How many workers of which resources the autoscaler may start; without CPU where only the node will tell."""
    types = []
    for name, kind in cluster["available_node_types"].items():
        nodes = min(kind.get("max_workers", 0), cluster["max_workers"])
        if nodes and not (name == cluster["head_node_type"] and cluster["provider"]["type"] != "local"):
            types.append(
                {"nodes": nodes, **{key: kind["resources"][key] for key in ("CPU", "GPU") if key in kind["resources"]}}
            )
    return types


def password() -> str:
    """The password of MLflow's user `admin`, made once; the server reads it from `auth.ini`."""
    path = FOLDER / "password"
    if not path.is_file():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text(encoding="utf-8")


def supervise() -> None:
    """Run the MLflow server as long as Ray runs here, and start it again whenever it ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    address = os.environ["RAYLAB_HEAD_IP"]
    with (FOLDER / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held by the server too: it is free when both have ended
        server = start_server(address, lock)
        missed, seen = 0, False
        try:
            while missed < (GONE_TRIES if seen else START_SECONDS):
                time.sleep(1)
                missed = 0 if answers(address, RAY_PORT) else missed + 1
                seen = seen or not missed
                if server.poll() is not None:
                    print(f"raylab: the MLflow server ended ({server.returncode}); it is started again", flush=True)
                    end_group(server.pid)
                    server = start_server(address, lock)
        finally:
            end_group(server.pid)
            ENVIRONMENT.unlink(missing_ok=True)


def start_server(address: str, lock: IO[str]) -> subprocess.Popen[bytes]:
    """Start MLflow at the cluster's own address, in a process group of its own."""
    settings = {
        "default_permission": "READ",  # for users that the admin adds
        "database_uri": f"sqlite:///{FOLDER}/users.db",
        "admin_username": "admin",
        "admin_password": password(),
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "60",  # else each request costs a slow hash of the password
    }
    write_private(
        FOLDER / "auth.ini", "[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
    )
    hosts = [address, "localhost", "127.0.0.1", socket.gethostname()]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"),
            *("--host", address, "--port", str(MLFLOW_PORT)),
            *("--allowed-hosts", ",".join([*hosts, *(f"{host}:*" for host in hosts)])),
            *("--backend-store-uri", f"sqlite:///{FOLDER}/mlflow.db"),
            *("--artifacts-destination", str(FOLDER / "artifacts")),
        ],
        env={
            **os.environ,
            "MLFLOW_AUTH_CONFIG_PATH": str(FOLDER / "auth.ini"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, for judging traces
        },
        stdin=subprocess.DEVNULL,
        process_group=0,
        pass_fds=[lock.fileno()],
    )
    lock.truncate(0)
    lock.write(f"{os.getpid()} {server.pid}")
    lock.flush()
    return server


def stop() -> None:
    """End an earlier server and who watches it, if there are any."""
    path = FOLDER / "lock"
    if not path.is_file():
        return
    deadline = time.monotonic() + 20
    with path.open() as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                lock.seek(0)
                processes = [int(word) for word in lock.read().split()]
            late = time.monotonic() > deadline
            for process in processes[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL if late else signal.SIGTERM)
            if late:  # who watches it was killed, and could not end it
                for process in processes[1:]:
                    end_group(process)
            time.sleep(0.5)


def end_group(process: int) -> None:
    """End a server with all its processes."""
    for number, seconds in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 1.0)):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                os.killpg(process, number)
            except ProcessLookupError:
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process, os.WNOHANG)
            time.sleep(0.1)


def wait() -> int:
    """Wait until MLflow answers; the exit code."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=2):
            print(f"MLflow: {uri}, user admin, password in {FOLDER / 'password'}")
            return 0
        time.sleep(0.5)
    print(f"raylab: MLflow does not answer at {uri}; {FOLDER / 'log'} says why", file=sys.stderr)
    return 1


def answers(host: str, port: int) -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 2):
        return True
    return False


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, all at once."""
    temporary = path.with_name(path.name + ".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
