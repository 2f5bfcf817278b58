"""What a study's probes found, in sentences: the claims of the paper's Figures 3 and 4, with intervals over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis.jobs import jobs
from analysis.similarity import similarities
from analysis.statistics import mean_interval
from analysis.tables import number

if TYPE_CHECKING:
    from analysis.results import Results

_MODEL = ["variant", "languages", "seed"]


def probe_findings(results: Results) -> list[tuple[str, str]]:
    """Topics and texts: whether gradients and masks are less alike across languages, and masks less in upper layers.

    Of the joint models where any was probed, else of all; a model is a language set and seed. Intervals are Student's,
    over the seeds that all sets have, of means over sets; with one seed over the sets, taken for a sample of others.
    """
    runs = jobs(results.runs, "probe")
    found = []
    for probe, topic, what in (("gradients", "Gradients", "gradients"), ("pruning", "Masks", "masks' log alpha")):
        frame = similarities(runs, probe)
        if (frame["variant"] == "joint").any():
            frame = frame[frame["variant"] == "joint"]
        whole = frame[frame["layer"].isna() & (frame["module"] == "")]
        within, across = (_by_model(whole[whole["within"] == own]) for own in (True, False))
        if text := _compared(f"The cosine of {what} is lower across languages than within one", within, across):
            found.append((topic, text))
        inside = frame[~frame["within"].astype(bool) & (frame["module"] == "") & frame["layer"].notna()]
        lowest, highest = (inside[inside["layer"] == end] for end in (inside["layer"].min(), inside["layer"].max()))
        if probe == "pruning" and inside["layer"].nunique() > 1:
            claim = "Across languages, the cosine of masks' log alpha is lower in the highest layer than in the lowest"
            found.append(("Layers", _compared(claim, _by_model(lowest), _by_model(highest))))
    return found


def _by_model(frame: pd.DataFrame) -> pd.Series:
    return frame.groupby(_MODEL)["cosine"].mean()


def _compared(claim: str, higher: pd.Series, lower: pd.Series) -> str:
    """In how many models the second is lower, by how much on average, and how sure that is."""
    differences = (higher - lower).dropna()
    if differences.empty:
        return ""
    models, seeds = differences.unstack("seed"), differences.unstack("seed").dropna(axis="columns")
    over_seeds = seeds.shape[1] > 1
    values = seeds.mean(axis="index") if over_seeds else models.mean(axis="columns")
    mean, low, high, count = mean_interval(values.to_list())
    ours, theirs = (number(both[differences.index].mean(), 2) for both in (lower, higher))
    text = f"{claim} in {(differences > 0).sum()} of {len(differences)} model{'s' if len(differences) > 1 else ''}: "
    text += f"{ours} against {theirs} on average, a difference of {number(mean, 2, signed=True)}"
    if count > 1:
        ends = " to ".join(number(end, 2, signed=True) for end in (low, high))
        text += f", 95% interval over {count} {'seeds' if over_seeds else 'language sets, of one seed'} {ends}"
    else:
        text += "; of one model there is no interval"
    return f"{text.replace(' -', ' −')}."
