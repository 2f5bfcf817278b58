"""The interference matrix for the page: cells with their colour and everything that is to be said of them."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.contrasts import told, with_all_sources
from analysis.labels import main_metric, task_label
from analysis.study import Study
from analysis.tables import MISSING, number

STRONGEST = 62
"""Percent of the full colour in the furthest cell: text stays readable on it."""


@dataclass(frozen=True)
class HeatCell:
    """One difference.

    Attributes:
        text: The difference, signed, or a dash.
        half: `±` and half the width of its interval, or "".
        side: `harm`, `gain`, or `none` where there is no number.
        weight: Percent of the colour of its side.
        told: Whether its interval excludes 0.
        remark: All of it in words.
    """

    text: str
    half: str
    side: str
    weight: int
    told: bool
    remark: str


@dataclass(frozen=True)
class HeatRow:
    """A language of a set; `span` is how many rows the set has where this is its first, else 0."""

    languages: str
    language: str
    span: int
    cells: list[HeatCell]


@dataclass(frozen=True)
class HeatPanel:
    """One task's matrix."""

    title: str
    variants: list[str]
    rows: list[HeatRow]


def heat_panels(frame: pd.DataFrame, study: Study) -> list[HeatPanel]:
    """A panel a task: languages of each set down, variants across, one scale of colour for all.

    Args:
        frame: What `Results.interference` returns; only main metrics are shown.
        study: The study's outline.
    """
    frame = frame[frame["metric"] == frame["task"].map(main_metric)]
    frame = with_all_sources(frame).assign(told=told(frame))
    furthest = furthest_difference(frame)
    variants = [variant for variant in study.variants if variant in set(frame["variant"])]
    panels = []
    for task in study.tasks:
        records = frame[frame["task"] == task].to_dict("records")
        known = {(row["languages"], row["language"], row["variant"]): row for row in records}
        rows = []
        for languages in study.language_sets:
            name = "-".join(languages)
            present = [lang for lang in languages if any((name, lang, variant) in known for variant in variants)]
            for place, language in enumerate(present):
                cells = [_cell(known.get((name, language, variant)), furthest) for variant in variants]
                rows.append(HeatRow(name, language, 0 if place else len(present), cells))
        if rows:
            panels.append(HeatPanel(task_label(task), variants, rows))
    return panels


def furthest_difference(frame: pd.DataFrame) -> float:
    """Percentage points at the ends of the scale of colour, at least 1: a study without interference looks pale.

    Args:
        frame: What `Results.interference` returns.
    """
    return float(max(1.0, frame.loc[frame["metric"] == frame["task"].map(main_metric), "difference"].abs().max()))


def _cell(row: dict | None, furthest: float) -> HeatCell:
    if row is None or pd.isna(row["difference"]):
        return HeatCell(MISSING, "", "none", 0, False, "no score of this model, or none of mono")
    difference, low, high = row["difference"], row["low"], row["high"]
    clear = bool(row["told"])
    remark = f"mono {number(row['mono'])}%, {row['variant']} {number(row['score'])}%, {row['seeds']:.0f} seeds"
    if pd.notna(low):
        remark += f", 95% interval {number(low, signed=True)} to {number(high, signed=True)}"
    if pd.notna(low) or clear:
        remark += ": can be told from 0" if clear else ": cannot be told from 0"
    return HeatCell(
        text=_minus(number(difference, signed=True)),
        half=f"±{number((high - low) / 2)}" if pd.notna(low) else "",
        side="harm" if difference > 0 else "gain",
        weight=round(STRONGEST * min(1.0, abs(difference) / furthest)),
        told=clear,
        remark=_minus(remark),
    )


def _minus(text: str) -> str:
    return text.replace("-", "−")
