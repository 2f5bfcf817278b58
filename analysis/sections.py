"""The parts of the report's page below its findings, as charts and frames; nothing where there is nothing to show."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from analysis import svg
from analysis.contrasts import above_joint
from analysis.cost import cost_by_kind, cost_of_variants, hour_unit
from analysis.curves import MOST_CHARTS, gradient_charts, loss_charts, perplexity_charts
from analysis.jobs import jobs
from analysis.labels import main_metric, metric_label, task_label
from analysis.search import importance, read_search
from analysis.similarity import by_layer, overall, similarities
from analysis.summary import searched_recipes
from analysis.tables import number
from analysis.tradeoff import tradeoff as tradeoff_frame
from raylab.config.search import without_password

if TYPE_CHECKING:
    from analysis.results import Results

_JOBS = ("prepare", "import", "pretrain", "finetune", "probe")
_MOST_FAILURES = 100


@dataclass(frozen=True)
class Block:
    """Charts, then tables, under a heading.

    Attributes:
        title: The heading.
        text: What it shows and how to read it.
        legend: Swatches of the charts' series, as HTML.
        charts: SVG.
        tables: Caption, frame and digits after the point; the frame's index is shown.
        bars: Caption and frame of shares, from 0 to 1, above the charts.
        folded: Whether charts and tables are shown on demand.
    """

    title: str
    text: str
    legend: str = ""
    charts: list[str] = field(default_factory=list)
    tables: list[tuple[str, pd.DataFrame, int]] = field(default_factory=list)
    bars: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    folded: bool = False


def facts(results: Results) -> list[tuple[str, str]]:
    """The study in a few words: what, and what of it is there."""
    study = results.study
    states = results.runs.filter(pc.equal(results.runs["kind"], "finetune"))["status"].to_pylist()
    finished = states.count("FINISHED")
    rows = [
        ("Language sets", ", ".join("-".join(languages) for languages in study.language_sets)),
        ("Variants", ", ".join(study.variants)),
        ("Tasks", ", ".join(task_label(task) for task in study.tasks)),
        ("Seeds", _seeds(results)),
    ]
    if states:
        of_all = f" of {len(states):,}" if finished < len(states) else ""
        rows.append(("Finetuning runs", f"{finished:,} finished{of_all}"))
    return [(label, value) for label, value in rows if value]


def _seeds(results: Results) -> str:
    """The seeds of the jobs that finished."""
    found = {job.tags.get("seed") for job in jobs(results.runs, *_JOBS) if job.status == "FINISHED"}
    return ", ".join(sorted((seed for seed in found if seed is not None), key=lambda seed: (len(seed), seed)))


def tradeoff(results: Results) -> Block | None:
    """Within language against zero-shot, a chart a task, with the Pareto front of the variants' means."""
    frame = tradeoff_frame(results.best(), results.study)
    charts = []
    for task in results.study.tasks:
        points = frame[frame["task"] == task]
        transferring = points.dropna(subset="zero_shot")
        if transferring.empty:
            continue
        dots = [
            svg.Dot(
                row["variant"],
                row["variant"],
                row["within"],
                row["zero_shot"],
                row["within_deviation"],
                row["zero_shot_deviation"],
            )
            for row in transferring.to_dict("records")
        ]
        mono = points[points["variant"] == "mono"]["within"]
        metric = metric_label(main_metric(task))
        charts.append(
            svg.scatter_chart(
                dots,
                title=f"{task_label(task)}: {points['targets'].iloc[0]}",
                x_label=f"within-language {metric} (%)",
                y_label=f"zero-shot {metric} (%)",
                front=pareto_front([(dot.x, dot.y) for dot in dots]),
                verticals=[("mono", float(value)) for value in mono],
                named=True,
            )
        )
    if not charts:
        return None
    shown = [variant for variant in results.study.variants if variant in set(frame["variant"])]
    text = (
        "Means over the target languages of which every variant has both scores. Up and to the right is better. The "
        "dotted line, the Pareto front, joins the variants that no other beats in both means."
    )
    if frame["within_deviation"].notna().any():
        text += " Bars are standard deviations over seeds."
    return Block("Within language against zero-shot", text, svg.legend(shown), charts)


def pareto_front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both, from left to right; larger is better."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(set(points), reverse=True):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front[::-1]


def transfer_table(results: Results) -> pd.DataFrame | None:
    """Zero-shot scores by target language and variant, or None."""
    frame = results.transfer()
    frame = frame[frame["metric"] == frame["task"].map(main_metric)]
    if frame.empty:
        return None
    cells = frame.assign(task=frame["task"].map(task_label))
    order = cells[["task", "languages", "language"]].drop_duplicates()
    grid = cells.pivot(index=["task", "languages", "language"], columns="variant", values="zero_shot")
    variants = [variant for variant in results.study.variants if variant in grid.columns]
    rows = [
        row
        for task in map(task_label, results.study.tasks)
        for row in order.itertuples(index=False, name=None)
        if row[0] == task
    ]
    grid = grid.reindex(index=pd.MultiIndex.from_tuples(rows), columns=variants)
    grid.loc[("mean", "", ""), :] = grid.mean(skipna=False)
    return grid


def curves(results: Results) -> list[Block]:
    """Loss and validation perplexity in the course of pretraining."""
    runs = [job for job in jobs(results.runs, "pretrain") if "until" not in job.tags]
    shown = [variant for variant in results.study.variants if any(job.tags.get("variant") == variant for job in runs)]
    titles = {
        "Validation perplexity": "Per token of each model's own vocabulary: models of one language set compare with "
        "each other, mono only roughly with them.",
        "Training loss": "Mean over the steps between two measurements, in nats a predicted token.",
    }
    found: list[Block] = []
    for (title, text), draw in zip(titles.items(), (perplexity_charts, loss_charts), strict=True):
        charts = draw(results, runs)
        text += " Means over seeds, of the chosen pretraining recipe."
        if len(charts) >= MOST_CHARTS:
            text += f" The first {MOST_CHARTS} are shown."
        if charts:
            found.append(Block(title, text, svg.legend(shown), charts, folded=bool(found)))
    return found


def probes(results: Results) -> list[Block]:
    """What the probes measured, of gradients and masks; and gradients as training saw them, where none was probed."""
    runs = sorted(jobs(results.runs, "probe"), key=lambda job: job.started)
    found = []
    if similarities(runs, "gradients").empty and (charts := gradient_charts(results, jobs(results.runs, "pretrain"))):
        text = "Cosine of two languages' gradients in one model, beside the cosine within one language: sums of the "
        text += "gradients of training's own batches over short windows of steps. Means over seeds."
        found.append(Block("Gradients", text, svg.legend(["within", "across"]), charts))
    for probe, title, what in (("gradients", "Gradients", "gradients"), ("pruning", "Masks", "masks' log alpha")):
        frame = similarities(runs, probe)
        if frame.empty:
            continue
        means = overall(frame)
        lower = (means["across"] < means["within"]).sum()
        text = f"Cosine of two languages' {what} in one model, beside the cosine within one language, from independent "
        text += "batches: the baseline that sampling noise allows. "
        if both := int(means.dropna()[["within", "across"]].shape[0]):
            text += f"Across languages it is lower than within in {lower} of {both} models"
            text += f" ({number(means['across'].mean(), 2)} against {number(means['within'].mean(), 2)} on average)."
        tables = [(f"Cosine of {what} at the end, means over seeds", means.set_index(["languages", "variant"]), 2)]
        places = by_layer(frame)
        if not places.empty:
            tables.append((f"Across languages, by module and layer (0 is the lowest): cosine of {what}", places, 2))
        probed = [job for job in runs if job.tags.get("probe") == probe]
        charts = gradient_charts(results, probed) if probe == "gradients" else []
        found.append(Block(title, text, svg.legend(["within", "across"]) if charts else "", charts, tables))
    return found


def search(results: Results) -> list[Block]:
    """The search's trials: importance of the parameters, slices, and the best."""
    found = []
    searched = read_search(jobs(results.runs, "trial"), results.study.configuration)
    if searched is not None:
        finished = searched.finished
        table, remark = importance(searched)
        text = f"{len(finished)} of {len(searched.trials)} trials finished. "
        if not table.empty:
            text += (
                "Importance is the share of an objective's variance over the trials that a parameter explains alone "
            )
            text += "or with others (fANOVA). "
            if len(finished) < 30:
                text += f"With {len(finished)} trials it is rough. "
        bars = [] if table.empty else [("Importance of parameters", table)]
        tables: list[tuple[str, pd.DataFrame, int]] = []
        numeric = [name for name in searched.parameters if pd.api.types.is_numeric_dtype(searched.trials[name])]
        charts = []
        for objective in searched.objectives:
            for name in numeric:
                points = finished.dropna(subset=name)
                if len(points):
                    dots = [
                        svg.Dot(f"trial {row['trial']}", "trial", row[name], row[objective])
                        for row in points.to_dict("records")
                    ]
                    log = name in searched.logarithmic and bool((points[name] > 0).all())
                    charts.append(
                        svg.scatter_chart(
                            dots,
                            title=f"{objective} by {name.rpartition('.')[2]}",
                            x_label=name,
                            y_label=objective,
                            log_x=log,
                        )
                    )
        for name in searched.parameters:
            if name not in numeric:
                means = finished.groupby(name)[list(searched.objectives)].agg(["mean", "count"])
                tables.append((f"Objectives by {name}", means, 1))
        if len(finished):
            front = searched.best().set_index("trial")[[*searched.parameters, *searched.objectives]].map(_shown)
            label = "Trials that no other beats in all objectives" if len(searched.objectives) > 1 else "The best trial"
            tables.append((f"{label}, dev scores in percent", front, 3))
        found.append(Block("Trials", text + remark, "", charts, tables, bars))
    recipes = searched_recipes(results)
    if not recipes.empty:
        frame = recipes.set_index(["variant", "languages"]).drop(columns="recipe")
        text = (
            "Models that were pretrained by several recipes; mean dev scores in percent. All other sections show the "
        )
        text += "chosen one."
        found.append(Block("Pretraining recipes", text, tables=[("Recipes by model", frame, 1)]))
    return found


def cost(results: Results) -> Block | None:
    """What was spent, and what a point over the joint models cost."""
    everything = jobs(results.runs)
    configuration = results.study.configuration
    unit = hour_unit(configuration)
    kinds = cost_by_kind(everything, configuration)
    if kinds.empty:
        return None
    pretraining = [job for job in everything if job.kind == "pretrain"]
    gained, recipes = above_joint(results), results.chosen_recipes()
    frame = cost_of_variants(pretraining, results.study, configuration, gained, recipes)
    text = f"{number(kinds['hours'].sum())} {unit} in all finished jobs of the study, "
    text += "those included that another study had done. "
    worthwhile = frame.dropna(subset="hours_per_point")
    if len(worthwhile):
        cheapest = worthwhile.nsmallest(1, "hours_per_point").iloc[0]
        text += f"A point gained over joint within language costs least with {cheapest['variant']}: "
        text += f"{cheapest['hours_per_point']:.2g} {unit} of pretraining more for each language set. "
    names = {
        "hours": f"pretraining ({unit} a set)",
        "tokens": "tokens (millions)",
        "ratio": "times joint",
        "within": "points over joint, within",
        "zero_shot": "points over joint, zero-shot",
        "hours_per_point": f"{unit} more for a point within",
        "tokens_per_point": "tokens (millions) more for a point within",
    }
    frame[["tokens", "tokens_per_point"]] /= 1e6
    kinds["tokens"] /= 1e6
    for column in ("hours", "hours_per_point"):  # of a small study, thousandths
        frame[column] = [number(value) if pd.isna(value) or value >= 100 else f"{value:.3g}" for value in frame[column]]
    tables = []
    if len(frame):
        tables.append(
            ("Cost of a language set, means over sets and seeds", frame.set_index("variant").rename(columns=names), 2)
        )
    by_kind = kinds.set_index("kind").rename(columns={"hours": unit, "tokens": "tokens (millions)"})
    tables.append(("All finished jobs", by_kind, 2))
    return Block("Cost", text.strip(), tables=tables)


def failures(results: Results) -> dict[str, Any] | None:
    """Jobs that failed, were stopped, or have not ended, with the reason that their run has."""
    bad = jobs(results.runs.filter(pc.not_equal(results.runs["status"], "FINISHED")), *_JOBS)
    if not bad:
        return None
    words = {
        "FAILED": "failed",
        "KILLED": "stopped early",
        "RUNNING": "running, or interrupted",
        "SCHEDULED": "waiting",
    }
    bad.sort(key=lambda job: (list(words).index(job.status) if job.status in words else 9, job.kind, job.name))
    rows = [
        (job.name, words.get(job.status, job.status.lower()), job.tags.get("error", "")) for job in bad[:_MOST_FAILURES]
    ]
    counts = pd.Series([words.get(job.status, job.status.lower()) for job in bad]).value_counts(sort=False)
    return {
        "rows": rows,
        "left": len(bad) - len(rows),
        "counts": ", ".join(f"{n} {word}" for word, n in counts.items()),
    }


def provenance(results: Results) -> dict[str, Any]:
    """Where the numbers come from: store, versions, data, seeds, dates, and the whole configuration."""
    everything = results.runs.filter(pc.is_in(results.runs["kind"], pa.array(_JOBS)))
    data = [
        (job.tags.get("languages", ""), job.tags.get("key", ""), _tokens(job.metrics))
        for job in sorted(jobs(results.runs, "prepare"), key=lambda job: job.name)
        if job.status == "FINISHED"
    ]
    rows = [
        ("Tracking store", without_password(results.tracking_uri)),
        ("First run", _date(pc.min(everything["start_time"]).as_py())),
        ("Last run", _date(pc.max(everything["end_time"]).as_py())),
        ("Seeds", _seeds(results)),
        ("Page made by", f"raylab {_version()}"),
    ]
    configuration = yaml.safe_dump(results.study.configuration, sort_keys=False, allow_unicode=True, width=100)
    return {"rows": rows, "data": data, "configuration": configuration if results.study.configuration else ""}


def _tokens(metrics: Any) -> str:
    total = sum(value for name, value in metrics.items() if name.endswith("/tokens/train"))
    return f"{total:,.0f}" if total else ""


def _date(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "not known"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _version() -> str:
    try:
        return importlib.metadata.version("raylab")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _shown(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else value
