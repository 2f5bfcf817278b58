"""What a study found: as text for a terminal, and as numbers for one summary run of each language set and variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.labels import main_metric, task_label
from analysis.selection import MODEL
from analysis.tables import number, text

if TYPE_CHECKING:
    from analysis.results import Results

_MEAN = ("mean", "", "")
_MARKS = {"not told from zero": "~", "unknown": "?"}


def interference_text(results: Results, *, examples: bool = True) -> str:
    """Interference within language, then zero-shot scores, to be understood without a manual.

    A row is a language of a language set and a task. Within language, a variant's column has its test score and in
    brackets mono's score minus it, marked where it cannot be told from zero.

    Args:
        results: The study's results.
        examples: Account for test examples too: the predictions of all chosen jobs are read, some milliseconds each.
    """
    parts = [*_interference_parts(results, examples), *_transfer_parts(results), *renamed_metrics(results)]
    return "\n\n".join(parts)


def summarise(results: Results) -> list[dict[str, Any]]:
    """The numbers of the summary runs: test scores and differences, means over seeds.

    Returns:
        For each language set and variant that has scores: `languages` (joined by `-`), `variant`, `recipe` (of mono,
        those of its languages' models, joined by commas where they differ), `params` (the recipe's pretraining
        parameters; of mono, those that its models share) and `metrics`: within/TASK/METRIC/LANGUAGE,
        zero_shot/TASK/METRIC/LANGUAGE (percent), within/mean and zero_shot/mean (of main metrics, over tasks and
        languages), interference/TASK/LANGUAGE (mono minus the variant in the main metric, percentage points) and
        interference/mean (over tasks and languages).
        What is missing is left out; a mean also where the variant lacks a score that another variant of the set has, as
        the two could not be compared.
    """
    study, best = results.study, results.best()
    differences = results.interference(examples=False)
    summaries = []
    for languages in study.language_sets:
        name = "-".join(languages)
        of_variant, of_set = {}, differences[differences["languages"] == name]
        tested = best[best["eval_language"].isin(languages)]  # an external model is tested on those of other sets too
        for variant in study.variants:
            models = [study.model_languages(languages, variant, language) for language in languages]
            of_variant[variant] = tested[(tested["variant"] == variant) & tested["languages"].isin(models)]
        whole = _sizes(pd.concat(of_variant.values()))
        for variant, scores in of_variant.items():
            models = [study.model_languages(languages, variant, language) for language in languages]
            metrics = _mean_scores(scores, whole)
            if not metrics:
                continue
            metrics |= _differences(of_set[of_set["variant"] == variant], of_set)
            by_model = dict(zip(scores["languages"], scores["recipe"], strict=True))
            recipes = list(dict.fromkeys(str(by_model[model]) for model in models if model in by_model))
            shared = set.intersection(*(set(results.parameters.get(recipe, {}).items()) for recipe in recipes))
            place = {"languages": name, "variant": variant, "recipe": ",".join(recipes)}
            summaries.append({**place, "params": dict(sorted(shared)), "metrics": metrics})
    return summaries


def searched_recipes(results: Results) -> pd.DataFrame:
    """The rows of `results.recipes()` whose model has several recipes, with parameters as text, to be printed."""
    recipes = results.recipes()
    several = recipes[recipes.duplicated(MODEL, keep=False)].reset_index(drop=True)
    parameters = [name for name in several.columns if "." in name]
    shown = {
        name: [f"{value:g}" if isinstance(value, float) else str(value) for value in several[name]]
        for name in parameters
    }
    chosen = several["chosen"].map({True: "yes", False: "no"})
    return several.assign(chosen=chosen, **shown)


_PLACE = ["setting", "task", "metric", "eval_language"]


def _sizes(scores: pd.DataFrame) -> dict[str, int]:
    """How many scores a mean is of, by setting."""
    places = _main_rows(scores.dropna(subset="value"))[_PLACE].drop_duplicates()
    return {str(setting): int(count) for setting, count in places["setting"].value_counts().items()}


def _mean_scores(scores: pd.DataFrame, whole: Mapping[str, int]) -> dict[str, float]:
    means = scores.groupby(_PLACE)["value"].mean().dropna().reset_index()
    # The means first: MLflow's compare view begins with the first metric that all runs have.
    metrics = {
        f"{setting}/mean": float(values.mean())
        for setting, values in _main_rows(means).groupby("setting")["value"]
        if len(values) == whole[str(setting)]
    }
    for *names, value in means[[*_PLACE, "value"]].itertuples(index=False):
        metrics["/".join(names)] = float(value)
    return metrics


def _differences(frame: pd.DataFrame, of_set: pd.DataFrame) -> dict[str, float]:
    known, all_known = (_main_rows(some).dropna(subset="difference") for some in (frame, of_set))
    mean = {"interference/mean": float(known["difference"].mean())}
    return {
        **(mean if len(known) and len(known) == len(all_known[["task", "language"]].drop_duplicates()) else {}),
        **{
            f"interference/{task}/{language}": float(value)
            for task, language, value in known[["task", "language", "difference"]].itertuples(index=False)
        },
    }


def _interference_parts(results: Results, examples: bool) -> list[str]:
    if not results.study.tasks:
        return []  # a study of probes alone
    name = results.study.name
    frame = _main_rows(results.interference(examples=examples))
    if frame["difference"].isna().all():
        unknown = (
            f"Negative interference, study {name}: not known, as no language has scores of mono and another variant."
        )
        remedy = results.study.command(["mono", "joint"])
        return [unknown if renamed_metrics(results) else f"{unknown}\nWhat is missing may come by: {remedy}"]
    title = (
        f"Negative interference, study {name}\n"
        "Test score in percent, finetuned and tested on the language; in brackets mono minus the model, in points:\n"
        "positive is interference (the language does better alone), negative a gain from being trained together."
    )
    scores, differences = (_grid(frame, column, results) for column in ("score", "difference"))
    marks = _grid(frame.assign(mark=frame["verdict"].map(_MARKS).fillna(" ")), "mark", results)
    # The frame's mono scores are over the seeds that each variant has too, the column's over all of mono's.
    best = results.best()
    means = best[best["variant"] == "mono"].groupby(["eval_language", "task", "metric"])["value"].mean().to_dict()
    places = zip(frame["language"], frame["task"], frame["metric"], strict=True)
    mono = _grid(frame.assign(mono=[means.get(place, float("nan")) for place in places]), "mono", results)
    table = pd.DataFrame({"mono": mono.max(axis=1)})
    table.loc[_MEAN] = table["mono"].mean(skipna=False)
    scores.loc[_MEAN], differences.loc[_MEAN] = scores.mean(skipna=False), differences.mean(skipna=False)
    marks.loc[_MEAN] = _mean_marks(results, marks, examples)
    for variant in scores.columns:
        columns = zip(scores[variant], differences[variant], marks[variant], strict=True)
        table[variant] = [_cell(score, difference, mark) for score, difference, mark in columns]
    return [title, text(table), "\n".join(_remarks(frame))]


def _transfer_parts(results: Results) -> list[str]:
    frame = _main_rows(results.transfer(examples=False))  # scores alone are shown
    if frame.empty:
        return []
    title = "Zero-shot transfer\nTest score in percent, finetuned on the source language and tested on the language."
    table = _grid(frame, "zero_shot", results)
    table.loc[_MEAN] = table.mean(skipna=False)
    return [title, text(table)]


def _main_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["metric"] == frame["task"].map(main_metric)]


def _grid(frame: pd.DataFrame, column: str, results: Results) -> pd.DataFrame:
    """One column of a frame with a row for each place and a column for each variant, both in the study's order."""
    study = results.study
    grid = frame.pivot(index=["languages", "language", "task"], columns="variant", values=column)
    places = [
        ("-".join(languages), language, task)
        for languages in study.language_sets
        for language in languages
        for task in study.tasks
    ]
    grid = grid.reindex(
        index=[place for place in places if place in grid.index],
        columns=[variant for variant in study.variants if variant in grid.columns],
    )
    grid.index = pd.MultiIndex.from_tuples(
        [(languages, language, task_label(task)) for languages, language, task in grid.index],
        names=["languages", "language", "task"],
    )
    return grid


def _mean_marks(results: Results, marks: pd.DataFrame, examples: bool) -> list[str]:
    """Marks of the means over the whole table."""
    averages = results.averages(examples=examples)
    task = "all" if len(results.study.tasks) > 1 else results.study.tasks[0]
    whole = averages[(averages["over"] == "languages") & (averages["task"] == task)]
    verdicts = dict(zip(whole["variant"], whole["verdict"], strict=True))
    return [_MARKS.get(verdicts.get(variant, ""), " ") for variant in marks.columns]


def _cell(score: float, difference: float, mark: str) -> str:
    if pd.isna(difference):
        return f"{number(score)} "
    return f"{number(score)} ({number(difference, signed=True)}){mark}"


def _remarks(frame: pd.DataFrame) -> list[str]:
    """What the marks mean, what chance is accounted for, and what is missing."""
    known = frame[frame["seeds"] > 0]
    tested = known.dropna(subset="p")
    open_cells, unknown = tested["verdict"] == "not told from zero", known[known["p"].isna()]
    lines = []
    if len(tested):
        adjusted = f"adjusted for {len(tested)} comparisons by Holm's method"
        if open_cells.any():
            lines.append(f"~ cannot be told from zero: p > 0.05, {adjusted}.")
        if open_cells.all():
            lines.append("No difference can.")
        elif open_cells.any():
            lines.append("Without a mark: can be told from zero.")
        else:
            lines.append(f"Every difference is told from zero: p <= 0.05, {adjusted}.")
    if len(unknown):
        several = f" ({len(unknown)} cells)" if len(unknown) > 1 else ""
        lines.append(f"? not known whether it is chance{several}: {unknown['reason'].iloc[0]}.")
    lines += _sources(tested)
    missing = frame[frame["seeds"] == 0]
    if len(missing):
        several = f" ({len(missing)} cells)" if len(missing) > 1 else ""
        lines.append(f"Missing{several}: {missing['reason'].iloc[0]}")
    return lines


def _sources(tested: pd.DataFrame) -> list[str]:
    """What the p-values account for."""
    lines = []
    single = tested["seeds"] == 1
    if single.any():
        where = "One seed" if single.all() else "Where there is one seed"
        lines.append(f"{where}: other test examples are accounted for, another seed is not and may change more.")
    for with_examples, members in tested[~single].groupby(tested["examples"] > 0):
        few, many = members["seeds"].min(), members["seeds"].max()
        count = f"{few} seeds" if few == many else f"{few} to {many} seeds"
        if with_examples:
            lines.append(f"Accounted for: other seeds (from {count}) and other test examples.")
        else:
            lines.append(
                f"Accounted for: other seeds (from {count}); not other test examples: {members['reason'].iloc[0]}."
            )
    return lines


def renamed_metrics(results: Results) -> list[str]:
    """Tasks that have scores, but none in the metric by which models are chosen and compared."""
    found: dict[str, list[str]] = {}
    pairs = results.table.select(["task", "metric"]).group_by(["task", "metric"]).aggregate([]).to_pylist()
    for pair in pairs:
        found.setdefault(pair["task"], []).append(pair["metric"])
    return [
        f"{task}: no score in {main_metric(task)}, by which it is compared; there are {', '.join(sorted(metrics))}. "
        "Has the metric's name changed?"
        for task, metrics in found.items()
        if task != "mlm" and main_metric(task) not in metrics
    ]
