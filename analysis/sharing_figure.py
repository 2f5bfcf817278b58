"""The paper's Figure 4 over a study: which parameters languages share, and how fast the variants learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import measurements
from analysis.drawing import draw_curve, draw_legend, plain_axes, plain_logarithm
from analysis.figures import PALETTE, variant_style
from analysis.labels import in_variant_order, module_label
from raylab.errors import InputError

if TYPE_CHECKING:
    from analysis.results import Results

_EXTREME = 10  # groups at each end of Figure 4b, as in the paper
_MODULES = ("attention", "ffn")
_BASELINE = "#555555"
_MARKERS = "osD^vP<*pX"
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)))


def figure_4(
    results: Results,
    parts: str = "abc",
    languages: str | None = None,
    variant: str = "joint",
    *,
    specific: bool = False,
) -> Figure:
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
        specific: In b, the language-specific groups with the largest difference instead.

    Raises:
        InputError: If the study has data for none of them.
    """
    study = results.study
    cosines = measurements.mask_cosines(results)
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
            _draw_groups(place, results, languages or cosines["languages"].iloc[0], variant, specific)
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
            colour, marker = PALETTE[number_of_pair % len(PALETTE)], _MARKERS[number_of_pair % 10]
            layers = by_seed.index.to_numpy(int)
            label = f"{first}-{second}" + ("" if languages.count("-") == 1 else f" in {languages}")
            panel.plot(layers, by_seed["mean"], color=colour, marker=marker, label=label)
            panel.fill_between(layers, by_seed["min"], by_seed["max"], color=colour, alpha=0.15, linewidth=0)
        panel.set_title(module_label(module))
        panel.set_xlabel("layer")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.margins(x=0.12)
        plain_axes(panel)
    panels[0].set_ylabel("cosine of masks")
    draw_legend(place, list(panels), "outside lower center", 2)
    place.suptitle("(a) Parameter similarity by layer")


def _draw_groups(place: Any, results: Results, languages: str, variant: str, specific: bool) -> None:
    panel = place.subplots()
    source, target = languages.split("-")[:2]
    chosen = "Most language-specific groups" if specific else f"Groups of largest |log α| in {target}"
    panel.set_title(f"(b) {chosen}, {variant} {languages}")
    try:
        groups = measurements.mask_groups(results, languages, variant)
    except InputError as error:
        panel.text(0.5, 0.5, f"Not drawn:\n{error}", ha="center", va="center", wrap=True, transform=panel.transAxes)
        panel.set_axis_off()
        return
    if specific:
        groups = groups[groups["specific"]]
        largest = (groups[target] - groups[source]).abs().sort_values(kind="stable").index[-2 * _EXTREME :]
        groups = groups.loc[largest]
    if groups.empty:
        panel.text(0.5, 0.5, "No group is language-specific.", ha="center", va="center", transform=panel.transAxes)
        panel.set_axis_off()
        return
    ordered = groups.sort_values(target, kind="stable")
    least, most = ordered[ordered[target] <= 0], ordered[ordered[target] > 0]
    if not specific:
        least, most = least.head(_EXTREME), most.tail(_EXTREME)
    shown = pd.concat([least, most])
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
    draw_legend(place, [panel], "outside lower center", 2)


def _comparable_losses(results: Results) -> pd.DataFrame:
    """Training losses after the warm-up of variants with one vocabulary, over the sets that all of them have."""
    found = measurements.training_losses(results)
    found = found[~found["variant"].isin(("mono", "external")) & (found["step"] > found["warmup_steps"])]
    sets = found.groupby("variant")["languages"].agg(set)
    if len(sets) < 2:
        return found.iloc[:0]
    common = set.intersection(*sets)
    return found[found["languages"].isin(common)]


def _draw_losses(panel: Axes, losses: pd.DataFrame) -> None:
    means = losses.groupby(["variant", "seed", "step"])["value"].mean().reset_index()
    averaged = measurements.over_seeds(measurements.smoothed(means))
    for place, variant in enumerate(in_variant_order(averaged["variant"])):
        curve = averaged[averaged["variant"] == variant]
        draw_curve(panel, curve, variant_style(variant)[0], variant, _DASHES[place % len(_DASHES)])
    panel.set_xscale("log")
    plain_logarithm(panel.xaxis)
    panel.set_xlabel("pretraining step, after the warm-up")
    panel.set_ylabel("training loss (nats per predicted token)")
    sets = list(dict.fromkeys(losses["languages"]))
    over = f", mean over {len(sets)} language sets" if len(sets) > 1 else f", {sets[0]}"
    panel.set_title(f"(c) Training loss{over}")
    plain_axes(panel)
    panel.legend(frameon=False)
