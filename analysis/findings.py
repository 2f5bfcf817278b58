"""What a study found, in sentences: each is drawn from the numbers, and left out where they do not bear it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from analysis.contrasts import Average, average_difference, cells_of, told, with_all_sources
from analysis.labels import main_metric, task_label
from analysis.statistics import excludes_zero
from analysis.tables import number

if TYPE_CHECKING:
    from analysis.results import Results


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
    within, zero_shot = (cells_of(results, setting) for setting in ("within", "zero_shot"))
    found = [
        *_interference(frame, within),
        *_worst(frame),
        *_mended(results, within),
        *_transfer(results, zero_shot),
        *_front(results, within, zero_shot),
        *_doubts(results, frame),
    ]
    return tuple(found)


def _interference(frame: pd.DataFrame, within: pd.DataFrame) -> list[Finding]:
    cells = frame[(frame["variant"] == "joint")].dropna(subset="difference")
    average = average_difference(within, "mono", "joint")
    if cells.empty or not average.cells:
        missing = [name for name in ("mono", "joint") if name not in set(within["variant"])]
        lack = f"the study has no scores of {' and '.join(missing)}" if missing else "no language has scores of both"
        return [Finding("Interference", f"Whether languages hurt each other cannot be told: {lack}.")]
    mean = average.interval.mean
    if _is_zero(mean):
        verdict = "Within language, the joint models score as the monolingual ones do, on average"
    elif mean > 0:
        verdict = f"Within language, the joint models score {_points(mean)} lower than the monolingual ones on average"
    else:
        verdict = (
            f"Within language, the joint models score {_points(-mean)} higher than the monolingual ones on average"
        )
    text = f"{verdict} ({_mono_minus(average)}). "
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


def _worst(frame: pd.DataFrame) -> list[Finding]:
    cells = frame[frame["variant"] == "joint"].dropna(subset="difference")
    if cells.empty:
        return []
    sets = cells.groupby("languages", sort=False)["difference"].mean().sort_values(ascending=False)
    worst = cells.nlargest(1, "difference").iloc[0]
    found = []
    if len(sets) > 1 and sets.iloc[0] > 0:
        text = f"{sets.index[0]} loses most, {_points(sets.iloc[0])} on average over its languages and tasks"
        if sets.iloc[-1] < 0:
            text += f"; {sets.index[-1]} gains, {_points(-sets.iloc[-1])}"
        else:
            text += f"; {sets.index[-1]} loses least, {_points(sets.iloc[-1])}"
        found.append(Finding("Pairs", text + "."))
    elif len(sets) > 1:
        text = "No set loses on average over its languages and tasks; "
        text += f"{sets.index[-1]} gains most, {_points(-sets.iloc[-1])}."
        found.append(Finding("Pairs", text))
    if worst["difference"] > 0:
        score = f"{number(worst['score'])}% against {number(worst['mono'])}% alone"
        text = f"The largest loss is of {worst['language']} in {worst['languages']} on {task_label(worst['task'])}: "
        text += f"{_points(worst['difference'])} ({score}{_between(worst['low'], worst['high'])}). "
        clear = worst["verdict"] == "interference"
        text += f"Corrected for all comparisons, this loss {'can' if clear else 'cannot'} be told from 0."
        found.append(Finding("Largest loss", text))
    return found


def _mended(results: Results, within: pd.DataFrame) -> list[Finding]:
    lost = average_difference(within, "mono", "joint")
    others = [variant for variant in results.study.variants if variant not in ("mono", "joint")]
    gains = {variant: average_difference(within, variant, "joint") for variant in others}
    gains = {variant: gain for variant, gain in gains.items() if gain.cells}
    if not gains or not lost.cells:
        return []
    best = max(gains, key=lambda variant: gains[variant].interval.mean)
    gain = gains[best]
    if gain.interval.mean <= 0:
        return [
            Finding(
                "Mending",
                f"No variant scores above the joint models within language; {best} comes nearest ({_over(gain)}).",
            )
        ]
    text = f"{best} scores highest of the variants within language, "
    text += f"{_points(gain.interval.mean)} above joint ({_over(gain)})"
    if lost.interval.mean > 0:
        text += f": {gain.interval.mean / lost.interval.mean:.0%} of what joint loses to mono"
    text += ". " + _told(gain.interval.low, gain.interval.high, "this gain")
    unclear = [variant for variant in gains if variant != best and _overlaps_best(within, best, variant)]
    if unclear:
        text += f" It cannot be told from {_list(unclear)}."
    worse = [
        variant
        for variant, own in gains.items()
        if excludes_zero(own.interval.low, own.interval.high) and own.interval.mean < 0
    ]
    if worse:
        text += f" Below joint: {_list(worse)}."
    return [Finding("Mending", text)]


def _transfer(results: Results, zero_shot: pd.DataFrame) -> list[Finding]:
    variants = [variant for variant in results.study.variants if variant in set(zero_shot["variant"])]
    changes = {v: average_difference(zero_shot, v, "joint") for v in variants if v != "joint"}
    changes = {variant: change for variant, change in changes.items() if change.cells}
    if not changes:
        return []
    best = max(changes, key=lambda variant: changes[variant].interval.mean)
    worst = min(changes, key=lambda variant: changes[variant].interval.mean)
    top, bottom = changes[best].interval, changes[worst].interval
    if top.mean > 0:
        text = f"{best} transfers best: {_points(top.mean)} above joint in zero-shot ({_over(changes[best])}). "
        text += _told(top.low, top.high, "this gain")
    else:
        text = f"No variant transfers better than joint; {best} comes nearest ({_over(changes[best])})."
    if worst != best and bottom.mean < 0:
        text += f" {worst} transfers worst, {_points(-bottom.mean)} below joint ({_over(changes[worst])})."
    return [Finding("Transfer", text)]


def _front(results: Results, within: pd.DataFrame, zero_shot: pd.DataFrame) -> list[Finding]:
    change = {
        variant: tuple(average_difference(scores, variant, "joint").interval.mean for scores in (within, zero_shot))
        for variant in results.study.variants
        if variant not in ("mono", "joint")
    }
    change = {variant: pair for variant, pair in change.items() if not any(map(pd.isna, pair))}
    if not change:
        return []
    both = [variant for variant, (alone, across) in change.items() if alone > 0 and across > 0]
    traded = [variant for variant, (alone, across) in change.items() if alone > 0 > across]
    parts = []
    if both:
        parts.append(f"Better than joint both within language and in zero-shot: {_list(both)}.")
    else:
        parts.append("No variant is better than joint both within language and in zero-shot.")
    if traded:
        parts.append(f"Better within language at the price of transfer: {_list(traded)}.")
    return [Finding("Trade-off", " ".join(parts))]


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
    if missing := len(frame) - len(known):
        parts.append(f"{_many(missing, 'cell')} of the matrix {'is' if missing == 1 else 'are'} missing.")
    return [Finding("Doubt", " ".join(parts))]


def _overlaps_best(within: pd.DataFrame, best: str, other: str) -> bool:
    interval = average_difference(within, best, other).interval
    return not excludes_zero(interval.low, interval.high)


def _told(low: float, high: float, what: str) -> str:
    if pd.isna(low):
        return f"With one seed, {what} may be chance."
    if excludes_zero(low, high):
        return f"Over the seeds, {what} can be told from 0."
    return f"Over the seeds, {what} cannot be told from 0."


def _mono_minus(average: Average) -> str:
    return f"mono minus joint {_over(average)}"


def _over(average: Average) -> str:
    """`+1.6, 95% interval +1.2 to +2.0, 3 seeds, 36 cells`."""
    mean, low, high, size = average.interval
    interval = f", 95% interval {number(low, signed=True)} to {number(high, signed=True)}" if pd.notna(low) else ""
    return f"{number(mean, signed=True)}{interval}, {_many(size, 'seed')}, {_many(average.cells, 'cell')}".replace(
        "-", "−"
    )


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
