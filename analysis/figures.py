"""Figures of a study, in colours that colour-blind readers tell apart; drawn without a display."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.contrasts import with_all_sources
from analysis.labels import main_metric, metric_label, task_label
from analysis.study import Study
from analysis.tables import number

# Okabe and Ito's palette, without its yellow, which is faint on white; the last three are Tol's.
_STYLES = {
    "joint": ("#0072B2", "o"),
    "ffn": ("#D55E00", "s"),
    "attn": ("#E69F00", "^"),
    "adapter": ("#009E73", "D"),
    "shared_adapter": ("#56B4E9", "v"),
    "meta_adapter": ("#CC79A7", "P"),
    "norm": ("#332288", "<"),
    "pcgrad": ("#882255", "*"),
    "gradvac": ("#999933", "p"),
    "external": ("#000000", "X"),
}
PALETTE = tuple(colour for colour, _ in _STYLES.values())
"""Colours that colour-blind readers tell apart, for what is no variant; the first ones differ most."""

_MONO = ("#8C8C8C", "h")
_DIVERGING = "RdBu_r"
_MISSING_COLOUR = "#E6E6E6"
_DOTS_PER_INCH = 200
_WITHOUT_DATE: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def interference_heatmap(frame: pd.DataFrame, study: Study) -> Figure:
    """Mono minus each variant, a panel a task: languages of each set down, variants across.

    Red is interference, blue a gain; a second line has half the width of the interval from all sources of chance at
    hand, where there is one.

    Args:
        frame: What `analysis.interference.interference` returns; only main metrics are drawn.
        study: The study's outline.
    """
    frame = with_all_sources(frame[frame["metric"] == frame["task"].map(main_metric)])
    tasks = [task for task in study.tasks if task in set(frame["task"])]
    variants = [variant for variant in study.variants if variant in set(frame["variant"])]
    known = set(frame[["languages", "language"]].itertuples(index=False, name=None))
    places = [("-".join(languages), language) for languages in study.language_sets for language in languages]
    places = [place for place in places if place in known]
    furthest = max(1.0, frame["difference"].abs().max())  # a study without interference looks pale
    scale = Normalize(-furthest, furthest)

    width = max(5.5, 1.9 + len(tasks) * (0.4 + 0.8 * len(variants)))
    figure = Figure(figsize=(width, 1.9 + 0.5 * len(places)), layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        _draw_cells(panel, frame[frame["task"] == task], places, variants, scale)
        panel.set_title(task_label(task))
    panels[0].set_yticks(range(len(places)), [f"{language}  in  {languages}" for languages, language in places])
    colours = figure.colorbar(
        panels[0].images[0],
        ax=panels,
        location="bottom",
        shrink=min(1.0, 4.5 / width),
        aspect=35,
        pad=0.03,
        ticks=MaxNLocator(6),
    )
    label = "mono − model, test score (percentage points)\n← gain from training together      interference →"
    if frame["high"].notna().any():
        basis = " and ".join(dict.fromkeys(name for name in frame["basis"] if name))
        label += f"\n±: half the width of the 95% interval from {basis}"
    colours.set_label(label)
    colours.outline.set_visible(False)
    figure.suptitle(f"Negative interference within language, study {study.name}")
    return figure


def tradeoff_scatter(frame: pd.DataFrame, study: Study) -> Figure:
    """Within-language against zero-shot score, a panel a task and a point a variant; mono is a line.

    Where there are several seeds, bars are standard deviations over them.

    Args:
        frame: What `analysis.tradeoff.tradeoff` returns.
        study: The study's outline.
    """
    tasks = [task for task in study.tasks if task in set(frame["task"])]
    figure = Figure(figsize=(max(5.0, 0.4 + 3.8 * len(tasks)), 4.8), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for panel, task in zip(panels, tasks, strict=True):
        points = frame[frame["task"] == task]
        _draw_points(panel, points)
        metric = metric_label(main_metric(task))
        targets = points["targets"].iloc[0]
        panel.set_title(
            f"{task.upper()}, {'mean over ' if ',' in targets else ''}{targets}", fontsize="medium", wrap=True
        )
        panel.set_xlabel(f"within-language test {metric} (%)")
        panel.set_ylabel(f"zero-shot test {metric} (%)")
    entries = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    names = [variant for variant in study.variants if variant in entries]
    figure.legend(
        [entries[name] for name in names],
        names,
        loc="outside lower center",
        ncols=min(max(3, 2 * len(tasks)), len(names)),
        frameon=False,
    )
    figure.suptitle(f"Within language against zero-shot, study {study.name}\n(up and to the right is better)")
    return figure


def variant_style(variant: str) -> tuple[str, str]:
    """Colour and marker of a variant in every figure."""
    return _STYLES.get(variant, _MONO)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as what its name ends in (png, svg, pdf); of the same data always the same file."""
    if path.suffix == ".png":
        path.write_bytes(png(figure))
    else:
        figure.savefig(path, metadata=_WITHOUT_DATE[path.suffix])


@lru_cache(maxsize=16)
def png(figure: Figure) -> bytes:
    """A figure as PNG, drawn once for the file and the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _draw_cells(
    panel: Axes, frame: pd.DataFrame, places: list[tuple[str, str]], variants: list[str], scale: Normalize
) -> None:
    cells = {(cell["languages"], cell["language"], cell["variant"]): cell for cell in frame.to_dict("records")}
    values = np.full((len(places), len(variants)), np.nan)
    for row, (languages, language) in enumerate(places):
        for column, variant in enumerate(variants):
            cell = cells.get((languages, language, variant), {"difference": np.nan, "high": np.nan})
            values[row, column] = cell["difference"]
            label = number(cell["difference"], signed=True).replace("-", "−")
            if not np.isnan(cell["high"]):
                label += f"\n±{number((cell['high'] - cell['low']) / 2)}"
            # White on the dark ends of the map.
            colour = "white" if abs(scale(values[row, column]) - 0.5) > 0.33 else "black"
            panel.text(column, row, label, ha="center", va="center", color=colour, fontsize="small", linespacing=0.95)
    panel.imshow(np.ma.masked_invalid(values), cmap=colormaps[_DIVERGING], norm=scale, aspect="auto")
    panel.set_facecolor(_MISSING_COLOUR)
    panel.set_xticks(range(len(variants)), variants, rotation=30, ha="right", rotation_mode="anchor")
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    for row in range(1, len(places)):
        between_sets = places[row][0] != places[row - 1][0]
        panel.axhline(row - 0.5, color="white", linewidth=5 if between_sets else 1)
    for column in range(1, len(variants)):
        panel.axvline(column - 0.5, color="white", linewidth=1)


def _draw_points(panel: Axes, points: pd.DataFrame) -> None:
    for point in points.to_dict("records"):
        within, zero_shot = point["within"], point["zero_shot"]
        if np.isnan(zero_shot):
            panel.axvline(within, color="#666666", linestyle="--", linewidth=1.2, label=point["variant"], zorder=1)
            continue
        colour, marker = _STYLES[point["variant"]]
        panel.scatter(
            within,
            zero_shot,
            s=100,
            color=colour,
            marker=marker,
            edgecolor="white",
            linewidth=0.5,
            label=point["variant"],
            zorder=3,
        )
        if not np.isnan(point["within_deviation"]):
            bars = {"xerr": point["within_deviation"], "yerr": point["zero_shot_deviation"]}
            panel.errorbar(within, zero_shot, **bars, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2.5, zorder=2)
    panel.margins(0.12)
    panel.locator_params(nbins=6)
    panel.grid(color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
