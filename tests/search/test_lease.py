"""Who may drive a study of an object store, and which stores will do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from s3_server import Nodes

from raylab.errors import InputError
from raylab.search import lease as leases
from raylab.search import object_store
from raylab.search.lease import Held, Lease
from raylab.search.object_store import ObjectStore
from raylab.search.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("server")]


def test_a_driver_that_lost_its_study_leaves_it_alone(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
    first, store = nodes("first"), ObjectStore(nodes("first").uri)
    (first.study_folder("tiny") / "status.json").write_text("the first one's")

    def drive() -> None:
        with first.lock_study("tiny"):
            store.write("studies/tiny/lease/000002.json", store.read("studies/tiny/lease/000001.json"))
            store.write("studies/tiny/status.json", b"the second one's")
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):  # what stops a sweep as Ctrl-C does
        drive()
    assert first.read_study_file("tiny", "status.json") == "the second one's"


def test_two_drivers_of_one_study_are_refused(nodes: Nodes) -> None:
    a, b = nodes("a"), nodes("b")
    with a.lock_study("tiny"):
        refused = pytest.raises(InputError, match=rf"study tiny: another sweep of it runs \(process {os.getpid()} on ")
        with refused, b.lock_study("tiny"):
            pass
        with b.lock_study("other"):
            pass
    with b.lock_study("tiny"):
        pass


def test_a_file_that_must_be_new_is_made_once(nodes: Nodes) -> None:
    store = ObjectStore(nodes("a").uri)
    assert store.create("file", b"first")
    assert not store.create("file", b"second")
    assert store.read("file") == b"first"


def test_of_many_that_want_a_lease_one_has_it(nodes: Nodes) -> None:
    store = ObjectStore(nodes("a").uri)
    start, found = threading.Barrier(8), []

    def take() -> None:
        start.wait()
        try:
            with Lease(store, "lease"):
                found.append("held")
                start.wait()
        except Held:
            found.append("refused")
            start.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["held"] + ["refused"] * 7
    assert len(store.files("lease")) == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_lease_of_a_dead_driver_is_taken_over(
    nodes: Nodes, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore(nodes("a").uri)
    holder = subprocess.Popen([sys.executable, "-c", "pass"])
    holder.wait()
    host = "elsewhere" if elsewhere else socket.gethostname()
    content = {"owner": "x", "host": host, "process": holder.pid, "time": time.time()}
    store.write("lease/000007.json", json.dumps(content).encode())
    if elsewhere:  # nobody knows that it is dead, until it has been silent for long enough
        with (
            pytest.raises(Held, match=f"process {holder.pid} on elsewhere, last heard of . s ago"),
            Lease(store, "lease"),
        ):
            pass
        monkeypatch.setattr(leases, "STALE_SECONDS", 0.0)
        monkeypatch.setattr(leases, "BEAT_SECONDS", 0.1)
    with Lease(store, "lease"):
        assert set(store.files("lease")) == {"000008.json"}


def test_a_driver_whose_lease_was_taken_over_hears_of_it(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.1)
    store, lost = ObjectStore(nodes("a").uri), threading.Event()
    with Lease(store, "lease", lost=lost.set):
        (mine,) = store.files("lease")
        assert not lost.wait(0.5)
        successor = {**json.loads(store.read(f"lease/{mine}")), "owner": "another"}
        store.write("lease/000002.json", json.dumps(successor).encode())
        assert lost.wait(10)
    assert json.loads(store.read("lease/000002.json")) == successor  # it is not this one's to give back


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://nowhere/x", "cannot be written: no such bucket"),
        ("foo://bucket/x", "cannot be reached: Protocol not known: foo"),
        ("memory://x", "no other process sees it"),
        ("s3://", "no bucket"),
        ("s3://user:secret@results/x", "found a password in it"),
        ("http://127.0.0.1:9/x", "cannot be"),
    ],
)
def test_a_location_that_will_not_do_is_refused_in_one_line(location: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Storage.open(location)
    assert message in str(caught.value)
    assert str(caught.value).startswith("--storage ")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_store_that_does_not_answer_is_refused(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(object_store, "PROBE_SECONDS", 1.0)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(InputError, match="cannot be written: no answer within 1 seconds"):
            Storage.open("s3://results/x")
    s3fs.S3FileSystem.clear_instance_cache()


def test_credentials_that_are_missing_are_named(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="cannot be written: Unable to locate credentials"):
        Storage.open("s3://results/x")
    s3fs.S3FileSystem.clear_instance_cache()
