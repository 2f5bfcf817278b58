"""What the paper says of its variants (Wang, Lipton and Tsvetkov 2020), claim by claim, beside what a study found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from analysis import tables
from analysis.contrasts import Asked, Average
from analysis.labels import main_metric
from analysis.reference import AVERAGE, paper_scores

if TYPE_CHECKING:
    from analysis.results import Results

NEAR = 1.0
"""Percentage points; two variants are near each other if the whole interval of their difference is closer to 0."""


class Claim(NamedTuple):
    """Something that the paper says of two variants.

    Attributes:
        text: What it says.
        asked: The difference that it is of; positive, unless `near`, where the claim holds.
        near: Whether it says that there is next to no difference.
    """

    text: str
    asked: Asked
    near: bool = False


CLAIMS = (
    Claim("mono above joint", Asked("within", "mono", "joint")),
    Claim("ffn above attn", Asked("within", "ffn", "attn")),
    Claim("adapter near joint", Asked("within", "adapter", "joint"), near=True),
    Claim("meta_adapter above joint", Asked("within", "meta_adapter", "joint")),
    Claim("ffn below joint", Asked("zero_shot", "joint", "ffn")),
    Claim("attn below joint", Asked("zero_shot", "joint", "attn")),
    Claim("adapter near joint", Asked("zero_shot", "adapter", "joint"), near=True),
    Claim("meta_adapter above adapter", Asked("zero_shot", "meta_adapter", "adapter")),
    Claim("meta_adapter above joint", Asked("zero_shot", "meta_adapter", "joint")),
)


def claims(results: Results) -> pd.DataFrame:
    """The paper's claims of which a study has both variants.

    Differences are means over all cells (language set, language, task, in main metrics) that both variants have, ours
    over the study's, the paper's over those of its pairs with all their text (not Tables 4 and 5).

    Returns:
        Columns setting, claim, ours (the difference that is positive where the claim holds, percentage points), low and
        high (its 95% interval from all sources of chance at hand), p (adjusted by Holm's method for all claims), paper,
        cells, seeds and verdict: `agrees` or `disagrees`, or `not told` where chance may have made it.
    """
    measured = results.average_differences([claim.asked for claim in CLAIMS])
    rows = [
        (
            claim.asked.setting,
            claim.text,
            *found[:4],
            _of_paper(claim.asked),
            found.cells,
            found.seeds,
            verdict(claim, found),
        )
        for claim, found in zip(CLAIMS, measured, strict=True)
        if found.cells
    ]
    columns = ["setting", "claim", "ours", "low", "high", "p", "paper", "cells", "seeds", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict(claim: Claim, found: Average) -> str:
    """Whether a study bears a claim out. Near is where the interval is within `NEAR`, and not where it is beyond."""
    if claim.near:
        if found.low > -NEAR and found.high < NEAR:
            return "agrees"
        return "disagrees" if found.low > NEAR or found.high < -NEAR else "not told"
    if not found.told:
        return "not told"
    return "agrees" if found.mean > 0 else "disagrees"


def claims_text(results: Results) -> str:
    """The claims as a table for a terminal; empty if the study has none of them."""
    frame = claims(results)
    if frame.empty:
        return ""
    shown = pd.DataFrame(
        {
            "setting": frame["setting"],
            "the paper's claim": frame["claim"],
            "ours": [tables.number(value, signed=True) for value in frame["ours"]],
            "95% interval": [
                tables.MISSING
                if pd.isna(low)
                else f"{tables.number(low, signed=True)} to {tables.number(high, signed=True)}"
                for low, high in zip(frame["low"], frame["high"], strict=True)
            ],
            "paper": [tables.number(value, signed=True) for value in frame["paper"]],
            "cells": frame["cells"],
            "here": frame["verdict"],
        }
    )
    one_seed = "test examples alone: there is one seed, and another may change more"
    sources = one_seed if frame["seeds"].max() == 1 else "seeds and, where predictions are within reach, test examples"
    return (
        "Differences that the paper's claims are of, percentage points, means over all cells\n\n"
        f"{tables.text(shown)}\n\n"
        f"Intervals are from {sources};\n"
        f"near is within {NEAR:g} point.\n"
        f"Not told: the interval leaves it open, or p > 0.05, adjusted for {len(frame)} claims by Holm's method."
    )


def _of_paper(asked: Asked) -> float:
    scores = paper_scores()
    scores = scores[
        (scores["language"] != AVERAGE) & (scores["setting"] == asked.setting) & ~scores["table"].isin((4, 5))
    ]
    scores = scores[scores["metric"] == scores["task"].map(main_metric)]
    grid = scores.drop_duplicates(["task", "variant", "languages", "language"])
    grid = grid.pivot(index=["task", "languages", "language"], columns="variant", values="value")
    return float((grid[asked.first] - grid[asked.second]).mean())
