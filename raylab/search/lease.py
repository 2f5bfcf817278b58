"""Who drives a study whose storage is an object store, where files cannot be locked.

PREFIX/000001.json, 000002.json and so on: the lease of the highest number counts. It says who holds it, and when that
one was last alive. Nobody takes a number that is taken, for a store makes a file that must be new only once. A lease is
never deleted but by the holder of a later one, so that numbers never come again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from raylab.search.object_store import ObjectStore

BEAT_SECONDS = 10.0
"""Between two signs of life."""

STALE_SECONDS = 60.0
"""After so long without one, another may take over."""


@dataclass(frozen=True)
class Holder:
    """What a lease says.

    Attributes:
        owner: Drawn by each holder.
        host: Its machine.
        process: Its process there.
        time: When it last showed life, in seconds since the epoch by its own clock.
        beats: How often it did.
        released: Whether it has ended.
    """

    owner: str
    host: str
    process: int
    time: float
    beats: int = 0
    released: bool = False

    @classmethod
    def read(cls, contents: bytes) -> Holder:
        """The holder that a lease names."""
        return cls(**json.loads(contents))

    @property
    def dead(self) -> bool:
        """Whether it was a process of this machine that is no more."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class Held(Exception):
    """Another one holds the lease.

    Args:
        holder: Who.
    """

    def __init__(self, holder: Holder) -> None:
        ago = max(0.0, time.time() - holder.time)
        super().__init__(f"{holder}, last heard of {ago:.0f} s ago; if it is dead, try again in {STALE_SECONDS:.0f} s")


class Lease:
    """The right to drive a study; a context manager that holds it.

    Args:
        store: Where the study lies.
        folder: Of the lease, in the store.
        at_beat: Called at each sign of life, in a thread.
        lost: Called in that thread, once, when another one has taken over: this one was silent for too long. By
            default it interrupts the process as Ctrl-C does.

    Raises:
        Held: Another one holds it.

    Attributes:
        was_lost: Whether another one has taken over.
    """

    def __init__(
        self,
        store: ObjectStore,
        folder: str,
        at_beat: Callable[[], None] = lambda: None,
        lost: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT),
    ) -> None:
        self._store = store
        self._folder = folder
        self._at_beat = at_beat
        self._lost = lost
        self._end = threading.Event()
        self._number = 0
        self.was_lost = False
        self._me = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), 0.0)

    def __enter__(self) -> Lease:
        self._take()
        self._thread = threading.Thread(target=self._stay_alive, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        try:
            if self._last()[0] == self._number:
                self._say(released=True)
        except Exception as reason:  # it ends by itself, later
            logging.getLogger(__name__).warning("the lease could not be given back: %s", reason)

    def is_held(self) -> bool:
        """Whether anyone holds the lease who may be alive."""
        _, holder = self._last()
        return not (holder is None or holder.released or holder.dead or time.time() - holder.time > STALE_SECONDS)

    def _take(self) -> None:
        while True:
            number, holder = self._last()
            if holder is not None and not holder.released:
                if not holder.dead and not self._is_stale(number, holder):
                    raise Held(holder)
                logging.getLogger(__name__).warning("%s holds the lease and is dead: taken over", holder)
            self._number = number + 1
            self._me = replace(self._me, time=time.time())
            name = self._name(self._number)
            # Read again: a store that does not know of files that must be new overwrites what another has written.
            if self._store.create(name, self._contents()) and self._store.read(name) == self._contents():
                self._store.delete(
                    f"{self._folder}/{old}" for old in self._store.files(self._folder) if _number(old) < self._number
                )
                return

    def _is_stale(self, number: int, holder: Holder) -> bool:
        """Whether a holder shows no life, neither by its clock nor while it is watched: clocks differ."""
        if time.time() - holder.time < STALE_SECONDS:
            return False
        logging.getLogger(__name__).warning("%s may be dead: waiting for a sign of life", holder)
        time.sleep(2.5 * BEAT_SECONDS)
        return self._last() == (number, holder)

    def _last(self) -> tuple[int, Holder | None]:
        while True:
            number = max(map(_number, self._store.files(self._folder)), default=0)
            if number == 0:
                return 0, None
            try:
                return number, Holder.read(self._store.read(self._name(number)))
            except FileNotFoundError:
                continue  # the holder of a later one has just deleted it

    def _stay_alive(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            try:
                if self._last()[0] != self._number:
                    logging.getLogger(__name__).error(
                        "another sweep of the study has taken over, for this one was silent for too long: it stops"
                    )
                    self.was_lost = True
                    self._lost()
                    return
                self._say()
                self._at_beat()
            except Exception:
                logging.getLogger(__name__).warning("no sign of life could be given", exc_info=True)

    def _say(self, *, released: bool = False) -> None:
        self._me = replace(self._me, time=time.time(), beats=self._me.beats + 1, released=released)
        self._store.write(self._name(self._number), self._contents())

    def _contents(self) -> bytes:
        return json.dumps(asdict(self._me)).encode()

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:06d}.json"


def _number(name: str) -> int:
    return int(name.removesuffix(".json"))
