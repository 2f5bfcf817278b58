"""Many runs of MLflow at once, where its store is a database that this process reaches.

MLflow's client writes and reads a run in some ten transactions of its object-relational mapper: tens of milliseconds
each, minutes for ten thousand. Here they are rows of MLflow's own tables, many in one statement. Where the store is a
server, or its tables are not as they are known here, `MlflowDatabase.of` gives None and the client does the work.
"""

from __future__ import annotations

import math
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from mlflow import MlflowClient

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


_ASKED_AT_ONCE = 500
"""Runs that are named in one query; for more, all are read."""


class StoredRun(NamedTuple):
    """A run as MLflow holds it, with the last values of its metrics.

    Attributes:
        run_id: MLflow's identifier.
        name: Its name.
        status: Such as FINISHED.
        start_time: When it began, in milliseconds since the epoch.
        end_time: When it ended, or None.
        tags: By name.
        params: By name.
        metrics: By name.
    """

    run_id: str
    name: str
    status: str
    start_time: int
    end_time: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


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

    def heads(self, experiment: str, tags: Sequence[str]) -> Iterator[tuple[str, str, int | None, Mapping[str, str]]]:
        """Identifier, status, end (in milliseconds since the epoch) and some tags of every run that is not deleted, the
        newest first."""
        with self._session(read_only=True) as session:
            found = self._runs(session, experiment)
            marked = self._values(session, experiment, "tags", "value", keys=tags)
        for run in found:
            yield run.run_uuid, run.status, run.end_time, marked[run.run_uuid]

    def read(self, experiment: str, runs: Collection[str] | None = None) -> list[StoredRun]:
        """Runs that are not deleted, the newest first.

        Args:
            experiment: Identifier of the experiment.
            runs: The identifiers of those wanted; default: all.
        """
        few = runs if runs is not None and len(runs) <= _ASKED_AT_ONCE else ()
        with self._session(read_only=True) as session:
            found = self._runs(session, experiment, few)
            tags = self._values(session, experiment, "tags", "value", runs=few)
            params = self._values(session, experiment, "params", "value", runs=few)
            metrics = self._values(session, experiment, "latest_metrics", "value", runs=few)
            nans = self._values(session, experiment, "latest_metrics", "is_nan", runs=few, only_true=True)
        for run, names in nans.items():
            metrics[run].update(dict.fromkeys(names, math.nan))
        wanted = None if runs is None else set(runs)
        return [
            StoredRun(
                run.run_uuid,
                run.name,
                run.status,
                run.start_time,
                run.end_time,
                tags[run.run_uuid],
                params[run.run_uuid],
                metrics[run.run_uuid],
            )
            for run in found
            if wanted is None or run.run_uuid in wanted
        ]

    def _session(self, *, read_only: bool) -> AbstractContextManager[Any]:
        make: Any = self._store.ManagedSessionMaker
        try:
            session: AbstractContextManager[Any] = make(read_only=read_only)
        except TypeError:  # MLflow before 3.11
            session = make()
        return session

    def _runs(self, session: Any, experiment: str, runs: Collection[str] = ()) -> list[Any]:
        table = self._tables["runs"]
        query = table.select().where(table.c.experiment_id == int(experiment), table.c.lifecycle_stage == "active")
        if runs:
            query = query.where(table.c.run_uuid.in_(runs))
        found: list[Any] = session.execute(query.order_by(table.c.start_time.desc(), table.c.run_uuid)).all()
        return found

    def _values(
        self,
        session: Any,
        experiment: str,
        name: str,
        column: str,
        *,
        keys: Collection[str] = (),
        runs: Collection[str] = (),
        only_true: bool = False,
    ) -> defaultdict[str, dict[str, Any]]:
        """A column of a table by run and key, for all runs that are not deleted, or for some."""
        table, active = self._tables[name], self._tables["runs"]
        query = table.select().with_only_columns(table.c.run_uuid, table.c.key, table.c[column])
        query = query.join(active, table.c.run_uuid == active.c.run_uuid)
        query = query.where(active.c.experiment_id == int(experiment), active.c.lifecycle_stage == "active")
        if keys:
            query = query.where(table.c.key.in_(keys))
        if runs:
            query = query.where(active.c.run_uuid.in_(runs))
        if only_true:
            query = query.where(table.c[column])
        found: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        for run, key, value in session.execute(query).all():
            found[run][key] = value
        return found


def _stored(value: Value) -> tuple[str, float, int, int, bool]:
    """Name, value, step, time and whether it is not a number, as MLflow keeps them."""
    name, number, step, time = value
    if math.isnan(number):
        return name, 0.0, step, time, True
    return name, min(max(float(number), -_LARGEST), _LARGEST), step, time, False


def _row(value: tuple[str, float, int, int, bool]) -> dict[str, Any]:
    name, number, step, time, is_nan = value
    return {"key": name, "value": number, "step": step, "timestamp": time, "is_nan": is_nan}
