"""A search in PostgreSQL: a real server, which goes away and comes back."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from test_samplers import run, study

from raylab.errors import InputError
from raylab.search.trials import TrialSearch

PASSWORD = "not-to-be-shown"


class Server:
    """A PostgreSQL server of its own, run by the user `postgres` where this one is root, whom it refuses."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._data = programs, folder / "data"
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        secret = folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._run("initdb", "-U", "raylab", "-A", "scram-sha-256", f"--pwfile={secret}")
        self._folder = folder

    @property
    def url(self) -> str:
        return f"postgresql://raylab:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *options: str) -> None:
        command = [str(self._programs / program), "-D", str(self._data), *options]
        done = subprocess.run(command, user=self._user, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("no PostgreSQL server here: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="psycopg is needed: pip install 'raylab[postgres]'")
    if os.geteuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("root cannot run PostgreSQL, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="raylab-pg-", dir="/tmp"))  # short, and others may enter it
    server = Server(found[-1].parent, folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_search_in_postgresql_is_cut_and_continues(server: Server, tmp_path: Path) -> None:
    config = study(sampler="tpe", sampler_options={"n_startup_trials": 3}, storage=server.url)
    whole = run(study(sampler="tpe", sampler_options={"n_startup_trials": 3}), f"sqlite:///{tmp_path}/trials.db")
    search = TrialSearch(config, server.url, "data")
    values = []
    for number in range(3):
        asked = search.ask()
        assert asked is not None
        values.append(asked[1])
        if number == 2:  # the server is gone when the driver wants to tell, and comes back
            server.stop()
            threading.Timer(1.0, server.start).start()
        search.tell(asked[0], {"within/mean": asked[1]["pretrain.temperature"]})
    assert [*values, *run(config, server.url, cuts=(1,))] == whole
    again = TrialSearch(config, server.url, "data")
    assert again.exhausted
    assert len(again.complete()) == 7
    stored = optuna.load_study(study_name=search.name, storage=server.url.replace("postgresql", "postgresql+psycopg"))
    attributes = [stored.user_attrs, *(trial.user_attrs for trial in stored.trials)]
    assert PASSWORD not in str(attributes) + search.name


@pytest.mark.slow
def test_a_wrong_password_is_one_line_that_does_not_show_it(server: Server) -> None:
    url = server.url.replace(PASSWORD, "another-secret")
    with pytest.raises(InputError, match=r"search\.storage: postgresql://raylab:\*\*\*@127.*password auth") as caught:
        TrialSearch(study(storage=url), url, "data")
    assert "another-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
