"""MLflow, written by the driver only, from one background thread.

What a job leaves in the storage is the record; MLflow is made from it. So a server that goes away loses nothing: what
it missed is logged when it is back, or by the next sweep of the study, which compares the two.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Read by MLflow at import and at every request: a server that is away must not hold the driver for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run of a server

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag, ViewType
from mlflow.exceptions import MlflowException

from raylab.config import StudyConfig
from raylab.errors import InputError
from raylab.experiment import find_or_make
from raylab.logged_sweeps import RUN_TAG, LoggedSweeps
from raylab.mlflow_database import MlflowDatabase, WholeRun
from raylab.news import Fresh, News, final_metrics, holds, leaves, parameters
from raylab.search.plan import Job

METRICS_PER_BATCH, PARAMS_PER_BATCH = 900, 90
"""Below MLflow's own limits of one request: 1000 in all, and 100 parameters."""

PATIENCE_SECONDS = 5.0
"""Between two tries while the server is away."""

_RUNS_TOGETHER = 100
"""How many runs are written in one transaction at most."""

_BREATH_SECONDS = 1.0
"""Between two looks at what was heard: what came in between is logged together, most short jobs in one go."""


class Tracker:
    """Logs one run per job into the study's experiment; a listener of the sweep.

    Args:
        uri: MLflow's tracking URI.
        study: The study: its name is the experiment's.
        jobs_folder: Path or URI of the jobs' folders, for the `output` tag.
        artifacts: Where a database without a server keeps artifacts.

    Attributes:
        uri: MLflow's tracking URI.
        experiment: Identifier of the study's experiment.
        unlogged: After `close`: how many events were not logged.

    Raises:
        InputError: Nothing answers at the URI, or the experiment is marked deleted there.
    """

    def __init__(self, uri: str, study: StudyConfig, jobs_folder: Path | str, artifacts: Path) -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.uri = uri
        self._study = study
        self._jobs_folder = jobs_folder
        try:
            self._client = MlflowClient(uri)
            self._database = MlflowDatabase.of(self._client)
            self.experiment = find_or_make(self._client, study, artifacts)
            self._sweeps = LoggedSweeps(self._client, self.experiment)
            self._runs: dict[str, tuple[str, str]] = {}
            self._stale: set[str] = set()
            self._trials: dict[str, dict[str, str]] = {}
            self._read_existing()
        except InputError:
            raise
        except Exception as error:  # MLflow's, SQLAlchemy's, requests': one for each kind of store
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"--tracking-uri {uri}: no MLflow tracking store answers there ({reason[:200]})") from None
        self._live: dict[str, str] = {}
        self._torn: set[str] = set()  # jobs of which some of the run may be missing
        self._events: queue.SimpleQueue[News | tuple[Any, ...] | None] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._heard = self._logged = self.unlogged = 0
        self._thread = threading.Thread(target=self._log_events, name="tracking", daemon=True)
        self._thread.start()

    # What a listener hears. Each only queues: the driver never waits for MLflow.

    def started(self, job: Job) -> None:
        """Begin the job's run, in place of one that an interrupted sweep left."""
        self._tell(job, begun=time.time())

    def measured(self, job: Job, fresh: Fresh, progress: float) -> None:
        """Add measurements to the job's run."""
        if new := list(fresh):
            self._tell(job, fresh=new)

    def done(self, job: Job, record: Mapping[str, Any], *, found: bool) -> None:
        """Complete the job's run, or log it whole where the study's experiment lacks it; it is not stale any more."""
        if found and self._runs.get(job.key, ("", ""))[1] == "FINISHED":
            if job.key in self._stale:
                self._do(self._mark_fresh, job.key)
            return
        self._tell(job, record=record)

    def interrupted(self, job: Job, reason: str) -> None:
        """A job lost its process: what it logged stays until it begins again."""

    def failed(self, job: Job, error: str, skipped: list[Job]) -> None:
        """Mark the job's run as failed."""
        self._tell(job, error=error)

    def pruned(self, job: Job, reason: str) -> None:
        """Mark the job's run as stopped early: MLflow's status for it is KILLED."""
        self._tell(job, error=reason, stopped=True)

    def trial(self, number: int, values: Mapping[str, Any], scores: Mapping[str, float] | None, *, found: bool) -> None:
        """Log one trial of the search: its values as parameters, its objectives as metrics."""
        params = dict(leaves(values))
        if not (found and self._trials.get(str(number)) == params):
            self._do(self._trial, number, params, scores)

    def summaries(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log one summary run per language set and variant, in place of all earlier ones."""
        self._do(self._summaries, list(rows))

    def mark_stale(self, keys: Collection[str]) -> None:
        """Mark the runs of jobs that are not of these as stale: the study has changed since they ran.

        Analysis leaves stale runs out. A job that comes back loses the mark when it is found done.
        """
        self._do(self._mark_stale, set(keys))

    @property
    def behind(self) -> int:
        """How many events are not logged yet; what came in the last second or two is among them."""
        return self._heard - self._logged

    def flush(self, seconds: float = 60.0) -> bool:
        """Wait until all that was heard is logged; whether it is."""
        written = threading.Event()
        self._do(written.set)
        self._hurry.set()
        return written.wait(seconds)

    def close(self, seconds: float = 30.0) -> None:
        """Log what is left, and stop."""
        self._events.put(None)
        self._hurry.set()
        self._thread.join(seconds)
        self.unlogged = self.behind

    def _tell(self, job: Job, **news: Any) -> None:
        self._heard += 1
        self._events.put(News(job, **news))

    def _do(self, action: Callable[..., object], *arguments: Any) -> None:
        self._heard += 1
        self._events.put((action, *arguments))

    # The background thread.

    def _log_events(self) -> None:
        while True:
            events = [self._events.get()]
            self._hurry.wait(_BREATH_SECONDS)
            self._hurry.clear()
            with contextlib.suppress(queue.Empty):
                while events[-1] is not None:
                    events.append(self._events.get_nowait())
            waiting: dict[str, News] = {}
            for event in events:
                if isinstance(event, News):
                    before = waiting.setdefault(event.job.key, event)
                    if before is not event:
                        waiting[event.job.key] = before.followed_by(event)
                    continue
                self._log_all(waiting)
                if event is None:
                    self._insist(self._sweeps.close)
                    return
                self._insist(*event)
                self._logged += 1
            self._log_all(waiting)

    def _log_all(self, waiting: dict[str, News]) -> None:
        for news in self._without_whole(list(waiting.values())):
            self._insist(self._log_job, news)
            self._logged += news.heard
        waiting.clear()
        self._insist(self._sweeps.flush)

    def _without_whole(self, waiting: list[News]) -> list[News]:
        """Log, many at a time, the runs of which all is known; the others are left."""
        database, left = self._database, []
        whole = []
        for news in waiting:
            run = self._whole(news) if database is not None else None
            if run is None:
                left.append(news)
            else:
                whole.append((news, run))
        for first in range(0, len(whole), _RUNS_TOGETHER):
            some = whole[first : first + _RUNS_TOGETHER]
            try:
                assert database is not None
                for news, _ in some:
                    self._discard(news.job)
                database.write(self.experiment, [run for _, run in some])
                self._logged += sum(news.heard for news, _ in some)
            except Exception:  # of whatever library: the client says what is wrong, or tries until it is not
                left += [news for news, _ in some]
        return left

    def _whole(self, news: News) -> WholeRun | None:
        """The run of a job that ended before any of it was logged."""
        record = news.record
        if record is None or (news.begun is None and news.job.key in self._live) or news.job.key in self._torn:
            return None
        begun = news.begun or record["started"]
        metrics, params = self._metrics(news, whole=news.begun is None), parameters(news.job)
        run = WholeRun(
            news.job.name, int(begun * 1000), int(record["ended"] * 1000), self._tags(news.job), params, metrics
        )
        return run if run.is_plain else None

    def _insist(self, action: Callable[..., object], *arguments: Any) -> None:
        """Do something with MLflow, again and again while it is away."""
        while True:
            try:
                action(*arguments)
                return
            except Exception as error:  # MLflow's, or the connection's, of whatever library
                if arguments and isinstance(arguments[0], News):
                    self._torn.add(arguments[0].job.key)
                if isinstance(error, MlflowException) and error.get_http_status_code() < 500:
                    logging.getLogger(__name__).error("MLflow refused to log: %s", error)
                    return
                time.sleep(PATIENCE_SECONDS)

    def _log_job(self, news: News) -> None:
        """Log what was heard of a job, in as few requests as will do: each costs milliseconds."""
        job, record = news.job, news.record
        key = job.key
        new = key not in self._live or news.begun is not None
        if new:
            if news.begun is None and record is None and news.error is None:
                return  # its run could not be made: it will be made from the record
            self._discard(job)
            begun = news.begun or (record["started"] if record else time.time())
            self._create(job, int(begun * 1000))
        # What is there already is not doubled: MLflow ignores an equal value.
        values = self._metrics(news, whole=key in self._torn or (new and news.begun is None))
        metrics = [Metric(name, value, time_ms, step) for name, value, step, time_ms in values]
        params = _params(parameters(job)) if new or key in self._torn else []
        self._log_batches(self._live[key], metrics, params, news.error)
        if record or news.error is not None:
            status = RunStatus.FINISHED if record else RunStatus.KILLED if news.stopped else RunStatus.FAILED
            ended = int(record["ended"] * 1000) if record else None
            self._client.set_terminated(self._live[key], RunStatus.to_string(status), ended)
            del self._live[key]
            self._torn.discard(key)

    def _log_batches(self, run_id: str, metrics: list[Metric], params: list[Param], error: str | None) -> None:
        tags = [] if error is None else [RunTag("error", error[:5000])]
        while metrics or params or tags:
            self._client.log_batch(run_id, metrics[:METRICS_PER_BATCH], params[:PARAMS_PER_BATCH], tags)
            metrics, params, tags = metrics[METRICS_PER_BATCH:], params[PARAMS_PER_BATCH:], []

    def _discard(self, job: Job) -> None:
        """Delete the job's run, which another takes the place of."""
        before, status = self._runs.get(job.key, ("", ""))
        run_id = self._live.get(job.key) or before
        if run_id:
            if status == "FINISHED":
                self._sweeps.remove()
            self._client.delete_run(run_id)
        self._live.pop(job.key, None)
        self._runs.pop(job.key, None)

    def _create(self, job: Job, started: int) -> None:
        run = self._client.create_run(self.experiment, start_time=started, tags=self._tags(job), run_name=job.name)
        self._live[job.key] = run.info.run_id

    def _tags(self, job: Job) -> dict[str, str]:
        tags = {"kind": job.kind, "key": job.key, "study": self._study.study, **job.labels}
        return {**tags, "output": f"{self._jobs_folder}/{job.key}", RUN_TAG: self._sweeps.begin()}

    def _metrics(self, news: News, *, whole: bool) -> list[tuple[str, float, int, int]]:
        """What a job measured and, where it is done, its result; `whole`: all that it ever measured."""
        if news.record is None:
            return news.fresh
        ended = int(news.record["ended"] * 1000)
        final = {**final_metrics(news.record["kind"], news.record["result"]), "seconds": news.record["seconds"]}
        measured = [tuple(value) for value in news.record["history"]] if whole else news.fresh
        return [*measured, *((name, value, 0, ended) for name, value in final.items())]

    def _trial(self, number: int, values: Mapping[str, Any], scores: Mapping[str, float] | None) -> None:
        tags = {"trial": str(number)}
        before = self._find({"kind": "trial", **tags})
        self._log("trial", f"trial {number}", tags, values, scores or {}, failed=scores is None)
        self._delete(before)

    def _summaries(self, rows: list[Mapping[str, Any]]) -> None:
        before = list(self._search("tags.kind = 'summary'"))
        kept = set()
        for row in rows:
            tags = {name: str(row[name]) for name in ("variant", "languages", "recipe") if row.get(name)}
            # As parameters too, which MLflow's compare view can plot against the metrics.
            params = {"languages": row["languages"], "variant": row["variant"], **row.get("params", {})}
            same = [run.info.run_id for run in before if holds(run, tags, params, row["metrics"])]
            if same:  # and so do the addresses of its page and of comparisons that someone made
                kept.add(same[0])
            else:
                self._log("summary", f"{row['variant']} {row['languages']}", tags, params, row["metrics"])
        self._delete(run.info.run_id for run in before if run.info.run_id not in kept)

    def _mark_stale(self, keys: set[str]) -> None:
        for key, (run_id, _) in self._runs.items():
            if key not in keys and key not in self._stale:
                self._sweeps.remove()
                self._client.set_tag(run_id, "stale", "true")
                self._stale.add(key)
        self._sweeps.flush()

    def _mark_fresh(self, key: str) -> None:
        if key in self._stale:
            self._sweeps.remove()
            self._client.delete_tag(self._runs[key][0], "stale")
            self._stale.remove(key)

    def _log(
        self,
        kind: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        *,
        failed: bool = False,
    ) -> None:
        """Log a run that is complete at once."""
        all_tags = {"kind": kind, "study": self._study.study, **tags}
        run_id = self._client.create_run(self.experiment, tags=all_tags, run_name=name).info.run_id
        now = int(time.time() * 1000)
        values = [Metric(metric, value, now, 0) for metric, value in metrics.items()]
        self._client.log_batch(run_id, metrics=values, params=_params(dict(leaves(params))))
        self._client.set_terminated(run_id, RunStatus.to_string(RunStatus.FAILED if failed else RunStatus.FINISHED))

    def _find(self, tags: Mapping[str, str]) -> list[str]:
        condition = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        return [run.info.run_id for run in self._search(condition)]

    def _delete(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            self._client.delete_run(run_id)

    def _read_existing(self) -> None:
        for run in self._search("tags.kind = 'trial'"):
            self._trials[run.data.tags["trial"]] = dict(run.data.params)
        for run_id, status, _, tags in self._heads():
            key = tags.get("key")
            if key is None or self._runs.get(key, ("", ""))[1] == "FINISHED":
                continue
            self._runs[key] = (run_id, status)
            if "stale" in tags:
                self._stale.add(key)

    def _heads(self) -> Iterable[tuple[str, str, int | None, Mapping[str, str]]]:
        """Identifier, status, end and tags of every run."""
        if self._database is not None:
            return self._database.heads(self.experiment, ("key", "stale"))
        return ((run.info.run_id, run.info.status, run.info.end_time, run.data.tags) for run in self._search(""))

    def _search(self, condition: str) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment], condition, ViewType.ACTIVE_ONLY, max_results=5000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


def _params(values: Mapping[str, str]) -> list[Param]:
    return [Param(name, value) for name, value in values.items()]
