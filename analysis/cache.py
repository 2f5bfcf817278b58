"""A study's runs and scores as Parquet files on this machine: read from MLflow once, and after that what is new alone.

Of a database that this process reaches, identifiers, statuses and ends of all runs are looked at each time, and what
has changed is read; where the database is a file that nobody has written to, not even that. Of a server, the runs of
sweeps that have ended are known, for sweeps write down what they do (`raylab.logged_sweeps`); so what a person deletes
or edits there in the UI is seen after the next sweep that removes a run, or with `refresh`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.runs import ENDED, RUNS, runs_table
from analysis.scores import SCHEMA, score_table
from analysis.study import STUDY_TAG
from analysis.tracking import STALE, connect, database_file, find_experiment, read_pages, read_runs
from raylab import logged_sweeps
from raylab.atomic import atomic_path
from raylab.hashing import fingerprint
from raylab.logged_sweeps import Note

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

    from raylab.mlflow_database import StoredRun

FORMAT = 1
"""Of the files: raised when their columns, or how scores are made of runs, change."""

_PASSING_KINDS = ("trial", "summary", "report")  # each sweep writes them anew
_SETTLED_SECONDS = 2.0  # a file that was written to less than this ago may be written to again within its time stamp


@dataclass(frozen=True)
class Known:
    """What is known of a study's runs.

    Attributes:
        runs: A table of `RUNS`; not the deleted ones, nor the stale ones.
        scores: A table of `SCHEMA`, of all finished runs among them.
        study_tag: The study's configuration as JSON, or None.
        about: What tells whether it is still so.
    """

    runs: pa.Table
    scores: pa.Table
    study_tag: str | None
    about: Mapping[str, Any] = field(default_factory=dict)


def cache_folder() -> Path:
    """Where the files lie: RAYLAB_CACHE, else `raylab` in XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("RAYLAB_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "raylab")


def read_study_runs(study: str, address: str, folder: Path | None, *, refresh: bool = False) -> Known:
    """What MLflow holds of a study; what is known already is not read again.

    Args:
        study: Name of the study.
        address: Address of the store.
        folder: Where files are kept; None: nowhere.
        refresh: Forget what is known.

    Raises:
        InputError: There is no such study, or a finished run lacks a tag.
    """
    files = None if folder is None else _Files(folder, study, address)
    known = None if files is None or refresh else files.read()
    stamp = _stamp(address)  # before anything is read: what is written meanwhile is seen the next time
    if known is not None and stamp is not None and known.about["stamp"] == stamp:
        return known
    client = connect(address)
    experiment = find_experiment(client, study)
    tags = experiment.tags
    if known is not None and known.about["experiment"] != [experiment.experiment_id, experiment.creation_time]:
        known = None
    found = _read(client, experiment, known)
    about = {
        "experiment": [experiment.experiment_id, experiment.creation_time],
        "sweeps": tags.get(logged_sweeps.TAG),
        "stamp": stamp,
    }
    found = replace(found, study_tag=tags.get(STUDY_TAG), about=about)
    if files is not None:
        files.write(found, known)
    return found


def _read(client: MlflowClient, experiment: Experiment, known: Known | None) -> Known:
    from raylab.mlflow_database import MlflowDatabase

    number = str(experiment.experiment_id)
    database = MlflowDatabase.of(client)
    if known is None:
        return _with_new(None, [], read_runs(client, number))
    if database is not None:
        heads = {
            run: (status, ended) for run, status, ended, marks in database.heads(number, (STALE,)) if STALE not in marks
        }
        states = zip(*(known.runs[name].to_pylist() for name in ("run_id", "status", "end_time")), strict=True)
        kept = {run for run, status, ended in states if status in ENDED and heads.get(run) == (status, ended)}
        missing = [run for run in heads if run not in kept]
        return _with_new(known, kept, database.read(number, missing) if missing else [])
    before, now = map(Note.read, (known.about["sweeps"], experiment.tags.get(logged_sweeps.TAG)))
    changed = now.changed_since(before) if now and before else None
    if changed is None:
        return _with_new(None, [], read_runs(client, number))
    of_sweep = [dict(tags).get(logged_sweeps.RUN_TAG) for tags in known.runs["tags"].to_pylist()]
    columns = zip(known.runs["run_id"].to_pylist(), known.runs["kind"].to_pylist(), of_sweep, strict=True)
    kept = {run for run, kind, sweep in columns if kind not in _PASSING_KINDS and sweep not in changed}
    conditions = [f"tags.`{logged_sweeps.RUN_TAG}` = '{sweep}'" for sweep in changed]
    conditions += [f"tags.kind = '{kind}'" for kind in _PASSING_KINDS]
    new = {run.run_id: run for condition in conditions for run in read_pages(client, number, condition)}
    return _with_new(known, kept, list(new.values()))


def _with_new(known: Known | None, kept: set[str] | list[str], new: list[StoredRun]) -> Known:
    runs, scores = runs_table(new), score_table(new)
    if known is not None and len(kept) == len(known.runs) and not new:
        return known
    if known is not None:
        values = pa.array(sorted(kept), pa.string())
        parts = [known.runs.filter(pc.is_in(known.runs["run_id"], values)), runs]
        runs = pa.concat_tables(parts).sort_by([("start_time", "descending"), ("run_id", "ascending")])
        scores = pa.concat_tables([known.scores.filter(pc.is_in(known.scores["run_id"], values)), scores])
    return Known(runs, scores, None)


def _stamp(address: str) -> list[int] | None:
    """What changes when a database file is written to; None where that is not known, or it was only just."""
    file = database_file(address)
    if file is None:
        return None
    try:
        states = [path.stat() for path in (file, file.with_name(f"{file.name}-wal")) if path.exists()]
    except OSError:
        return None
    if time.time() - max(state.st_mtime for state in states) < _SETTLED_SECONDS:
        return None
    return [number for state in states for number in (state.st_mtime_ns, state.st_size, state.st_ino)]


class _Files:
    """The files of one study in one store."""

    def __init__(self, folder: Path, study: str, address: str) -> None:
        file = database_file(address)
        self._folder = folder / fingerprint([FORMAT, study, address if file is None else str(file.resolve())])[:20]

    def read(self) -> Known | None:
        """What was written; None where nothing was, or it cannot be read."""
        try:
            runs, scores = (pq.read_table(self._folder / name) for name in ("runs.parquet", "scores.parquet"))
            notes = [json.loads(table.schema.metadata[b"raylab"]) for table in (runs, scores)]
            schemas = (runs.schema.equals(RUNS), scores.schema.equals(SCHEMA))
        except (OSError, KeyError, TypeError, ValueError):  # Arrow's own errors are of these kinds
            return None
        if notes[0] != notes[1] or not all(schemas):
            return None  # one of another reader's, or of another version
        return Known(runs, scores, notes[0]["study_tag"], notes[0]["about"])

    def write(self, known: Known, before: Known | None) -> None:
        """Keep what is known, where there is room; `before` is what lies there."""
        if before is not None and known.runs is before.runs and known.study_tag == before.study_tag:
            news = {**known.about, "stamp": known.about["stamp"] or before.about["stamp"]}
            if news == before.about:
                return  # a database that is being written to, though not by this study
        note = json.dumps({"study_tag": known.study_tag, "about": known.about}).encode()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name, table in (("runs.parquet", known.runs), ("scores.parquet", known.scores)):
                marked = table.replace_schema_metadata({**(table.schema.metadata or {}), b"raylab": note})
                with atomic_path(self._folder / name) as temporary:
                    pq.write_table(marked, temporary, compression="zstd")
        except OSError:
            return  # a full or read-only disk: it is read from MLflow again
