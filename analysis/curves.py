"""Training curves: means over seeds of what pretraining, and the gradient probes, measured on their way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis import svg
from analysis.histories import Curve
from analysis.jobs import Job

if TYPE_CHECKING:
    from analysis.results import Results

MOST_CHARTS = 36
"""Of one kind; of a larger study the page shows the first ones, and says so."""

MOST_POINTS = 300
"""Of one curve, about: a page's width has no room for more."""


def loss_charts(results: Results, jobs: Sequence[Job]) -> list[str]:
    """A chart of the training loss for each language set: a curve a variant."""
    curves = _by_model(results, jobs, "train/loss")
    return [
        chart
        for languages in results.study.language_sets[:MOST_CHARTS]
        if (chart := _chart(results, curves, languages, None, title="-".join(languages), y_label="training loss"))
    ]


def perplexity_charts(results: Results, jobs: Sequence[Job]) -> list[str]:
    """A chart of the validation perplexity for each language set and language: a curve a variant."""
    wanted = [(languages, language) for languages in results.study.language_sets for language in languages]
    wanted = wanted[:MOST_CHARTS]
    curves = {
        language: _by_model(results, jobs, f"valid/perplexity/{language}")
        for language in dict.fromkeys(language for _, language in wanted)
    }
    charts = []
    for languages, language in wanted:
        title = f"{language} in {'-'.join(languages)}"
        chart = _chart(
            results, curves[language], languages, language, title=title, y_label="validation perplexity", log_y=True
        )
        if chart:
            charts.append(chart)
    return charts


def gradient_charts(results: Results, jobs: Sequence[Job]) -> list[str]:
    """A chart of the gradients' cosines for each model: within each language, and across each two.

    Args:
        results: The study's results.
        jobs: Those that measured them: probes, or pretraining with `gradients_every`.
    """
    models = dict.fromkeys(
        (job.tags["variant"], job.tags["languages"])
        for job in jobs
        if "languages" in job.tags and any(name.startswith("gradient/cosine/") for name in job.metrics)
    )
    charts = []
    for variant, languages in list(models)[:MOST_CHARTS]:
        own = [job for job in jobs if (job.tags.get("variant"), job.tags.get("languages")) == (variant, languages)]
        names = dict.fromkeys(
            name for job in own for name in job.metrics if name.startswith("gradient/cosine/") and name.count("/") == 2
        )
        lines = []
        for name in names:
            pair = name.rpartition("/")[2]
            first, _, second = pair.partition("-")
            found = results.histories([job.run_id for job in own if name in job.metrics], name)
            series = "within" if first == second else "across"
            lines.append(svg.Line(pair, series, mean_curve(list(found.values()))))
        if any(line.points for line in lines):
            title = f"{languages}, {variant}"
            charts.append(
                svg.line_chart(lines, title=title, x_label="pretraining step", y_label="cosine of gradients", zero=True)
            )
    return charts


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of several curves at the steps that all of them reach; between its own points a curve is straight.

    Of a long one, means of so many points each that about `MOST_POINTS` are left, and the last point.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return []
    begin, end = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    steps = sorted({step for curve in curves for step, _ in curve if begin <= step <= end})
    values = [np.interp(steps, [step for step, _ in curve], [value for _, value in curve]) for curve in curves]
    if not steps:
        return []
    points = np.array([steps, np.mean(values, axis=0)])  # [2, n]
    size = -(-len(steps) // MOST_POINTS)
    starts = np.arange(0, len(steps), size)
    means = np.add.reduceat(points, starts, axis=1) / np.diff([*starts, len(steps)])
    if size > 1:
        means = np.column_stack([means[:, :-1], points[:, -1]])
    return [(round(step), value) for step, value in means.T.tolist()]


def _by_model(results: Results, jobs: Sequence[Job], metric: str) -> dict[tuple[str, str], Curve]:
    """By variant and model's languages, the mean over seeds of the chosen recipe's curve."""
    chosen = results.chosen_recipes()
    runs = defaultdict(list)
    for job in jobs:
        model = (job.tags.get("variant", ""), job.tags.get("languages", ""))
        if metric in job.metrics and chosen.get(model, job.tags.get("recipe")) == job.tags.get("recipe"):
            runs[model].append(job.run_id)
    found = results.histories([run_id for run_ids in runs.values() for run_id in run_ids], metric)
    return {
        model: mean_curve([found[run_id] for run_id in run_ids if run_id in found]) for model, run_ids in runs.items()
    }


def _chart(
    results: Results,
    curves: Mapping[tuple[str, str], Curve],
    languages: tuple[str, ...],
    language: str | None,
    *,
    title: str,
    y_label: str,
    log_y: bool = False,
) -> str | None:
    """Curves of one language set; of mono, the model of `language`, or of the set's every language."""
    lines = []
    for variant in results.study.variants:
        asked = [language] if language else languages
        models = dict.fromkeys(results.study.model_languages(languages, variant, own) for own in asked)
        for model in models:
            if points := curves.get((variant, model)):
                label = f"{variant} {model}" if len(models) > 1 else variant
                lines.append(svg.Line(label, variant, points))
    if not lines:
        return None
    return svg.line_chart(lines, title=title, x_label="pretraining step", y_label=y_label, log_y=log_y)
