"""The runs of a study as jobs that can be looped over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Job:
    """One MLflow run of a study.

    Attributes:
        run_id: MLflow's identifier.
        name: For people.
        status: FINISHED, FAILED, RUNNING or KILLED (stopped early).
        started: Milliseconds since the epoch.
        ended: Likewise; None while it runs.
        kind: prepare, pretrain, finetune, probe, import, trial or summary.
        tags: By name.
        params: By dotted name.
        metrics: Last values by name.
    """

    run_id: str
    name: str
    status: str
    started: int
    ended: int | None
    kind: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]


def jobs(runs: pa.Table, *kinds: str) -> list[Job]:
    """The runs of some kinds.

    Args:
        runs: One row a run, as `Results.runs` has them.
        kinds: Which; none: all that have a kind.
    """
    chosen = pc.is_in(runs["kind"], pa.array(kinds, pa.string())) if kinds else pc.is_valid(runs["kind"])
    columns = ["run_id", "name", "status", "start_time", "end_time", "kind", "tags", "params", "metrics"]
    rows = runs.filter(chosen).select(columns).to_pydict()
    return [
        Job(run_id, name or run_id, status, start, end, kind, dict(tags or ()), dict(params or ()), dict(metrics or ()))
        for run_id, name, status, start, end, kind, tags, params, metrics in zip(
            *(rows[column] for column in columns), strict=True
        )
    ]
