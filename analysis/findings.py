"""What a study found, in sentences: each is drawn from the numbers, and left out where they do not bear it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from analysis.contrasts import CELL, Asked, Average, above_joint, cell_scores, told, with_all_sources
from analysis.labels import main_metric, task_label
from analysis.probe_findings import probe_findings
from analysis.summary import renamed_metrics
from analysis.tables import number

if TYPE_CHECKING:
    from analysis.results import Results


_FLOOR = 2.0
"""Percent; a model that scores less on everything has learnt nothing that could be compared."""


class Finding(NamedTuple):
    """A finding.

    Attributes:
        topic: A word or two, to find it by.
        text: One to three sentences.
    """

    topic: str
    text: str


@lru_cache(maxsize=2)
def findings(results: Results) -> tuple[Finding, ...]:
    """The findings of a study, the main one first."""
    frame = with_all_sources(results.interference())
    frame = frame[frame["metric"] == frame["task"].map(main_metric)]
    averages = above_joint(results)
    within, zero_shot = (
        {variant: average for (of, variant), average in averages.items() if of == setting}
        for setting in ("within", "zero_shot")
    )
    probed = probe_findings(results)
    found = [
        *([] if probed and not results.study.tasks else _interference(results, frame, within.get("mono"))),
        *(Finding("Metrics", text) for text in renamed_metrics(results)),
        *_worst(results, frame),
        *_mended(results, within),
        *_transfer(zero_shot),
        *_front(within, zero_shot),
        *(Finding(topic, text) for topic, text in probed),
        *_doubts(results, frame),
    ]
    return tuple(found)


def _interference(results: Results, frame: pd.DataFrame, average: Average | None) -> list[Finding]:
    cells = frame[(frame["variant"] == "joint")].dropna(subset="difference")
    if cells.empty or average is None:
        there = set(results.best()["variant"])
        missing = [name for name in ("mono", "joint") if name not in there]
        lack = f"the study has no scores of {' and '.join(missing)}" if missing else "no language has scores of both"
        text = f"Whether languages hurt each other cannot be told: {lack}."
        if not renamed_metrics(results):
            text += f" What is missing may come by: {results.study.command(['mono', 'joint'])}"
        return [Finding("Interference", text)]
    mean = average.mean
    if _is_zero(mean):
        verdict = "Within language, the joint models score as the monolingual ones do, on average"
    elif mean > 0:
        verdict = f"Within language, the joint models score {_points(mean)} lower than the monolingual ones on average"
    else:
        verdict = (
            f"Within language, the joint models score {_points(-mean)} higher than the monolingual ones on average"
        )
    text = f"{verdict} (mono minus joint {_over(average)}). "
    clear = cells[told(cells)]
    lost, won = int((clear["difference"] > 0).sum()), int((clear["difference"] < 0).sum())
    if cells["low"].isna().all():
        worse, better = int((cells["difference"] > 0).sum()), int((cells["difference"] < 0).sum())
        text += f"Of {_many(len(cells), 'cell')} (a language and task of a set) {worse} are lower and {better} higher, "
        text += "without intervals by which to tell these from chance."
    else:
        text += (
            f"Of {_many(len(cells), 'cell')} (a language and task of a set) {lost} can be told to lose and {won} to "
        )
        text += f"gain (corrected for the number of comparisons); {len(cells) - lost - won} cannot be told from 0."
    return [Finding("Interference", text)]


def _worst(results: Results, frame: pd.DataFrame) -> list[Finding]:
    cells = frame[frame["variant"] == "joint"].dropna(subset="difference")
    if cells.empty:
        return []
    found = []
    names = list(dict.fromkeys(cells["languages"]))
    asked = [Asked("within", "mono", "joint", name) for name in names]
    losses = dict(zip(names, results.average_differences(asked), strict=True))
    order = sorted((name for name in names if losses[name].cells), key=lambda name: -losses[name].mean)
    if len(order) > 1:
        most, least = (losses[order[place]] for place in (0, -1))
        if most.mean > 0:
            text = f"{order[0]} loses most on average over its languages and tasks ({_over(most)}). "
            text += _told(most, "this loss")
        else:
            text = "No set loses on average over its languages and tasks."
        how = "gains most" if most.mean <= 0 else "gains" if least.mean < 0 else "loses least"
        text += f" {order[-1]} {how} ({_over(least)})."
        found.append(Finding("Language sets", text))
    worst = cells.nlargest(1, "difference").iloc[0]
    if worst["difference"] > 0:
        score = f"{number(worst['score'])}% against {number(worst['mono'])}% alone"
        text = f"The largest loss is of {worst['language']} in {worst['languages']} on {task_label(worst['task'])}: "
        text += f"{_points(worst['difference'])} ({score}{_between(worst['low'], worst['high'])}). "
        if worst["verdict"] == "unknown":
            text += f"Whether it is chance is not known: {worst['reason']}."
        else:
            clear = worst["verdict"] == "interference"
            text += f"Corrected for all comparisons, this loss {'can' if clear else 'cannot'} be told from 0."
        found.append(Finding("Largest loss", text))
    return found


def _mended(results: Results, within: Mapping[str, Average]) -> list[Finding]:
    gains = {variant: gain for variant, gain in within.items() if variant != "mono"}
    lost = within.get("mono")
    if not gains or lost is None:
        return []
    best = max(gains, key=lambda variant: gains[variant].mean)
    gain = gains[best]
    if gain.mean <= 0:
        return [
            Finding(
                "Mending",
                f"No variant scores above the joint models within language; {best} comes nearest ({_over(gain)}).",
            )
        ]
    text = f"{best} scores highest of the variants within language, {_points(gain.mean)} above joint ({_over(gain)})"
    if lost.told and lost.mean > 0 and lost.cells == gain.cells:  # a share of what may be 0 means nothing
        text += f": {gain.mean / lost.mean:.0%} of what joint loses to mono"
    text += ". " + _told(gain, "this gain")
    others = [variant for variant in gains if variant != best]
    between = results.average_differences([Asked("within", best, variant) for variant in others])
    unclear = [variant for variant, difference in zip(others, between, strict=True) if not difference.told]
    if unclear:
        text += f" It cannot be told from {_list(unclear)}."
    worse = [variant for variant, own in gains.items() if own.told and own.mean < 0]
    if worse:
        text += f" Below joint: {_list(worse)}."
    return [Finding("Mending", text)]


def _transfer(zero_shot: Mapping[str, Average]) -> list[Finding]:
    if not zero_shot:
        return []
    best = max(zero_shot, key=lambda variant: zero_shot[variant].mean)
    worst = min(zero_shot, key=lambda variant: zero_shot[variant].mean)
    top, bottom = zero_shot[best], zero_shot[worst]
    if top.mean > 0:
        text = f"{best} transfers best: {_points(top.mean)} above joint in zero-shot ({_over(top)}). "
        text += _told(top, "this gain")
    else:
        text = f"No variant transfers better than joint; {best} comes nearest ({_over(top)})."
    if worst != best and bottom.mean < 0:
        text += f" {worst} transfers worst, {_points(-bottom.mean)} below joint ({_over(bottom)}). "
        text += _told(bottom, "this loss")
    return [Finding("Transfer", text)]


def _front(within: Mapping[str, Average], zero_shot: Mapping[str, Average]) -> list[Finding]:
    change = {name: (within[name], zero_shot[name]) for name in within if name in zero_shot}
    if not change:
        return []
    both = [name for name, (alone, across) in change.items() if alone.mean > 0 and across.mean > 0]
    traded = [name for name, (alone, across) in change.items() if alone.mean > 0 > across.mean]
    parts = []
    if both:
        parts.append(f"Better than joint both within language and in zero-shot: {_list(both)}")
    else:
        parts.append("No variant is better than joint both within language and in zero-shot")
    if traded:
        parts.append(f"Better within language at the price of transfer: {_list(traded)}")
    clear = [name for name in (*both, *traded) if all(difference.told for difference in change[name])]
    if both or traded:
        parts.append(f"Both differences can be told from 0 for {_list(clear)}" if clear else _NEITHER_TOLD)
    return [Finding("Trade-off", ". ".join(parts) + ".")]


_NEITHER_TOLD = "For none of these can both differences be told from 0"


def _doubts(results: Results, frame: pd.DataFrame) -> list[Finding]:
    known = frame.dropna(subset="difference")
    if known.empty:
        return []
    parts = []
    most = int(known["seeds"].max())
    if known["low"].isna().all():
        parts.append("There is one seed, so nothing here says how much another seed would change.")
    else:
        count = int(known["low"].notna().sum())
        if most == 1:
            parts.append("There is one seed: intervals are from test examples alone, and another seed may change more.")
        else:
            examples = " and of test examples" if (known["examples"] > 0).any() else ", not of test examples"
            parts.append(f"Intervals in the matrix are of at most {_many(most, 'seed')}{examples}.")
        parts.append(f"What counts as told in the matrix is corrected for {_many(count, 'comparison')}.")
    if floor := _floor(results):
        parts.append(floor)
    if missing := len(frame) - len(known):
        parts.append(f"{_many(missing, 'cell')} of the matrix {'is' if missing == 1 else 'are'} missing.")
    return [Finding("Doubt", " ".join(parts))]


def _floor(results: Results) -> str:
    """How many cells no model has learnt anything of; empty if there are none."""
    best = results.best()
    best = best[best["metric"] == best["task"].map(main_metric)]
    cells = []
    for setting, words in (("within", "within language"), ("zero_shot", "in zero-shot")):
        scores = cell_scores(best, results.study, setting)
        highest = scores.groupby([*CELL, "variant"])["value"].mean().groupby(CELL).max()
        if below := int((highest < _FLOOR).sum()):
            cells.append(f"{below} of {_many(len(highest), 'cell')} {words}")
    if not cells:
        return ""
    return f"In {' and '.join(cells)} every model scores below {_FLOOR:g}%: differences there say nothing."


def _told(average: Average, what: str) -> str:
    if pd.isna(average.p):
        return (
            f"With one seed, {what} may be chance." if average.seeds == 1 else f"Whether {what} is chance is not known."
        )
    return f"Corrected for the number of comparisons, {what} {'can' if average.told else 'cannot'} be told from 0."


def _over(average: Average) -> str:
    """`+1.6, 95% interval +1.2 to +2.0, 3 seeds, 36 cells`."""
    mean, low, high, _, seeds, cells = average
    interval = f", 95% interval {number(low, signed=True)} to {number(high, signed=True)}" if pd.notna(low) else ""
    return f"{number(mean, signed=True)}{interval}, {_many(seeds, 'seed')}, {_many(cells, 'cell')}".replace("-", "−")


def _between(low: float, high: float) -> str:
    if pd.isna(low):
        return ""
    return f", 95% interval of the loss {number(low, signed=True)} to {number(high, signed=True)}".replace("-", "−")


def _points(value: float) -> str:
    shown = number(value)
    return f"{shown} point" if shown == "1.0" else f"{shown} points"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is_zero(value: float) -> bool:
    return abs(value) < 0.05
