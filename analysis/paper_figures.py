"""The paper's Figures 1 to 4 over a study; what their captions leave open is said in docs/paper.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import measurements
from analysis.drawing import draw_curve, draw_legend, few_ticks, outer_labels, panel_grid, plain_axes, plain_logarithm
from analysis.figures import PALETTE, variant_style
from analysis.interference import SeedScores
from analysis.labels import main_metric, metric_label, module_label
from analysis.paper import targets
from analysis.sharing_figure import figure_4
from analysis.tables import number
from raylab.errors import InputError

if TYPE_CHECKING:
    from analysis.results import Results

_BARS = ("mono", "joint", "external")
_BASELINE = "#555555"


def figure(number: int, results: Results, **options: Any) -> Figure:
    """One of the paper's figures.

    Args:
        number: From 1 to 4.
        results: The study's results.
        options: Of `figure_1`, `figure_2`, `figure_3` or `figure_4`.

    Raises:
        InputError: If the paper has no such figure, or the study not what it shows; the message names a study that has.
    """
    if number not in _FIGURES:
        raise InputError(f"figure {number} of the paper is not drawn here; these are: {', '.join(map(str, _FIGURES))}")
    return _FIGURES[number](results, **options)


def figure_1(results: Results, task: str = "ner") -> Figure:
    """Monolingual, joint and external models within language: a group of bars for each target language.

    Lower bars of a joint model are likely interference. Where there are several seeds, whiskers are standard
    deviations over them.

    Args:
        results: The study's results.
        task: Downstream task; the paper shows ner.

    Raises:
        InputError: If the study has no score of mono, or none of another model, on the task.
    """
    study = results.study
    scores, metric = SeedScores(results.best(), study), main_metric(task)
    found = {
        (variant, label): list(scores.within(languages, variant, task, metric, language).values())
        for label, languages, language in targets(study)
        for variant in _BARS
    }
    variants = [variant for variant in _BARS if any(found[variant, label] for label, _, _ in targets(study))]
    labels = [label for label, _, _ in targets(study) if any(found[variant, label] for variant in variants)]
    if "mono" not in variants or len(variants) < 2:
        raise InputError(
            f"figure 1 of the paper compares mono with joint on {task.upper()}; study {study.name!r} has "
            f"{'no scores of either' if not variants else f'scores of {variants[0]} only'}, "
            "python -m raylab.sweep variants gives both"
        )
    drawing = Figure(figsize=(max(5.0, 1.6 + len(labels) * (0.35 + 0.42 * len(variants))), 4.0), layout="constrained")
    axes = drawing.subplots()
    width = 0.82 / len(variants)
    for place, variant in enumerate(variants):
        offset = (place - (len(variants) - 1) / 2) * width
        for position, label in enumerate(labels):
            values = found[variant, label]
            if not values:
                continue
            height = float(np.mean(values))
            error = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            axes.bar(
                position + offset, height, width * 0.94, color=variant_style(variant)[0], yerr=error or None,
                error_kw={"elinewidth": 1, "capsize": 2}, label=variant,
            )  # fmt: skip
            axes.annotate(
                number(height), (position + offset, height + error), (0, 2), textcoords="offset points", ha="center",
                va="bottom", fontsize="x-small",
            )  # fmt: skip
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylabel(f"within-language test {metric_label(metric)} (%)")
    axes.margins(y=0.1)
    plain_axes(axes)
    draw_legend(drawing, [axes], "outside lower center", len(variants))
    drawing.suptitle(f"{task.upper()}: monolingual against multilingual models\nstudy {study.name}")
    return drawing


def figure_2(results: Results, languages: Sequence[str] | None = None) -> Figure:
    """Validation perplexity in the course of pretraining, a panel a language: mono, and joint of each set that has it.

    Lines are means over seeds, bands reach from the least to the greatest.

    Args:
        results: The study's results.
        languages: Which; by default all targets. The paper shows sw and te.

    Raises:
        InputError: If no such language has curves of mono and of joint.
    """
    study = results.study
    found = measurements.perplexities(results)
    wanted = languages or dict.fromkeys(language for _, _, language in targets(study))
    of_language = found.groupby("language")["variant"].agg(set)
    shown = [language for language in wanted if of_language.get(language, set()) >= {"mono", "joint"}]
    if not shown:
        raise InputError(
            f"figure 2 of the paper is validation perplexity of mono and joint; study {study.name!r} has no curves of "
            f"both in {', '.join(wanted)}, python -m raylab.sweep corpus_size gives them"
        )
    drawing, panels = panel_grid(len(shown), shared=False)
    for panel, language in zip(panels, shown, strict=True):
        own = measurements.over_seeds(found[found["language"] == language])
        models = list(dict.fromkeys(zip(own["variant"], own["languages"], strict=True)))
        models.sort(key=lambda model: (model[0] != "mono", model[1]))
        joint = [model for model in models if model[0] == "joint"]
        for variant, model in models:
            colour = variant_style("mono")[0] if variant == "mono" else PALETTE[joint.index((variant, model))]
            label = "mono" if variant == "mono" else f"joint {model}" if len(joint) > 1 else "joint"
            curve = own[(own["variant"] == variant) & (own["languages"] == model)]
            draw_curve(panel, curve, colour, label, "--" if variant == "mono" else "-")
        panel.set_title(language)
        panel.set_yscale("log")
        plain_logarithm(panel.yaxis)
        few_ticks(panel)
        plain_axes(panel)
    outer_labels(panels, "pretraining step", "validation perplexity")
    draw_legend(drawing, panels, "outside lower center", 4)
    drawing.suptitle(f"Validation perplexity during pretraining, study {study.name}")
    return drawing


def figure_3(results: Results, by: str | None = None, variant: str = "joint") -> Figure:
    """Cosine of the gradients of two languages in the course of pretraining, beside that of two batches of one.

    Lines are means over seeds, bands reach from the least to the greatest. A language set has a colour; solid lines are
    of two languages, dashed ones, the baseline, of one in the same model: the set's source, as in the paper, or the
    mean over its languages where there are panels.

    Args:
        results: The study's results.
        by: By default one panel, over all shared parameters; `layer` or `module`: a panel for each as well.
        variant: Of the models.

    Raises:
        InputError: If no gradient probe of the variant has measured anything.
        ValueError: If `by` is something else.
    """
    study = results.study
    found = measurements.gradient_cosines(results, by)
    found = found[found["variant"] == variant]
    if found.empty:
        raise InputError(
            f"figure 3 of the paper is of gradient probes; study {study.name!r} has none of {variant} that measured "
            "anything, python -m raylab.sweep gradient_conflict has them (or `probes: {gradients: {}}` in a study)"
        )
    places: dict[str, pd.Series] = {"all shared parameters": found["layer"].isna() & found["module"].isna()}
    if by == "layer":
        layers = sorted(int(layer) for layer in found["layer"].dropna().unique())
        places |= {f"layer {layer}": (found["layer"] == layer) & found["module"].isna() for layer in layers}
    elif by == "module":
        modules = found["module"].dropna().unique()
        places |= {module_label(name): (found["module"] == name) & found["layer"].isna() for name in modules}
    sets = list(dict.fromkeys(found["languages"]))
    drawing, panels = panel_grid(len(places), shared=True, single=(6.4, 4.2))
    for (title, chosen), panel in zip(places.items(), panels, strict=True):
        panel.axhline(0.0, color="black", linewidth=0.8)
        for place, languages in enumerate(sets):
            own = found[chosen & (found["languages"] == languages)].drop(columns=["layer", "module"])
            within = own["first"] == own["second"]
            names = languages.split("-")
            for first, second in own.loc[~within, ["first", "second"]].drop_duplicates().itertuples(index=False):
                pair = own[(own["first"] == first) & (own["second"] == second)]
                label = f"{first}-{second}" + ("" if len(names) == 2 else f" in {languages}")
                draw_curve(panel, measurements.over_seeds(pair), PALETTE[place % len(PALETTE)], label, "-")
            baseline = own[within & (own["first"] == names[0])] if by is None else own[within]
            together = baseline.assign(first="", second="").groupby(
                ["variant", "languages", "seed", "first", "second", "step"], as_index=False
            )["value"].mean()  # fmt: skip
            if not together.empty:
                draw_curve(panel, measurements.over_seeds(together), PALETTE[place % len(PALETTE)], "_", "--")
        panel.plot([], [], color=_BASELINE, linestyle="--", label=f"within {names[0] if by is None else 'a language'}")
        if len(places) > 1:
            panel.set_title(title)
        few_ticks(panel)
        plain_axes(panel)
    outer_labels(panels, "pretraining step", "cosine of gradients")
    draw_legend(drawing, panels, "outside lower center", 4)
    drawing.suptitle(f"Gradient similarity throughout training, study {study.name}")
    return drawing


_FIGURES: dict[int, Callable[..., Figure]] = {1: figure_1, 2: figure_2, 3: figure_3, 4: figure_4}
