"""Which of a node's networks the workers of one job talk over: the one that the cluster itself uses.

Gloo, left to itself, takes the address that the host's own name stands for. On many machines that is the loopback
address (127.0.1.1 in /etc/hosts), at which workers on other nodes find nobody.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of an interface."""


class NodeTorchConfig(TorchConfig):
    """A TorchConfig whose workers join their process group over the network that Ray uses between the nodes."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the process group up."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Name the interface of the node's address in its cluster to Gloo, unless the user named one."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address; None where none has, or where this is not Linux."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None
