"""A thread beside the work of a process: it sees that the node will go, or that the work hangs, and says that it lives.

A process that works tells the driver about once a second how far it is. Work that cannot be cut into such pieces (a
tokenizer, a download, a long validation) is silent meanwhile; then this thread passes on its signs of life, if there
are any: a process that is frozen has none, and the driver kills it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from raylab.heartbeat import beat, beats, silence

_LOOK_SECONDS = 2.0
"""Between two looks at which nodes are draining, and at the work."""

_NAMESPACE = b"raylab"


class Vigil:
    """Made in a process that Ray started; it watches as long as the process lives.

    Args:
        on_hang: Called with the stacks of all threads when work hangs.
        tell: Called every few seconds with the number of signs of life, while a piece of work is long.
    """

    def __init__(self, on_hang: Callable[[str], None], tell: Callable[[int], None]) -> None:
        self._on_hang = on_hang
        self._tell = tell
        self._node = ray.get_runtime_context().get_node_id()
        self._draining: frozenset[str] = frozenset()
        self._began: float | None = None
        self._limit = 0.0
        threading.Thread(target=self._watch, name="vigil", daemon=True).start()

    @contextlib.contextmanager
    def over(self, limit: float) -> Iterator[None]:
        """Watch a piece of work, which hangs when it is silent for `limit` seconds."""
        beat()
        self._limit = limit
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def any_drains(self, nodes: Collection[str] = ()) -> bool:
        """Whether this node, or one of these, will be taken away."""
        return bool(self._draining) and not self._draining.isdisjoint({self._node, *nodes})

    def _watch(self) -> None:
        told, hung = -1, False
        while True:
            time.sleep(_LOOK_SECONDS)
            with contextlib.suppress(Exception):  # the head is away for a while
                # No public call tells; Ray Train's own watcher reads it here too.
                self._draining = frozenset(ray._private.state.state.get_draining_nodes())
            began = self._began
            if began is None or time.monotonic() - began < _LOOK_SECONDS:
                hung = False
                continue
            count = beats()
            if count != told:
                told = count
                with contextlib.suppress(Exception):
                    self._tell(count)
            silent = silence() > self._limit
            if silent and not hung:
                with contextlib.suppress(Exception):  # the disk, or whoever listens
                    self._on_hang(_stacks())
            hung = silent


def pass_on(name: str, count: int) -> None:
    """Leave a process's signs of life where the driver finds them."""
    _internal_kv_put(name, str(count), namespace=_NAMESPACE)


def signs_of_life(name: str) -> int | None:
    """How many signs of life a process passed on; for the driver."""
    found = _internal_kv_get(name, namespace=_NAMESPACE)
    return None if found is None else int(found)


def forget(name: str) -> None:
    """Forget what a process passed on."""
    _internal_kv_del(name, namespace=_NAMESPACE)


def _stacks() -> str:
    """Where all threads of this process are."""
    with tempfile.TemporaryFile() as stream:
        faulthandler.dump_traceback(stream)
        stream.seek(0)
        return stream.read().decode(errors="replace")
