"""The cluster that `ray up` brought up on this machine, as its head wrote it down."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
from pathlib import Path

ENVIRONMENT = ".raylab/env"
"""Under the home folder, on the head of a cluster, while it runs: lines of `export NAME=VALUE`."""

_ADDRESS = "RAYLAB_ADDRESS"


def enter_running_cluster(address: str | None = None) -> str | None:
    """Take on the environment of the cluster whose head this machine is, where there is one.

    So that a sweep in any terminal of the head finds the cluster's Ray, storage (RAYLAB_STORAGE) and MLflow with its
    login. What is set already stays. Nothing is taken where the user asks for another Ray.

    Args:
        address: A Ray cluster that the user asks for; without one RAY_ADDRESS counts.

    Returns:
        The cluster's address, HOST:PORT, or None.
    """
    path = Path.home() / ENVIRONMENT
    if not path.is_file():
        return None
    lines = shlex.split(path.read_text(encoding="utf-8"), comments=True)
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    own = values.get(_ADDRESS)
    asked = address or os.environ.get("RAY_ADDRESS") or own
    if own is None or asked not in (own, "auto") or not answers(own):
        return None
    for name, value in values.items():
        os.environ.setdefault(name, value)
    return own


def answers(address: str, seconds: float = 2.0) -> bool:
    """Whether a gRPC server, as Ray's is, answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection((host.strip("[]"), int(port)), seconds) as connection,
    ):
        # HTTP/2 begins with these bytes and an empty SETTINGS frame; a server of HTTP/2 answers with its own.
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return connection.recv(9)[3:4] == bytes([4])
    return False


def default_storage(address: str | None = None) -> str:
    """Where results lie if the user names no place: with the cluster that runs here, else in `runs`.

    Takes on that cluster's environment (`enter_running_cluster`).
    """
    enter_running_cluster(address)
    return os.environ.get("RAYLAB_STORAGE") or "runs"
