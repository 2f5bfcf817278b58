"""Many runs of MLflow at once, where its store is a database that this process reaches.

MLflow's client writes and reads a run in some ten transactions of its object-relational mapper: tens of milliseconds
each, minutes for ten thousand. Here they are rows of MLflow's own tables, many in one statement. Where the store is a
server, or its tables are not as they are known here, `MlflowDatabase.of` gives None and the client does the work.
"""

from __future__ import annotations

import math
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

_COLUMNS = {
    "runs": "run_uuid name source_type source_name entry_point_name user_id status start_time end_time deleted_time "
    "source_version lifecycle_stage artifact_uri experiment_id",
    "tags": "key value run_uuid",
    "params": "key value run_uuid",
    "metrics": "key value timestamp step is_nan run_uuid",
    "latest_metrics": "key value timestamp step is_nan run_uuid",
}
_LONGEST_VALUE = 500
"""Of a parameter or tag: MLflow treats longer ones in ways of its own."""

_LARGEST = 1.7976931348623157e308  # what MLflow keeps of an infinite metric

Value = tuple[str, float, int, int]
"""A value of a metric: name, value, step, milliseconds since the epoch."""


@dataclass(frozen=True)
class WholeRun:
    """A run that has ended, as MLflow shall hold it.

    Attributes:
        name: Its name.
        started: When it began, in milliseconds since the epoch.
        ended: When it ended.
        tags: By name.
        params: By name.
        metrics: All values that its metrics ever had.
    """

    name: str
    started: int
    ended: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Sequence[Value]

    @property
    def is_plain(self) -> bool:
        """Whether MLflow would take it as it is."""
        values = (*self.tags.values(), *self.params.values())
        return len(self.name) <= 250 and all(len(value) <= _LONGEST_VALUE for value in values)


class MlflowDatabase:
    """The tables of an MLflow store; made by `of`."""

    def __init__(self, store: Any, tables: Mapping[str, Any]) -> None:
        self._store = store
        self._tables = tables

    @classmethod
    def of(cls, client: MlflowClient) -> MlflowDatabase | None:
        """The database behind a client, if there is one and its tables are known."""
        try:
            from mlflow.store.tracking.dbmodels import models
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            store = client._tracking_client.store
            found = (models.SqlRun, models.SqlTag, models.SqlParam, models.SqlMetric, models.SqlLatestMetric)
            tables = {model.__table__.name: model.__table__ for model in found}
        except (ImportError, AttributeError):
            return None
        known = {name: set(columns.split()) for name, columns in _COLUMNS.items()}
        if (
            not isinstance(store, SqlAlchemyStore)
            or {n: {c.name for c in t.columns} for n, t in tables.items()} != known
        ):
            return None
        return cls(store, tables)

    def write(self, experiment: str, runs: Sequence[WholeRun]) -> None:
        """Add finished runs, all or none."""
        artifacts = self._store.get_experiment(experiment).artifact_location.rstrip("/")
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _COLUMNS}
        for run in runs:
            of = {"run_uuid": uuid.uuid4().hex}
            rows["runs"].append(
                {
                    **of,
                    "name": run.name,
                    "source_type": "UNKNOWN",
                    "source_name": "",
                    "entry_point_name": "",
                    "user_id": "unknown",
                    "status": "FINISHED",
                    "start_time": run.started,
                    "end_time": run.ended,
                    "deleted_time": None,
                    "source_version": "",
                    "lifecycle_stage": "active",
                    "artifact_uri": f"{artifacts}/{of['run_uuid']}/artifacts",
                    "experiment_id": int(experiment),
                }
            )
            tags = {"mlflow.runName": run.name, **run.tags}
            rows["tags"] += [{**of, "key": name, "value": value} for name, value in tags.items()]
            rows["params"] += [{**of, "key": name, "value": value} for name, value in run.params.items()]
            values = list(dict.fromkeys(map(_stored, run.metrics)))
            rows["metrics"] += [{**of, **_row(value)} for value in values]
            latest: dict[str, tuple[str, float, int, int, bool]] = {}
            for value in values:
                name, number, step, time, _ = value
                if name not in latest or (step, time, number) > (latest[name][2], latest[name][3], latest[name][1]):
                    latest[name] = value
            rows["latest_metrics"] += [{**of, **_row(value)} for value in latest.values()]
        with self._session(read_only=False) as session:
            for name, added in rows.items():
                if added:
                    session.execute(self._tables[name].insert(), added)

    def heads(self, experiment: str, tags: Sequence[str]) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Identifier, status and some tags of every run that is not deleted, the newest first."""
        with self._session(read_only=True) as session:
            found = self._runs(session, experiment)
            marked = self._values(session, experiment, "tags", tags)
        for run in found:
            yield run["run_uuid"], run["status"], marked[run["run_uuid"]]

    def read(self, experiment: str, *, without: str) -> list[Run]:
        """Every run that is not deleted, with tags, parameters and last metric values, the newest first.

        Args:
            experiment: Identifier of the experiment.
            without: A tag whose runs are left out.
        """
        with self._session(read_only=True) as session:
            found = self._runs(session, experiment)
            tags, params = (self._values(session, experiment, name) for name in ("tags", "params"))
            metrics: defaultdict[str, list[Metric]] = defaultdict(list)
            for key, name, value, time, step, is_nan in self._select(
                session, experiment, "latest_metrics", ("value", "timestamp", "step", "is_nan")
            ):
                metrics[key].append(Metric(name, math.nan if is_nan else value, time, step))
        runs = []
        for run in found:
            key = run["run_uuid"]
            if without not in tags[key]:
                info = RunInfo(
                    run_id=key,
                    experiment_id=str(run["experiment_id"]),
                    user_id=run["user_id"],
                    status=run["status"],
                    start_time=run["start_time"],
                    end_time=run["end_time"],
                    lifecycle_stage=run["lifecycle_stage"],
                    artifact_uri=run["artifact_uri"],
                    run_name=run["name"],
                )
                data = RunData(
                    metrics[key],
                    [Param(name, value) for name, value in params[key].items()],
                    [RunTag(name, value) for name, value in tags[key].items()],
                )
                runs.append(Run(info, data))
        return runs

    def _session(self, *, read_only: bool) -> AbstractContextManager[Any]:
        make: Any = self._store.ManagedSessionMaker
        try:
            session: AbstractContextManager[Any] = make(read_only=read_only)
        except TypeError:  # MLflow before 3.11
            session = make()
        return session

    def _runs(self, session: Any, experiment: str) -> list[Mapping[str, Any]]:
        table = self._tables["runs"]
        query = table.select().where(table.c.experiment_id == int(experiment), table.c.lifecycle_stage == "active")
        return [row._mapping for row in session.execute(query.order_by(table.c.start_time.desc(), table.c.run_uuid))]

    def _values(
        self, session: Any, experiment: str, name: str, keys: Iterable[str] = ()
    ) -> defaultdict[str, dict[str, str]]:
        found: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for run, key, value in self._select(session, experiment, name, ("value",), keys):
            found[run][key] = value
        return found

    def _select(
        self, session: Any, experiment: str, name: str, columns: Iterable[str], keys: Iterable[str] = ()
    ) -> Iterable[Any]:
        """Run, key and columns of a table's rows for all runs that are not deleted."""
        table, runs = self._tables[name], self._tables["runs"]
        query = table.select().with_only_columns(
            table.c.run_uuid, table.c.key, *(table.c[column] for column in columns)
        )
        query = query.join(runs, table.c.run_uuid == runs.c.run_uuid)
        query = query.where(runs.c.experiment_id == int(experiment), runs.c.lifecycle_stage == "active")
        if keys := list(keys):
            query = query.where(table.c.key.in_(keys))
        rows: Iterable[Any] = session.execute(query).all()
        return rows


def _stored(value: Value) -> tuple[str, float, int, int, bool]:
    """Name, value, step, time and whether it is not a number, as MLflow keeps them."""
    name, number, step, time = value
    if math.isnan(number):
        return name, 0.0, step, time, True
    return name, min(max(float(number), -_LARGEST), _LARGEST), step, time, False


def _row(value: tuple[str, float, int, int, bool]) -> dict[str, Any]:
    name, number, step, time, is_nan = value
    return {"key": name, "value": number, "step": step, "timestamp": time, "is_nan": is_nan}
