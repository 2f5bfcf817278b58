"""The results of one study: the scores, and every view of them."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.entities import Run

from analysis import interference, paper, selection
from analysis.scores import newest_by_key, recipe_parameters, score_table
from analysis.study import STUDY_TAG, Study, read_study
from analysis.tracking import connect, find_experiment, read_runs
from raylab.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def load(study: str, tracking_uri: str | None = None) -> Results:
    """Read a study's results from MLflow.

    Args:
        study: Name of the study.
        tracking_uri: Address of the MLflow store; by default the environment's MLFLOW_TRACKING_URI, else
            `runs/mlflow.db` in the working folder.

    Raises:
        InputError: If there is no store at the address, it has no such study (the message names the nearest), or none
            of the study's finetuning runs has finished.

    Example:
        results = analysis.load("variants", "http://127.0.0.1:5000")
        results.interference().query("task == 'ner'")
    """
    client = connect(tracking_uri)
    experiment = find_experiment(client, study)
    runs = read_runs(client, experiment)
    if not any(_is_finetune(run) and run.info.status == "FINISHED" for run in runs):
        states = Counter(run.info.status.lower() for run in runs if _is_finetune(run))
        found = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "it has none at all"
        raise InputError(f"study {study!r} has no finished finetuning run yet: {found}; run the sweep (on) first")
    table = score_table(runs)
    outline = read_study(study, experiment.tags.get(STUDY_TAG), table.to_pandas())
    return Results(outline, table, client, runs)


class Results:
    """The results of one study, as they were when loaded.

    Attributes:
        study: The study's language sets, variants and tasks.
        table: One row a score (`analysis.scores.SCHEMA`): those of every finished run, chosen or not.
        parameters: The pretraining parameters of each recipe, by dotted name (`pretrain.temperature`).
    """

    def __init__(self, study: Study, table: pa.Table, client: MlflowClient, runs: list[Run]) -> None:
        self.study = study
        self.table = table
        self._client = client
        self._runs = newest_by_key(runs)
        self._all = runs
        self._every = {r.data.tags["key"]: r for r in runs if "key" in r.data.tags}
        self.parameters = recipe_parameters(self._runs.values())

    def to_pandas(self) -> pd.DataFrame:
        """`table` as a DataFrame."""
        return self.table.to_pandas()

    def best(self) -> pd.DataFrame:
        """Test scores of what was chosen on dev: one row a variant, model, task, setting, languages, seed and metric.

        First each model's pretraining recipe is chosen, as `recipes` shows; then, for every score, the grid point
        with the highest selection (dev of the train language, also in the zero-shot setting).

        Returns:
            The columns of `table` without `split`; `value` is the test score, `dev` the same metric on the dev set.
        """
        return self._best.copy()

    def recipes(self) -> pd.DataFrame:
        """The pretraining recipes of each model, compared on dev; see `analysis.selection.compare_recipes`."""
        return self._recipes.copy()

    def interference(self, baseline: str = "mono", level: float = 0.95) -> pd.DataFrame:
        """Each variant against the monolingual models; see `analysis.interference.interference`."""
        return interference.interference(self._best, self.study, baseline, level)

    def transfer(self, level: float = 0.95) -> pd.DataFrame:
        """Zero-shot scores and their gap to within-language ones; see `analysis.interference.transfer`."""
        return interference.transfer(self._best, self.study, level)

    def table_of_paper(self, number: int) -> pd.DataFrame:
        """The study in the layout of one of the paper's Tables 2 to 7; see `analysis.paper.table`.

        Raises:
            InputError: If the paper has no such table of scores, or the study nothing that belongs into it.
        """
        return paper.table(self._layout(number), self._best, self.study)

    def missing_jobs(self, number: int) -> pd.DataFrame:
        """What one of the paper's tables lacks, and how to run it; see `analysis.paper.missing_jobs`.

        Raises:
            InputError: As `table_of_paper`.
        """
        return paper.missing_jobs(self._layout(number), self._best, self.study, self.runs)

    def figure_of_paper(self, number: int, **options: Any) -> Figure:
        """One of the paper's Figures 1 to 4 over the study; see `analysis.paper_figures`.

        Args:
            number: Of the figure.
            options: As that figure's function takes them, such as `by="layer"` of figure 3.

        Raises:
            InputError: If the study has not what the figure shows; the message names a study that has.
        """
        from analysis import paper_figures  # matplotlib takes half a second, and only figures need it

        return paper_figures.figure(number, self, **options)

    def _layout(self, number: int) -> paper.Layout:
        return paper.layout(number, self.study, paper.known_places(self.table, self.runs))

    @cached_property
    def runs(self) -> pa.Table:
        """TEMPORARY."""
        rows = [
            {
                "run_id": r.info.run_id,
                "name": r.info.run_name,
                "status": r.info.status,
                "kind": r.data.tags.get("kind"),
                "key": r.data.tags.get("key"),
                "tags": list(r.data.tags.items()),
                "params": list(r.data.params.items()),
                "metrics": list(r.data.metrics.items()),
            }
            for r in self._all
        ]
        t = pa.map_(pa.string(), pa.string())
        return pa.Table.from_pylist(
            rows,
            schema=pa.schema(
                [
                    ("run_id", pa.string()),
                    ("name", pa.string()),
                    ("status", pa.string()),
                    ("kind", pa.string()),
                    ("key", pa.string()),
                    ("tags", t),
                    ("params", t),
                    ("metrics", pa.map_(pa.string(), pa.float64())),
                ]
            ),
        )

    def history(self, key: str, metric: str) -> pd.DataFrame:
        """The values of a metric in the course of a job, running ones included.

        Args:
            key: The job's key, or the beginning of it that no other job of the study shares.
            metric: Such as `train/loss`, `valid/perplexity/en` or `epoch/dev/f1`.

        Returns:
            Columns step, value and time (UTC), by step; of a step that was logged twice (a job that was resumed) the
            later value.

        Raises:
            InputError: If no job, or more than one, has the key, or the job has no such metric.
        """
        keys = [known for known in self._every if known.startswith(key)]
        if len(keys) != 1:
            found = f"{len(keys)} jobs have such a key" if keys else "no job has such a key"
            raise InputError(
                f"key {key!r} in study {self.study.name!r}: {found}; the column `key` of the table has them all"
            )
        run = self._every[keys[0]]
        if metric not in run.data.metrics:
            raise InputError(f"job {keys[0]} has no metric {metric!r}; it has {', '.join(sorted(run.data.metrics))}")
        values = [
            (entry.step, entry.value, entry.timestamp)
            for entry in self._client.get_metric_history(run.info.run_id, metric)
        ]
        frame = pd.DataFrame(values, columns=["step", "value", "time"]).sort_values(["step", "time"], kind="stable")
        frame["time"] = pd.to_datetime(frame["time"], unit="ms", utc=True)
        return frame.drop_duplicates("step", keep="last").reset_index(drop=True)

    @cached_property
    def _grid_points(self) -> pd.DataFrame:
        return selection.choose_grid_points(self.to_pandas())

    @cached_property
    def _recipes(self) -> pd.DataFrame:
        return selection.compare_recipes(self._grid_points, self.parameters)

    @cached_property
    def _best(self) -> pd.DataFrame:
        return selection.best_scores(self._grid_points, self._recipes)


def _is_finetune(run: Run) -> bool:
    return run.data.tags.get("kind") == "finetune"
