"""Reading MLflow: which store, which experiment, and all of its runs. `raylab.tracking` is what writes them."""

from __future__ import annotations

import difflib
import gc
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from raylab.errors import InputError

if TYPE_CHECKING:  # MLflow takes a second and more to import, and what is known already is given without it
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.exceptions import MlflowException

    from raylab.mlflow_database import StoredRun

DEFAULT_STORE = Path("runs/mlflow.db")
STALE = "stale"
"""Tag of the runs that an earlier version of the study left."""

_ANSWER_SECONDS = 10.0
_SQLITE = b"SQLite format 3\x00"  # what every such file begins with


def find_store(tracking_uri: str | None) -> str:
    """The address of the MLflow store that holds the results.

    Args:
        tracking_uri: Address of the store (`http://HOST:PORT`, `sqlite:///FILE`, ...). By default the environment's
            MLFLOW_TRACKING_URI, else `runs/mlflow.db` in the working folder, where a sweep on this machine writes.

    Raises:
        InputError: If there is no store at the address, or no address is given and the default file is not there.
    """
    address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        if not DEFAULT_STORE.is_file():
            raise InputError(
                f"no results: {DEFAULT_STORE} is not in {Path.cwd()}, and no tracking address is given; "
                "set MLFLOW_TRACKING_URI or pass --tracking-uri, for example http://HOST:5000 or sqlite:///FILE"
            )
        address = f"sqlite:///{DEFAULT_STORE}"
    _check_answers(address)
    return address


def database_file(address: str) -> Path | None:
    """The file of a SQLite store, else None."""
    if not address.startswith("sqlite:///"):
        return None
    return Path(address.removeprefix("sqlite:///").partition("?")[0]).absolute()


def connect(tracking_uri: str | None) -> MlflowClient:
    """A client of the MLflow store that holds the results; argument and errors as of `find_store`."""
    address = find_store(tracking_uri)
    if (file := database_file(address)) is not None:
        with file.open("rb") as content:
            if content.read(len(_SQLITE)) not in (_SQLITE, b""):
                raise InputError(f"no results at {address}: {file} is no SQLite database")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri=address)
    except MlflowException as error:
        raise _unusable(address, error) from error


def find_experiment(client: MlflowClient, study: str) -> Experiment:
    """The experiment of a study.

    Raises:
        InputError: If the store has no such experiment; the message names the nearest that it has.
    """
    from mlflow.exceptions import MlflowException

    try:
        experiments = _all_experiments(client)
    except MlflowException as error:
        raise _unusable(client.tracking_uri, error) from error
    if study in experiments:
        return experiments[study]
    near = difflib.get_close_matches(study, experiments, n=3, cutoff=0.5)
    names = near or sorted(name for name in experiments if name != "Default")
    known = f"{'the nearest are' if near else 'there are'} {', '.join(names)}" if names else "it holds no study yet"
    raise InputError(f"no study {study!r} in {client.tracking_uri}: {known}")


def read_runs(client: MlflowClient, experiment: str) -> list[StoredRun]:
    """All runs of an experiment, with their tags, parameters and last metric values, the newest first.

    Not the deleted ones, nor those that an earlier version of the study left (tag `stale`).

    Args:
        client: What reaches the store.
        experiment: The experiment's identifier.
    """
    from raylab.mlflow_database import MlflowDatabase

    with without_garbage_collection():
        database = MlflowDatabase.of(client)
        if database is None:
            return list(read_pages(client, experiment))
        return [run for run in database.read(experiment) if STALE not in run.tags]


def read_pages(
    client: MlflowClient, experiment: str, condition: str = "", runs_per_page: int = 1000
) -> Iterator[StoredRun]:
    """As `read_runs`, by MLflow's client alone: a server's runs.

    Args:
        client: What reaches the store.
        experiment: The experiment's identifier.
        condition: In MLflow's language: the runs wanted.
        runs_per_page: Of one request.
    """
    from raylab.mlflow_database import StoredRun

    token: str | None = None
    while True:
        page = client.search_runs([experiment], condition, max_results=runs_per_page, page_token=token)
        for run in page:
            if STALE not in run.data.tags:
                info, data = run.info, run.data
                contents = (dict(data.tags), dict(data.params), dict(data.metrics))
                yield StoredRun(info.run_id, info.run_name, info.status, info.start_time, info.end_time, *contents)
        token = page.token
        if not token:
            return


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Python's collector would take two thirds of the time: MLflow makes tens of objects a run, all of them in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _all_experiments(client: MlflowClient) -> dict[str, Experiment]:
    experiments: dict[str, Experiment] = {}
    token: str | None = None
    while True:
        page = client.search_experiments(page_token=token)
        experiments.update({experiment.name: experiment for experiment in page})
        token = page.token
        if not token:
            return experiments


def _check_answers(address: str) -> None:
    """Refuse an address with nothing behind it: MLflow would retry a dead server for minutes in silence, and create
    a missing SQLite file."""
    if (file := database_file(address)) is not None:
        if not file.is_file():
            raise InputError(f"no results at {address}: there is no file {file}")
    elif address.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=_ANSWER_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # it answers, if only to ask for credentials, which MLflow's client has
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            # Certificates are the business of MLflow's client, which has settings for them.
            if not isinstance(reason, ssl.SSLError):
                raise InputError(f"no MLflow server answers at {address}: {reason}") from error


def _unusable(address: str, error: MlflowException) -> InputError:
    return InputError(f"{address} cannot be used as an MLflow store: {str(error).splitlines()[0]}")
