"""Small charts as inline SVG, for the page: text stays text, and the page's style sheet gives the colours.

Each is as wide as a phone, so that several stand side by side on a screen. Hovering over a mark shows its numbers.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 250
_SMALLEST = 1e-100  # that a logarithmic axis shows
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 30, 42

_SHAPES = {
    "circle": "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z",
    "square": "M-4,-4H4V4H-4Z",
    "up": "M0,-5L5,4H-5Z",
    "diamond": "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
    "down": "M0,5L5,-4H-5Z",
    "plus": "M-1.8,-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
    "left": "M-5,0L4,-5V5Z",
    "star": "M0,-6L1.6,-1.8L6,-1.8L2.5,1L3.8,5.2L0,2.7L-3.8,5.2L-2.5,1L-6,-1.8L-1.6,-1.8Z",
    "pentagon": "M0,-5L4.8,-1.5L2.9,4H-2.9L-4.8,-1.5Z",
    "cross": "M-4.5,-2.5L-2.5,-4.5L0,-2L2.5,-4.5L4.5,-2.5L2,0L4.5,2.5L2.5,4.5L0,2L-2.5,4.5L-4.5,2.5L-2,0Z",
}
# Colours are the style sheet's; a shape and a dash of its own tell each series apart without them.
_SERIES = {
    "mono": ("circle", "5 3"),
    "joint": ("circle", ""),
    "ffn": ("square", "8 2"),
    "attn": ("up", "2 2"),
    "adapter": ("diamond", "8 2 2 2"),
    "shared_adapter": ("down", "4 2"),
    "meta_adapter": ("plus", "12 3"),
    "norm": ("left", "1 2"),
    "pcgrad": ("star", "6 2 1 2"),
    "gradvac": ("pentagon", "3 1"),
    "external": ("cross", "1 3"),
}


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        label: What it is called.
        series: Name of a style, such as a variant.
        points: x and y, by x.
    """

    label: str
    series: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Dot:
    """A mark with optional error bars.

    Attributes:
        label: What it is called; shown beside it where the chart names its dots.
        series: Name of a style, such as a variant.
        x: Where, across.
        y: Where, up.
        x_error: Half the length of the bar; NaN: none.
        y_error: Likewise.
    """

    label: str
    series: str
    x: float
    y: float
    x_error: float = math.nan
    y_error: float = math.nan


def line_chart(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, log_y: bool = False, zero: bool = False
) -> str:
    """Curves in one frame; `zero` draws the line y = 0."""
    points = [(x, y) for line in lines for x, y in line.points if math.isfinite(y) and (y > _SMALLEST or not log_y)]
    frame = _Frame([x for x, _ in points], [y for _, y in points] + [0.0] * zero, log_y=log_y)
    parts = [frame.axes(x_label, y_label)]
    if zero:
        parts.append(frame.rule(0.0))
    for line in lines:
        path = "L".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line.points if frame.has(y))
        if path:
            dash = _SERIES.get(line.series, ("circle", ""))[1]
            last = next(y for _, y in reversed(line.points) if frame.has(y))
            parts.append(
                f'<path class="line {_class(line.series)}" d="M{path}" stroke-dasharray="{dash}">'
                f"<title>{html.escape(line.label)}: {last:.3g} at the end</title></path>"
            )
    ends = ", ".join(f"{line.label} {line.points[-1][1]:.3g}" for line in lines if line.points)
    return _svg(title, f"{title}: {y_label} by {x_label}; at the end {ends}", parts)


def scatter_chart(
    dots: Sequence[Dot],
    *,
    title: str,
    x_label: str,
    y_label: str,
    front: Iterable[tuple[float, float]] = (),
    verticals: Sequence[tuple[str, float]] = (),
    log_x: bool = False,
    named: bool = False,
) -> str:
    """Dots in one frame.

    Args:
        dots: What to draw.
        title: Above it.
        x_label: Below it.
        y_label: At its left.
        front: Corners of a line to draw, such as a Pareto front.
        verticals: Labels and places of vertical lines.
        log_x: Whether x is logarithmic.
        named: Whether each dot's label stands beside it.
    """
    frame = _Frame(
        [x for dot in dots for x in _reach(dot.x, dot.x_error)] + [x for _, x in verticals],
        [y for dot in dots for y in _reach(dot.y, dot.y_error)],
        log_x=log_x,
    )
    parts = [frame.axes(x_label, y_label)]
    for label, x in verticals:
        place = f"{frame.x(x):.1f}"
        parts.append(
            f'<path class="line {_class(label)}" stroke-dasharray="5 3" d="M{place},{_TOP}V{HEIGHT - _BOTTOM}">'
            f"<title>{html.escape(label)}: {x:.1f}</title></path>"
            f'<text class="mark" x="{place}" y="{_TOP + 10}" dx="-4" text-anchor="end">{html.escape(label)}</text>'
        )
    corners = "L".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in front)
    if corners.count("L"):
        parts.append(f'<path class="front" d="M{corners}"><title>Pareto front</title></path>')
    names = _Names(frame, [(label, frame.x(x)) for label, x in verticals], dots)
    for dot in dots:
        parts.append(_bars(dot, frame))
        shape = _SHAPES[_SERIES.get(dot.series, ("circle", ""))[0]]
        parts.append(
            f'<path class="dot {_class(dot.series)}" d="{shape}" '
            f'transform="translate({frame.x(dot.x):.1f} {frame.y(dot.y):.1f})">'
            f"<title>{html.escape(dot.label)}: {dot.x:.4g}, {dot.y:.4g}</title></path>"
        )
        if named:
            parts.append(names.place(dot))
    shown = "; ".join(f"{dot.label} {dot.x:.1f}, {dot.y:.1f}" for dot in dots[:12])
    return _svg(title, f"{title}: {y_label} against {x_label}: {shown}", parts)


def legend(series: Sequence[str]) -> str:
    """Swatches of the series, each a line and a mark, as an HTML list."""
    items = []
    for name in series:
        shape, dash = _SERIES.get(name, ("circle", ""))
        items.append(
            f'<li><svg width="34" height="14" aria-hidden="true"><path class="line {_class(name)}" d="M0,7H34" '
            f'stroke-dasharray="{dash}"/><path class="dot {_class(name)}" d="{_SHAPES[shape]}" '
            f'transform="translate(17 7)"/></svg>{html.escape(name)}</li>'
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


class _Frame:
    """Axes, and where a value lies in them."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], *, log_x: bool = False, log_y: bool = False) -> None:
        self._log_x, self._log_y = log_x, log_y
        self._xs, self._ys = _range(xs, log_x), _range(ys, log_y)

    def x(self, value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * _share(value, self._xs, self._log_x)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * _share(value, self._ys, self._log_y)

    def has(self, y: float) -> bool:
        return math.isfinite(y) and (y > _SMALLEST or not self._log_y)

    def rule(self, y: float) -> str:
        return f'<path class="rule" d="M{_LEFT},{self.y(y):.1f}H{WIDTH - _RIGHT}"/>'

    def axes(self, x_label: str, y_label: str) -> str:
        bottom, parts = HEIGHT - _BOTTOM, []
        for tick, label in _ticks(self._xs, self._log_x, 5):
            place = f"{self.x(tick):.1f}"
            parts.append(f'<path class="grid" d="M{place},{_TOP}V{bottom}"/>')
            parts.append(f'<text class="tick" x="{place}" y="{bottom + 14}" text-anchor="middle">{label}</text>')
        for tick, label in _ticks(self._ys, self._log_y, 6):
            place = f"{self.y(tick):.1f}"
            parts.append(f'<path class="grid" d="M{_LEFT},{place}H{WIDTH - _RIGHT}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{place}" dy="4" text-anchor="end">{label}</text>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(
            f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_label)}</text>'
        )
        parts.append(
            f'<text class="axis" transform="translate(12 {(_TOP + bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{html.escape(y_label)}</text>'
        )
        return "".join(parts)


class _Names:
    """Puts labels beside dots, where no other label and no dot stands."""

    def __init__(self, frame: _Frame, verticals: Sequence[tuple[str, float]], dots: Sequence[Dot]) -> None:
        self._frame = frame
        # Left, right and baseline.
        self._taken = [(x - 6.1 * len(label) - 4, x + 2, _TOP + 10.0) for label, x in verticals]
        self._taken += [(frame.x(dot.x) - 6, frame.x(dot.x) + 6, frame.y(dot.y) + 4) for dot in dots]

    def place(self, dot: Dot) -> str:
        x, y, width = self._frame.x(dot.x), self._frame.y(dot.y), 6.1 * len(dot.label)
        best = None
        for down, side in ((4, 1), (4, -1), (-9, 1), (17, 1), (-9, -1), (17, -1), (-20, 1), (28, 1)):
            left = x + 8 if side > 0 else x - 8 - width
            if left < _LEFT or left + width > WIDTH:
                continue
            best = best or (left, down)
            if all(
                left > other[1] or left + width < other[0] or abs(y + down - other[2]) > 10 for other in self._taken
            ):
                best = (left, down)
                break
        left, down = best or (WIDTH - width, 4)
        self._taken.append((left, left + width, y + down))
        return f'<text class="mark" x="{left:.1f}" y="{y + down:.1f}">{html.escape(dot.label)}</text>'


def _svg(title: str, description: str, parts: Sequence[str]) -> str:
    heading = f'<text class="title" x="{_LEFT}" y="18">{html.escape(title)}</text>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(description)}">'
        f"{heading}{''.join(parts)}</svg>"
    )


def _bars(dot: Dot, frame: _Frame) -> str:
    path = ""
    if math.isfinite(dot.x_error):
        path += f"M{frame.x(dot.x - dot.x_error):.1f},{frame.y(dot.y):.1f}H{frame.x(dot.x + dot.x_error):.1f}"
    if math.isfinite(dot.y_error):
        path += f"M{frame.x(dot.x):.1f},{frame.y(dot.y - dot.y_error):.1f}V{frame.y(dot.y + dot.y_error):.1f}"
    return f'<path class="error {_class(dot.series)}" d="{path}"/>' if path else ""


def _reach(value: float, error: float) -> list[float]:
    return [value - error, value + error] if math.isfinite(error) else [value]


def _class(series: str) -> str:
    return "s-" + "".join(letter if letter.isalnum() else "-" for letter in series)


def _range(values: Sequence[float], log: bool) -> tuple[float, float]:
    shown = [value for value in values if math.isfinite(value) and (value > _SMALLEST or not log)]
    known = shown or [1.0 if log else 0.0]
    low, high = min(known), max(known)
    if log:
        margin = (high / low) ** 0.05 if high > low else 2.0
        return low / margin, high * margin
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _share(value: float, ends: tuple[float, float], log: bool) -> float:
    low, high = ends
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _ticks(ends: tuple[float, float], log: bool, count: int) -> list[tuple[float, str]]:
    """Round numbers inside, about `count` of them."""
    low, high = ends
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            ticks = [factor * 10.0**decade for decade in decades for factor in factors]
            ticks = [tick for tick in ticks if low <= tick <= high]
            if len(ticks) <= count + 1:
                break
        return [(tick, f"{tick:g}") for tick in ticks]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [(place * step, f"{round(place * step, 10):g}") for place in range(first, math.floor(high / step) + 1)]
