"""The paper's Figures 1 to 4 over a study; what their captions leave open is said in docs/paper.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis import curves
from analysis.figures import PALETTE, variant_style
from analysis.interference import SeedScores
from analysis.labels import OTHER_LABELS, PAPER_LABELS, in_variant_order, main_metric, metric_label
from analysis.paper import targets
from analysis.tables import number
from raylab.errors import InputError

if TYPE_CHECKING:
    from analysis.results import Results

_BARS = ("mono", "joint", "external")
_ACROSS = 3  # panels in one row
_EXTREME = 10  # groups at each end of Figure 4b, as in the paper
_MODULES = ("attention", "ffn")
_MODULE_LABELS = {"attention": "attention", "ffn": "feed-forward"}
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
            bar = axes.bar(
                position + offset, height, width * 0.94, color=variant_style(variant)[0], yerr=error or None,
                error_kw={"elinewidth": 1, "capsize": 2}, label=_label(variant) if position == 0 else "_",
            )  # fmt: skip
            bar.set_label(_label(variant))
            axes.annotate(
                number(height), (position + offset, height + error), (0, 2), textcoords="offset points", ha="center",
                va="bottom", fontsize="x-small",
            )  # fmt: skip
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylabel(f"within-language test {metric_label(metric)} (%)")
    axes.margins(y=0.1)
    _plain(axes)
    _legend(drawing, [axes], "outside lower center", len(variants))
    drawing.suptitle(f"{task.upper()}: monolingual against multilingual models, study {study.name}")
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
    found = curves.perplexities(results)
    wanted = languages or dict.fromkeys(language for _, _, language in targets(study))
    of_language = found.groupby("language")["variant"].agg(set)
    shown = [language for language in wanted if of_language.get(language, set()) >= {"mono", "joint"}]
    if not shown:
        raise InputError(
            f"figure 2 of the paper is validation perplexity of mono and joint; study {study.name!r} has no curves of "
            f"both in {', '.join(wanted)}, python -m raylab.sweep corpus_size gives them"
        )
    drawing, panels = _grid(len(shown), shared=False)
    for panel, language in zip(panels, shown, strict=True):
        own = curves.over_seeds(found[found["language"] == language])
        models = list(dict.fromkeys(zip(own["variant"], own["languages"], strict=True)))
        models.sort(key=lambda model: (model[0] != "mono", model[1]))
        joint = [model for model in models if model[0] == "joint"]
        for variant, model in models:
            colour = variant_style("mono")[0] if variant == "mono" else PALETTE[joint.index((variant, model))]
            label = "mono" if variant == "mono" else f"joint {model}" if len(joint) > 1 else "joint"
            curve = own[(own["variant"] == variant) & (own["languages"] == model)]
            _curve(panel, curve, colour, label, "--" if variant == "mono" else "-")
        panel.set_title(language)
        panel.set_yscale("log")
        _plain_logarithm(panel.yaxis)
        _few_ticks(panel)
        _plain(panel)
    _outer_labels(panels, "pretraining step", "validation perplexity")
    _legend(drawing, panels, "outside lower center", 4)
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
    found = curves.gradient_cosines(results, by)
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
        places |= {
            _MODULE_LABELS.get(name, name): (found["module"] == name) & found["layer"].isna() for name in modules
        }
    sets = list(dict.fromkeys(found["languages"]))
    drawing, panels = _grid(len(places), shared=True, single=(6.4, 4.2))
    for (title, chosen), panel in zip(places.items(), panels, strict=True):
        panel.axhline(0.0, color="black", linewidth=0.8)
        for place, languages in enumerate(sets):
            own = found[chosen & (found["languages"] == languages)].drop(columns=["layer", "module"])
            within = own["first"] == own["second"]
            names = languages.split("-")
            for first, second in own.loc[~within, ["first", "second"]].drop_duplicates().itertuples(index=False):
                pair = own[(own["first"] == first) & (own["second"] == second)]
                label = f"{first}-{second}" + ("" if len(names) == 2 else f" in {languages}")
                _curve(panel, curves.over_seeds(pair), PALETTE[place % len(PALETTE)], label, "-")
            baseline = own[within & (own["first"] == names[0])] if by is None else own[within]
            together = baseline.assign(first="", second="").groupby(
                ["variant", "languages", "seed", "first", "second", "step"], as_index=False
            )["value"].mean()  # fmt: skip
            if not together.empty:
                _curve(panel, curves.over_seeds(together), PALETTE[place % len(PALETTE)], "_", "--")
        panel.plot([], [], color=_BASELINE, linestyle="--", label=f"within {names[0] if by is None else 'a language'}")
        if len(places) > 1:
            panel.set_title(title)
        _few_ticks(panel)
        _plain(panel)
    _outer_labels(panels, "pretraining step", "cosine of gradients")
    _legend(drawing, panels, "outside lower center", 4)
    drawing.suptitle(f"Gradient similarity throughout training, study {study.name}")
    return drawing


def figure_4(results: Results, parts: str = "abc", languages: str | None = None, variant: str = "joint") -> Figure:
    """How far languages share parameters (a, b), and the training loss of the variants after the warm-up (c).

    a: Cosine of the masks of two languages by layer, of attention and of the feed-forward maps; the band is that of two
    masks of one language. b: The groups whose mean log alpha in the target language has the largest absolute values,
    ten at each end, with the source's; names of language-specific ones are bold. c: Means over language sets and seeds,
    smoothed.

    Args:
        results: The study's results.
        parts: Which of a, b and c; those that the study has no data for are left out.
        languages: Of the model of b, joined by `-`; by default the first that was probed.
        variant: Of the probed models.

    Raises:
        InputError: If the study has data for none of them.
    """
    study = results.study
    cosines = curves.mask_cosines(results)
    cosines = cosines[cosines["variant"] == variant]
    losses = _comparable_losses(results) if "c" in parts else pd.DataFrame()
    shown = [part for part in parts if not (losses if part == "c" else cosines).empty]
    if not shown:
        raise InputError(
            "figure 4 of the paper is of pruning probes (a, b) and of training losses of several variants (c); study "
            f"{study.name!r} has none for {', '.join(parts)}: python -m raylab.sweep parameter_sharing has the probes, "
            "python -m raylab.sweep variants the losses"
        )
    widths = {"a": 5.6, "b": 6.4, "c": 4.6}
    drawing = Figure(figsize=(sum(widths[part] for part in shown), 4.9), layout="constrained")
    subfigures = drawing.subfigures(1, len(shown), width_ratios=[widths[part] for part in shown], squeeze=False)[0]
    for part, place in zip(shown, subfigures, strict=True):
        if part == "a":
            _draw_mask_cosines(place, cosines)
        elif part == "b":
            _draw_groups(place.subplots(), results, languages or cosines["languages"].iloc[0], variant)
        else:
            _draw_losses(place.subplots(), losses)
    return drawing


def _draw_mask_cosines(place: Any, cosines: pd.DataFrame) -> None:
    by_layer = cosines[cosines["layer"].notna() & cosines["module"].isin(_MODULES)]
    within = by_layer["first"] == by_layer["second"]
    panels = place.subplots(1, len(_MODULES), sharey=True)
    for panel, module in zip(panels, _MODULES, strict=True):
        baseline = (
            by_layer[within & (by_layer["module"] == module)].groupby("layer")["value"].agg(["min", "mean", "max"])
        )
        if not baseline.empty:
            layers = baseline.index.to_numpy(int)
            panel.fill_between(layers, baseline["min"], baseline["max"], color=_BASELINE, alpha=0.2, linewidth=0)
            panel.plot(layers, baseline["mean"], color=_BASELINE, linestyle="--", label="within a language (repeat)")
        across = by_layer[~within & (by_layer["module"] == module)]
        pairs = list(dict.fromkeys(zip(across["languages"], across["first"], across["second"], strict=True)))
        for number_of_pair, (languages, first, second) in enumerate(pairs):
            own = across[(across["languages"] == languages) & (across["first"] == first) & (across["second"] == second)]
            by_seed = own.groupby("layer")["value"].agg(["min", "mean", "max"])
            colour, marker = PALETTE[number_of_pair % len(PALETTE)], "osD^vP<*pX"[number_of_pair % 10]
            layers = by_seed.index.to_numpy(int)
            label = f"{first}-{second}" + ("" if languages.count("-") == 1 else f" in {languages}")
            panel.plot(layers, by_seed["mean"], color=colour, marker=marker, label=label)
            panel.fill_between(layers, by_seed["min"], by_seed["max"], color=colour, alpha=0.15, linewidth=0)
        panel.set_title(_MODULE_LABELS[module])
        panel.set_xlabel("layer")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.margins(x=0.12)
        _plain(panel)
    panels[0].set_ylabel("cosine of masks")
    _legend(place, list(panels), "outside lower center", 2)
    place.suptitle("(a) Parameter similarity by layer")


def _draw_groups(panel: Axes, results: Results, languages: str, variant: str) -> None:
    panel.set_title(f"(b) Groups of largest |log α| in {languages.split('-')[1]}, {languages}")
    try:
        groups = curves.mask_groups(results, languages, variant)
    except InputError as error:
        panel.text(0.5, 0.5, f"Not drawn:\n{error}", ha="center", va="center", wrap=True, transform=panel.transAxes)
        panel.set_axis_off()
        return
    source, target = languages.split("-")[:2]
    ordered = groups.sort_values(target, kind="stable")
    least, most = ordered.head(_EXTREME), ordered.tail(_EXTREME)
    least, most = least[least[target] < 0], most[most[target] > 0]
    shown = pd.concat([least, most])
    shown = shown[~shown.index.duplicated()]
    scale = shown[[source, target]].abs().to_numpy().max()
    rows = np.arange(len(shown))
    panel.hlines(rows, shown[source] / scale, shown[target] / scale, color="#BBBBBB", linewidth=1.5, zorder=1)
    values = {language: shown[language] / scale for language in (target, source)}
    panel.scatter(values[target], rows, color=PALETTE[1], marker="s", s=26, label=target, zorder=2)
    panel.scatter(
        values[source], rows, facecolor="none", edgecolor=PALETTE[0], s=62, linewidth=1.6, label=source, zorder=3
    )
    panel.axvline(0.0, color="black", linewidth=0.8)
    if len(least) and len(most):
        panel.axhline(len(least) - 0.5, color="#888888", linewidth=0.8, linestyle=":")
    panel.set_yticks(rows, [name.replace("layer.", "") for name in shown.index], fontsize="x-small")
    for label, is_specific in zip(panel.get_yticklabels(), shown["specific"], strict=True):
        label.set_fontweight("bold" if is_specific else "normal")
    panel.set_xlim(-1.1, 1.1)
    panel.set_xlabel("log α over its largest: ← pruned, kept →\nlayer.module.projection.row; bold: language-specific")
    panel.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="upper left", frameon=False)


def _comparable_losses(results: Results) -> pd.DataFrame:
    """Training losses after the warm-up of variants with one vocabulary, over the sets that all of them have."""
    found = curves.training_losses(results)
    found = found[~found["variant"].isin(("mono", "external")) & (found["step"] > found["warmup_steps"])]
    sets = found.groupby("variant")["languages"].agg(set)
    if len(sets) < 2:
        return found.iloc[:0]
    common = set.intersection(*sets)
    return found[found["languages"].isin(common)]


def _draw_losses(panel: Axes, losses: pd.DataFrame) -> None:
    means = losses.groupby(["variant", "seed", "step"])["value"].mean().reset_index()
    averaged = curves.over_seeds(curves.smoothed(means))
    for variant in in_variant_order(averaged["variant"]):
        curve = averaged[averaged["variant"] == variant]
        _curve(panel, curve, variant_style(variant)[0], _label(variant).removeprefix("+ "), "-")
    panel.set_xscale("log")
    _plain_logarithm(panel.xaxis)
    panel.set_xlabel("pretraining step, after the warm-up")
    panel.set_ylabel("training loss (nats per predicted token)")
    sets = list(dict.fromkeys(losses["languages"]))
    over = f", mean over {len(sets)} language sets" if len(sets) > 1 else f", {sets[0]}"
    panel.set_title(f"(c) Training loss{over}")
    _plain(panel)
    panel.legend(frameon=False)


def _curve(panel: Axes, curve: pd.DataFrame, colour: str, label: str, style: str) -> None:
    panel.plot(curve["step"], curve["value"], color=colour, linestyle=style, linewidth=1.6, label=label)
    if (curve["high"] > curve["low"]).any():
        panel.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)


def _grid(count: int, *, shared: bool, single: tuple[float, float] = (5.6, 4.0)) -> tuple[Figure, list[Axes]]:
    across = min(count, _ACROSS)
    down = -(-count // across)
    size = single if count == 1 else (3.2 * across + 0.6, 2.5 * down + 1.1)
    drawing = Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(down, across, sharey=shared, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.set_axis_off()
    return drawing, panels[:count]


def _outer_labels(panels: Sequence[Axes], x: str, y: str) -> None:
    across = min(len(panels), _ACROSS)
    for place, panel in enumerate(panels):
        if place + across >= len(panels):
            panel.set_xlabel(x)
        if place % across == 0:
            panel.set_ylabel(y)


def _legend(place: Any, panels: Sequence[Axes], where: str, across: int) -> None:
    """One legend of all panels."""
    entries: dict[str, Line2D] = {}
    for panel in panels:
        entries |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    place.legend(entries.values(), entries.keys(), loc=where, ncols=min(across, len(entries)), frameon=False)


def _few_ticks(panel: Axes) -> None:
    panel.xaxis.set_major_locator(MaxNLocator(4))


def _plain_logarithm(axis: Axis) -> None:
    """Numbers in full at 1, 2, 3 and 5 of each power of ten, where powers alone would leave an axis without any."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _plain(panel: Axes) -> None:
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _label(variant: str) -> str:
    return {**PAPER_LABELS, **OTHER_LABELS}.get(variant, variant)


_FIGURES: dict[int, Callable[..., Figure]] = {1: figure_1, 2: figure_2, 3: figure_3, 4: figure_4}
