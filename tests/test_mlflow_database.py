"""Runs written into MLflow's tables at once are what its client would have written."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from raylab.mlflow_database import MlflowDatabase, Value, WholeRun

_NAMES = itertools.count()


@pytest.fixture(scope="module")
def client(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    folder = tmp_path_factory.mktemp("database")
    shutil.copy(empty_store, folder / "mlflow.db")
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def _experiment(client: MlflowClient) -> str:
    return str(client.create_experiment(f"experiment {next(_NAMES)}", artifact_location="file:///artifacts"))


def _database(client: MlflowClient) -> MlflowDatabase:
    database = MlflowDatabase.of(client)
    assert database is not None, "MLflow's tables have changed: raylab.mlflow_database knows them no more"
    return database


def _contents(client: MlflowClient, experiment: str) -> list[Any]:
    """All that MLflow says of an experiment's runs, but what is drawn at random."""
    found = []
    for run in client.search_runs([experiment]):
        info = {name: value for name, value in dict(run.info).items() if name not in ("run_id", "run_uuid")}
        info["artifact_uri"] = info["artifact_uri"].replace(run.info.run_id, "RUN")
        del info["experiment_id"]
        metrics = [
            [(m.key, repr(m.value), m.step, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
            for name in sorted(run.data.metrics)
        ]
        last = sorted((name, repr(value)) for name, value in run.data.metrics.items())
        found.append((info, run.data.tags, run.data.params, last, [sorted(values) for values in metrics]))
    return found


_values = st.lists(
    st.tuples(
        st.sampled_from(["train/loss", "dev/f1"]),
        st.one_of(st.sampled_from([math.nan, math.inf, -math.inf, 1e-300]), st.floats(-100, 100)),
        st.integers(0, 3),
        st.integers(1, 3),
    ),
    max_size=12,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=_values)
def test_a_run_is_as_the_client_writes_it(client: MlflowClient, values: list[Value]) -> None:
    run = WholeRun("a name", 1000, 2000, {"kind": "finetune", "seed": "0"}, {"finetune.epochs": "3"}, values)
    ours, theirs = _experiment(client), _experiment(client)
    _database(client).write(ours, [run])
    run_id = client.create_run(theirs, start_time=1000, tags=dict(run.tags), run_name=run.name).info.run_id
    metrics = [Metric(name, value, time, step) for name, value, step, time in values]
    client.log_batch(run_id, metrics, [Param(*item) for item in run.params.items()])
    client.set_terminated(run_id, "FINISHED", 2000)
    assert _contents(client, ours) == _contents(client, theirs)


def test_runs_are_added_all_or_none(client: MlflowClient) -> None:
    experiment = _experiment(client)
    good = WholeRun("good", 1, 2, {"kind": "pretrain"}, {"a": "1"}, [("x", 1.0, 0, 1)])
    bad = WholeRun("bad", 1, 2, {}, {"a": None}, [])  # type: ignore[dict-item]
    with pytest.raises(Exception, match="NOT NULL"):
        _database(client).write(experiment, [good, bad])
    assert client.search_runs([experiment]) == []


def test_heads_are_of_the_runs_that_are_not_deleted(client: MlflowClient) -> None:
    experiment = _experiment(client)
    runs = [WholeRun(f"run {n}", n, n + 1, {"key": f"k{n}", "other": "x"}, {}, []) for n in range(3)]
    _database(client).write(experiment, runs)
    _database(client).write(_experiment(client), runs)
    newest = client.search_runs([experiment])[0]
    client.delete_run(newest.info.run_id)
    running = client.create_run(experiment, start_time=9, tags={"stale": "true"}).info.run_id
    heads = list(_database(client).heads(experiment, ("key", "stale")))
    assert heads[0] == (running, "RUNNING", None, {"stale": "true"})
    assert [head[1:] for head in heads[1:]] == [("FINISHED", 2, {"key": "k1"}), ("FINISHED", 1, {"key": "k0"})]


def test_a_server_has_no_tables_to_write_to() -> None:
    assert MlflowDatabase.of(MlflowClient("http://127.0.0.1:9")) is None
