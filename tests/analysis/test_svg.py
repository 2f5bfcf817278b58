from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import svg
from analysis.curves import MOST_POINTS, mean_curve
from analysis.sections import pareto_front
from raylab.config import VARIANTS

_NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS), min_size=1, max_size=20), st.booleans())
@settings(deadline=None)
def test_any_points_make_a_chart_inside_its_box(points: list[tuple[float, float]], named: bool) -> None:
    dots = [svg.Dot(f"<{place}>", "joint", x, y, 1.0) for place, (x, y) in enumerate(points)]
    root = ET.fromstring(svg.scatter_chart(dots, title="A & B", x_label="x", y_label="y", named=named))
    places = [
        re.match(r"translate\((\S+) (\S+)\)$", dot.get("transform", ""))
        for dot in root
        if "dot" in dot.get("class", "")
    ]
    assert len(places) == len(points)
    assert all(place and 0 <= float(place[1]) <= svg.WIDTH and 0 <= float(place[2]) <= svg.HEIGHT for place in places)


@given(st.lists(st.tuples(st.integers(0, 1000), _NUMBERS), max_size=20), st.booleans())
@settings(deadline=None)
def test_any_curve_makes_a_chart(points: list[tuple[int, float]], log: bool) -> None:
    line = svg.Line("joint", "joint", sorted(dict(points).items()))
    root = ET.fromstring(svg.line_chart([line], title="t", x_label="x", y_label="y", log_y=log))
    assert root.get("role") == "img"
    assert root.get("aria-label", "").startswith("t: y by x")


def test_ticks_are_round_and_few() -> None:
    lines = [svg.Line("a", "joint", [(0, 32.0), (2500, 410.0)])]
    texts = re.findall(
        r'class="tick"[^>]*>([^<]+)<', svg.line_chart(lines, title="", x_label="", y_label="", log_y=True)
    )
    assert texts == ["0", "1000", "2000", "30", "50", "70", "100", "150", "200", "300"]


def test_every_variant_has_a_style_of_its_own() -> None:
    styles = [svg._SERIES[variant] for variant in VARIANTS]
    assert len({dash for _, dash in styles}) == len(VARIANTS)


def test_mean_curve_interpolates_where_all_reach() -> None:
    assert mean_curve([[(0, 0.0), (10, 10.0)], [(5, 1.0), (20, 1.0)]]) == [(5, 3.0), (10, 5.5)]
    assert mean_curve([]) == mean_curve([[]]) == []


def test_a_long_curve_is_drawn_by_means() -> None:
    curve = [(step, 2.0 * step + (-1) ** step) for step in range(20, 200_001, 20)]
    drawn = mean_curve([curve, curve])
    assert len(drawn) == pytest.approx(MOST_POINTS, abs=10)
    assert drawn[-1] == curve[-1]
    assert all(value == pytest.approx(2 * step, abs=1.1) for step, value in drawn[:-1])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_front_has_every_point_that_none_beats(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    best = {
        own for own in points if not any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in points)
    }
    assert set(front) == best
    assert front == sorted(front)
