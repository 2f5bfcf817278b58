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

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from raylab.errors import InputError
from raylab.mlflow_database import MlflowDatabase

DEFAULT_STORE = Path("runs/mlflow.db")
_ANSWER_SECONDS = 10.0


def connect(tracking_uri: str | None) -> MlflowClient:
    """A client of the MLflow store that holds the results.

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
    try:
        return MlflowClient(tracking_uri=address)
    except MlflowException as error:
        raise _unusable(address, error) from error


def find_experiment(client: MlflowClient, study: str) -> Experiment:
    """The experiment of a study.

    Raises:
        InputError: If the store has no such experiment; the message names the nearest that it has.
    """
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


def read_runs(client: MlflowClient, experiment: Experiment, runs_per_page: int = 1000) -> list[Run]:
    """All runs of an experiment, with their tags, parameters and last metric values, the newest first.

    Not the deleted ones, nor those that an earlier version of the study left (tag `stale`).
    """
    with _without_garbage_collection():
        database = MlflowDatabase.of(client)
        if database is not None:
            return database.read(experiment.experiment_id, without="stale")
        return list(read_pages(client, experiment, runs_per_page))


def read_pages(client: MlflowClient, experiment: Experiment, runs_per_page: int) -> Iterator[Run]:
    """As `read_runs`, by MLflow's client alone: a server's runs."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment.experiment_id], max_results=runs_per_page, page_token=token)
        yield from (run for run in page if "stale" not in run.data.tags)
        token = page.token
        if not token:
            return


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
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
    if address.startswith("sqlite:///"):
        file = Path(address.removeprefix("sqlite:///").partition("?")[0])
        if not file.is_file():
            raise InputError(f"no results at {address}: there is no file {file.absolute()}")
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
