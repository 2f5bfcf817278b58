"""The results of one study: the scores, and every view of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis import averages, contrasts, interference, paper, queries, selection
from analysis.cache import cache_folder, read_study_runs
from analysis.examples import load_examples
from analysis.runs import current_rows, newest_by_key, recipe_parameters
from analysis.study import Study, read_study
from analysis.tracking import connect, find_store
from analysis.uncertainty import Contrast, ScoreDraws, Uncertainty, measure
from raylab.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from analysis.histories import Curve

_NO_EXAMPLES = ScoreDraws()


def load(
    study: str, tracking_uri: str | None = None, *, cache: str | Path | None = None, refresh: bool = False
) -> Results:
    """Read a study's results from MLflow; what was read before, from this machine's cache.

    Args:
        study: Name of the study.
        tracking_uri: Address of the MLflow store; by default the environment's MLFLOW_TRACKING_URI, else
            `runs/mlflow.db` in the working folder.
        cache: Folder of the cache; by default the environment's RAYLAB_CACHE, else ~/.cache/raylab. It may be deleted
            at any time.
        refresh: Read all anew: on a server, what a person has deleted or edited since the last sweep is not seen else.

    Raises:
        InputError: If there is no store at the address, it has no such study (the message names the nearest), or none
            of the study's finetuning runs has finished, where it has any.

    Example:
        results = analysis.load("variants", "http://127.0.0.1:5000")
        results.interference().query("task == 'ner'")
    """
    address = find_store(tracking_uri)
    known = read_study_runs(study, address, Path(cache) if cache else cache_folder(), refresh=refresh)
    states = Counter(
        status.lower()
        for kind, status in zip(known.runs["kind"].to_pylist(), known.runs["status"].to_pylist(), strict=True)
        if kind == "finetune"
    )
    if not states["finished"] and not (known.study_tag and json.loads(known.study_tag).get("finetune", {}) is None):
        found = (
            ", ".join(f"{count} {state}" for state, count in sorted(states.items()) if count) or "it has none at all"
        )
        raise InputError(f"study {study!r} has no finished finetuning run yet: {found}; run the sweep (on) first")
    counting = known.runs["run_id"].take(pa.array(list(newest_by_key(known.runs).values()), pa.int64()))
    table = known.scores.filter(pc.is_in(known.scores["run_id"], counting))
    return Results(read_study(study, known.study_tag, table), table, known.runs, address)


class Results:
    """The results of one study, as they were when loaded.

    Attributes:
        study: The study's language sets, variants and tasks.
        table: One row a score (`analysis.scores.SCHEMA`): those of every finished run, chosen or not.
    """

    def __init__(self, study: Study, table: pa.Table, runs: pa.Table, address: str) -> None:
        self.study = study
        self.table = table
        self._all_runs = runs
        self._address = address
        self._views: dict[tuple[Any, ...], pd.DataFrame] = {}

    @cached_property
    def runs(self) -> pa.Table:
        """MLflow's runs, one a row (`analysis.runs.RUNS`): of each job the one that counts, and those of trials and
        summaries; their tags, parameters and last metric values are maps."""
        return self._all_runs.take(pa.array(current_rows(self._all_runs), pa.int64()))

    @cached_property
    def parameters(self) -> dict[str, dict[str, str]]:
        """The pretraining parameters of each recipe, by dotted name (`pretrain.temperature`)."""
        return recipe_parameters(self._all_runs)

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

    def interference(
        self, baseline: str = "mono", level: float = 0.95, correction: str = "holm", *, examples: bool = True
    ) -> pd.DataFrame:
        """Each variant against the monolingual models; see `analysis.interference.interference`.

        Args:
            baseline: The variant that the others are compared with.
            level: Coverage of the intervals.
            correction: For many comparisons: `holm` or `benjamini_hochberg`.
            examples: Read the jobs' predictions, where their folders are within reach, and resample test examples;
                otherwise seeds are the only source of uncertainty. Read and resampled once for all that asks.
        """
        return self._view(interference.interference, baseline, level, self._draws(examples), correction)

    def transfer(self, level: float = 0.95, correction: str = "holm", *, examples: bool = True) -> pd.DataFrame:
        """Zero-shot scores and their gap to within-language ones; see `analysis.interference.transfer`."""
        return self._view(interference.transfer, level, self._draws(examples), correction)

    def averages(
        self, baseline: str = "mono", level: float = 0.95, correction: str = "holm", *, examples: bool = True
    ) -> pd.DataFrame:
        """Interference averaged over languages; see `analysis.averages.averages`."""
        return self._view(averages.averages, baseline, level, self._draws(examples), correction)

    def uncertainty(self, differences: Sequence[Contrast]) -> list[Uncertainty]:
        """How sure differences are, by seeds and by test examples; see `analysis.uncertainty.measure`."""
        return measure(differences, self._resampled_examples)

    def average_differences(self, asked: Sequence[contrasts.Asked]) -> list[contrasts.Average]:
        """Differences averaged over cells, with all sources of chance; see `analysis.contrasts.average_differences`."""
        return contrasts.average_differences(self._best, self.study, asked, self._resampled_examples)

    def table_of_paper(self, number: int) -> pd.DataFrame:
        """The study in the layout of one of the paper's Tables 2 to 7; see `analysis.paper.table`.

        Raises:
            InputError: If the paper has no such table of scores, or the study nothing that belongs into it.
        """
        return paper.table(self.layout_of_paper(number), self._best, self.study)

    def missing_jobs(self, number: int) -> pd.DataFrame:
        """What one of the paper's tables lacks, and how to run it; see `analysis.paper.missing_jobs`.

        Raises:
            InputError: As `table_of_paper`.
        """
        return paper.missing_jobs(self.layout_of_paper(number), self._best, self.study, self.runs)

    def layout_of_paper(self, number: int) -> paper.Layout:
        """Which score stands where in one of the paper's tables; see `analysis.paper.layout`.

        Raises:
            InputError: As `table_of_paper`.
        """
        return paper.layout(number, self.study, paper.known_places(self.table, self.runs))

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

    def histories(self, run_ids: Sequence[str], metric: str) -> dict[str, Curve]:
        """The course of one metric in many runs; see `analysis.histories.histories`."""
        from analysis.histories import histories

        return histories(self._client, run_ids, metric)

    @property
    def tracking_uri(self) -> str:
        """Address of the MLflow store."""
        return self._address

    def chosen_recipes(self) -> dict[tuple[str, str], str]:
        """The chosen pretraining recipe by variant and model's languages."""
        chosen = self._recipes.loc[self._recipes["chosen"], [*selection.MODEL, "recipe"]]
        return {(variant, languages): recipe for variant, languages, recipe in chosen.itertuples(index=False)}

    def filter(self, **conditions: Any) -> Results:
        """The results of a part of the study: what is asked of them is asked of that part.

        Args:
            conditions: The value that a column of `table` must have, or several that will do, by column. `languages`
                are language sets, and take with them the monolingual models of their languages.

        Raises:
            InputError: There is no such column, or nothing is left.

        Example:
            results.filter(task="ner", languages=["en-fr", "en-hi"]).interference()
        """
        table = queries.select_scores(self.table, self.study, conditions)
        return Results(queries.narrowed(self.study, table, conditions), table, self._all_runs, self._address)

    def compare(self, first: str, second: str, level: float = 0.95, *, examples: bool = True) -> pd.DataFrame:
        """One variant against another, within language: scores by cell, and first minus second.

        Args:
            first: A variant.
            second: Another one.
            level: Coverage of the intervals.
            examples: As of `interference`.

        Returns:
            The rows and columns of `interference(baseline=first)` for the second variant, whose scores are in a column
            of its name.

        Raises:
            InputError: If the study has no such variants, or they are the same.
        """
        for variant in (first, second):
            if variant not in self.study.variants:
                raise InputError(
                    f"compare: study {self.study.name!r} has no variant {variant!r}; it has "
                    f"{', '.join(self.study.variants)}"
                )
        if first == second:
            raise InputError(f"compare: {first} with itself; another one of {', '.join(self.study.variants)} is needed")
        frame = self.interference(first, level, examples=examples)
        rows = frame[frame["variant"] == second].drop(columns="variant")
        return rows.rename(columns={"score": second}).reset_index(drop=True)

    def history(self, metric: str, **conditions: Any) -> pd.DataFrame:
        """The values of a metric in the course of jobs, running ones included.

        Args:
            metric: Such as `train/loss`, `valid/perplexity/en` or `epoch/dev/f1`.
            conditions: Which jobs: `key` (its beginning will do) or tags such as `variant`, `languages`, `seed`; one
                value or several. By default all that have the metric.

        Returns:
            Columns key, variant, languages, task, train_language, seed and recipe of the job, then step, value and time
            (UTC), by step; of a step that was logged twice (a job that was resumed) the later value.

        Raises:
            InputError: If no job meets the conditions, or none of them has the metric.

        Example:
            results.history("valid/perplexity/sw", variant=["mono", "joint"])
        """
        return queries.read_history(self._client, self._all_runs, self._newest, metric, conditions)

    def _view(self, make: Callable[..., pd.DataFrame], *arguments: Any) -> pd.DataFrame:
        """What `make` makes of the chosen scores, made once for the same arguments."""
        if (make, *arguments) not in self._views:
            self._views[make, *arguments] = make(self._best, self.study, *arguments)
        return self._views[make, *arguments].copy()

    def _draws(self, examples: bool) -> ScoreDraws:
        return self._resampled_examples if examples else _NO_EXAMPLES

    @cached_property
    def _resampled_examples(self) -> ScoreDraws:
        return ScoreDraws(load_examples(self._best))

    @cached_property
    def _newest(self) -> dict[str, int]:
        return newest_by_key(self._all_runs)

    @cached_property
    def _client(self) -> MlflowClient:
        return connect(self._address)

    @cached_property
    def _grid_points(self) -> pd.DataFrame:
        return selection.choose_grid_points(self.to_pandas())

    @cached_property
    def _recipes(self) -> pd.DataFrame:
        return selection.compare_recipes(self._grid_points, self.parameters)

    @cached_property
    def _best(self) -> pd.DataFrame:
        return selection.best_scores(self._grid_points, self._recipes)
