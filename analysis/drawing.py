"""Parts of figures that several of them have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.typing import LineStyleType

_ACROSS = 3  # panels in one row


def draw_curve(panel: Axes, curve: pd.DataFrame, colour: str, label: str, style: LineStyleType) -> None:
    """A line of value by step, with a band from low to high where these differ."""
    panel.plot(curve["step"], curve["value"], color=colour, linestyle=style, linewidth=1.6, label=label)
    if (curve["high"] > curve["low"]).any():
        panel.fill_between(curve["step"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0)


def panel_grid(count: int, *, shared: bool, single: tuple[float, float] = (5.6, 4.0)) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, three in a row; `single`: size in inches where there is one."""
    across = min(count, _ACROSS)
    down = -(-count // across)
    size = single if count == 1 else (3.2 * across + 0.6, 2.5 * down + 1.1)
    drawing = Figure(figsize=size, layout="constrained")
    panels = drawing.subplots(down, across, sharey=shared, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.set_axis_off()
    return drawing, panels[:count]


def outer_labels(panels: Sequence[Axes], x: str, y: str) -> None:
    """Label the axes at the left and at the bottom of a grid."""
    across = min(len(panels), _ACROSS)
    for place, panel in enumerate(panels):
        if place + across >= len(panels):
            panel.set_xlabel(x)
        if place % across == 0:
            panel.set_ylabel(y)


def draw_legend(place: Any, panels: Sequence[Axes], where: str, across: int) -> None:
    """One legend of all panels."""
    entries: dict[str, Line2D] = {}
    for panel in panels:
        entries |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    place.legend(entries.values(), entries.keys(), loc=where, ncols=min(across, len(entries)), frameon=False)


def few_ticks(panel: Axes) -> None:
    """At most four steps of the x axis are labelled: large numbers are wide."""
    panel.xaxis.set_major_locator(MaxNLocator(4))


def plain_logarithm(axis: Axis) -> None:
    """Numbers in full at 1, 2, 3 and 5 of each power of ten, where powers alone would leave an axis without any."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def plain_axes(panel: Axes) -> None:
    """Horizontal lines behind what is drawn, and no frame."""
    panel.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
