"""Values of a metric in the course of many runs at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

Curve = list[tuple[int, float]]
"""Step and value, by step."""

_RUNS_PER_REQUEST = 100
"""What an MLflow server takes at most."""


def histories(client: MlflowClient, run_ids: Sequence[str], metric: str, points: int = 120) -> dict[str, Curve]:
    """Histories of one metric, thinned out where they are longer.

    Of a step that was logged twice (a job that was resumed) the later value counts.

    Args:
        client: A client of the store.
        run_ids: The runs.
        metric: The metric's name.
        points: About how many values of a run are wanted at most; its first and last are among them.

    Returns:
        By run, those that have any.
    """
    found: defaultdict[str, list[tuple[int, int, float]]] = defaultdict(list)
    store = getattr(getattr(client, "_tracking_client", None), "store", None)
    many = getattr(store, "get_metric_history_bulk_interval", None)
    for first in range(0, len(run_ids), _RUNS_PER_REQUEST):
        some = list(run_ids[first : first + _RUNS_PER_REQUEST])
        try:
            if many is None:
                raise NotImplementedError
            for entry in many(some, metric, points, None, None):
                found[entry.run_id].append((entry.step, entry.timestamp, entry.value))
        except (NotImplementedError, MlflowException):  # a store or server that has no such call
            for run_id in some:
                values = client.get_metric_history(run_id, metric)
                stride = max(1, len(values) // points)
                kept = [*values[::stride], *values[-1:]]
                found[run_id] += [(entry.step, entry.timestamp, entry.value) for entry in kept]
    return {
        run_id: list({step: value for step, _, value in sorted(values)}.items()) for run_id, values in found.items()
    }
