"""Stopping trials of a search early, by Ray Tune's own rules, on readings that are fair.

What a trial will be judged by, its dev scores, is not there while it pretrains; the validation perplexity of its models
is. It is read so that it compares what is comparable:

- Trials are compared that train the same models: of the same variants, languages and seeds, with the same tokenizer and
  data (perplexities over different vocabularies do not compare), on sequences of the same length and the same share of
  masks, under schedules of the same shape (one that falls to 0 at the end looks worse before, and better there).
- They are compared at the same share of their steps: with equal steps, after the same step. A trial is judged at the
  end of its own schedule; at half of it, so is the one beside it.
- The value is the mean of log perplexity over all models and languages of the trial, once all its models have come so
  far; between two measurements it is interpolated, so that a measurement that came late does not flatter.
- Trials that ended count as evidence, those before a restart of the sweep too.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from raylab.config import PretrainJob
from raylab.config.search import EarlyStoppingConfig
from raylab.search.plan import Job

MEDIAN_EVERY = 0.05
"""Share of the steps between two comparisons with the median."""

_PERPLEXITY = "valid/perplexity/"


class Verdict(NamedTuple):
    """A trial as it stood at one share of its steps.

    Attributes:
        trial: Its number.
        share: Of the steps that were done.
        value: Mean log perplexity, in nats.
        stop: Whether it is stopped there.
        compared: How many others had come as far.
    """

    trial: int
    share: float
    value: float
    stop: bool
    compared: int


class _Member:
    """A trial, as far as Tune's rules look at one."""

    def __init__(self, number: int) -> None:
        self.trial_id = str(number)


class _Group:
    """Trials that are compared, and the rule that compares them."""

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.members: dict[int, _Member] = {}
        self.reached: dict[float, int] = {}
        properties = {"time_attr": "share", "metric": "value", "mode": "min"}
        self.rule: TrialScheduler
        if config.method == "asha":
            self.rule = AsyncHyperBandScheduler(
                grace_period=config.grace, max_t=1, reduction_factor=config.reduction_factor, **properties
            )
        else:
            self.rule = MedianStoppingRule(
                grace_period=config.grace,
                min_samples_required=config.min_trials,
                min_time_slice=math.inf,  # nothing pauses
                **properties,
            )

    def see(self, number: int, share: float, value: float, judge: bool) -> bool:
        """Take a value as evidence; with `judge`, say whether the trial is to stop."""
        member = self.members.setdefault(number, _Member(number))
        result = {"share": share, "value": value}
        self.rule.on_trial_add(None, member)
        if judge:
            return bool(self.rule.on_trial_result(None, member, result) == TrialScheduler.STOP)
        self.rule.on_trial_complete(None, member, result)
        return False


class EarlyStopping:
    """Watches the pretraining of trials, and says which fall behind.

    Args:
        config: The rule.
    """

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self._config = config
        self._groups: dict[tuple[Any, ...], _Group] = {}
        self._curves: dict[str, dict[int, dict[str, float]]] = {}
        self._cells: dict[int, list[list[Job]]] = {}
        self._keys: dict[int, tuple[Any, ...]] = {}
        self._next: dict[int, int] = {}
        self.shares = _shares(config)

    def watch(self, number: int, jobs: Iterable[Job], seen: Mapping[float, float]) -> None:
        """Begin to watch a trial.

        Args:
            number: The trial.
            jobs: All its jobs.
            seen: What was reported of it before: it counts as evidence, and is not judged again.
        """
        cells: dict[tuple[Any, ...], list[Job]] = {}
        for job in jobs:
            if isinstance(job.config, PretrainJob):
                cells.setdefault(_cell(job, job.config), []).append(job)
        if not cells:
            return
        self._cells[number] = list(cells.values())
        self._keys[number] = tuple(sorted(cells, key=str))
        self._next[number] = 0
        for share, value in sorted(seen.items()):
            place = self._place(share)
            if place is not None:
                self._see(number, place, value, judge=False)

    def forget(self, number: int) -> None:
        """The trial has ended: what is known of it stays evidence."""
        for cell in self._cells.pop(number, ()):
            for job in cell:
                self._curves.pop(job.key, None)
        self._next.pop(number, None)

    def measured(self, job: Job, fresh: Iterable[tuple[str, float, int, int]]) -> None:
        """Take in measurements of a pretraining job, which may have come before."""
        for name, value, step, _ in fresh:
            if name.startswith(_PERPLEXITY) and value > 0:
                step_values = self._curves.setdefault(job.key, {}).setdefault(step, {})
                step_values[name.removeprefix(_PERPLEXITY)] = math.log(value)

    def verdicts(self, number: int, judge: bool) -> list[Verdict]:
        """How a trial stands at the shares that it has reached since this was asked last.

        Args:
            number: The trial.
            judge: Whether it may be stopped; else its values are evidence alone.
        """
        found: list[Verdict] = []
        while (place := self._next.get(number, len(self.shares))) < len(self.shares):
            value = self._value(number, self.shares[place])
            if value is None:
                break
            found.append(self._see(number, place, value, judge))
            if found[-1].stop:
                break
        return found

    def _see(self, number: int, place: int, value: float, judge: bool) -> Verdict:
        share = self.shares[place]
        group = self._groups.setdefault(self._keys[number], _Group(self._config))
        compared = group.reached.get(share, 0)
        enough = compared >= self._config.min_trials
        stop = group.see(number, share, value, judge and (enough or self._config.method == "asha"))
        group.reached[share] = compared + 1
        self._next[number] = max(self._next[number], place + 1)
        return Verdict(number, share, value, stop and enough, compared)

    def _place(self, share: float) -> int | None:
        """Which of this rule's shares a reported one is; None after a change of the rule."""
        place = bisect.bisect_left(self.shares, share * (1 - 1e-5))
        return place if place < len(self.shares) and math.isclose(self.shares[place], share, rel_tol=1e-5) else None

    def _value(self, number: int, share: float) -> float | None:
        """Mean log perplexity of a trial's models at a share of their steps; None before all are there."""
        values = [self._at(cell, share) for cell in self._cells[number]]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def _at(self, cell: list[Job], share: float) -> float | None:
        """Of one model, which a chain of jobs may train."""
        config = cell[0].config
        assert isinstance(config, PretrainJob)
        points = sorted(
            (step / config.pretrain.steps, sum(logs.values()) / len(logs))
            for job in cell
            for step, logs in self._curves.get(job.key, {}).items()
            if len(logs) == len(config.languages)
        )
        after = bisect.bisect_left(points, (share * (1 - 1e-9),))
        if after == len(points):
            return None
        if after == 0 or points[after][0] <= share * (1 + 1e-9):
            return points[after][1]
        (left, low), (right, high) = points[after - 1], points[after]
        return low + (high - low) * (share - left) / (right - left)


def _shares(config: EarlyStoppingConfig) -> list[float]:
    """The shares of the steps at which trials are compared, in order."""
    if config.method == "asha":
        rungs = int(math.log(1 / config.grace) / math.log(config.reduction_factor) + 1)
        shares = [config.grace * config.reduction_factor**rung for rung in range(rungs)]
    else:
        shares = [config.grace + MEDIAN_EVERY * place for place in range(round(1 / MEDIAN_EVERY))]
    return [share for share in shares if share < 1 - 1e-9]


def _cell(job: Job, config: PretrainJob) -> tuple[Any, ...]:
    """What must be equal in two models for their perplexities to compare."""
    pretrain = config.pretrain
    measured = (pretrain.sequence_length, pretrain.mask_probability, pretrain.schedule)
    return (config.variant, config.languages, config.seed, job.inputs[0], *measured)
