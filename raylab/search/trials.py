"""Optuna's part: which pretraining configuration to try next, and how good the last ones were.

A trial is one assignment of values to the searched fields. It is good as far as the finetune jobs on its checkpoints
score on dev sets; test scores are never read here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url

from raylab.config import SearchConfig, StudyConfig
from raylab.hashing import fingerprint
from raylab.search.database import open_storage, patiently
from raylab.search.objectives import Results, measurements, objectives
from raylab.search.samplers import JOINT, any_value, distribution, draw, from_optuna, grid, make_sampler, to_optuna
from raylab.search.warm_start import MEASURED, ORIGIN, QUESTION, earlier_trials, question_of
from raylab.study.parameters import VARIANT, value_of
from raylab.study.sampler import contains
from raylab.study.space import search_space, variants_of

_ABANDONED = "abandoned"  # a trial that was cut off before all its values were drawn: it is none
_ENDED = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED
_DRAWN = TrialState.RUNNING, *_ENDED
_REPORTED = "perplexity"  # of a trial: how far it was behind, for early stopping

_Found = dict[int, tuple[dict[str, Any], dict[str, float]]]


class Search(Protocol):
    """What tells the sweep which trials to run, and is told how good they were."""

    config: SearchConfig
    name: str

    @property
    def exhausted(self) -> bool:
        """Whether nothing more will be asked, and all is told."""

    @property
    def all_asked(self) -> bool:
        """Whether `ask` will never give another trial."""

    @property
    def unasked(self) -> int:
        """How many trials `ask` has still to give, at most."""

    def under_way(self) -> dict[int, dict[str, Any]]:
        """Values of the trials that were asked for and not yet told, by number: an interrupted sweep left them."""

    def complete(self) -> _Found:
        """Values and scores of the trials that were told how good they are, by number."""

    def tried(self) -> list[dict[str, Any]]:
        """Values of all trials that were asked for, whatever became of them."""

    def failed(self) -> list[int]:
        """Numbers of the trials of which a job failed."""

    def pruned(self) -> list[int]:
        """Numbers of the trials that were stopped early."""

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Number and values of the next trial; None where there is nothing to ask now."""

    def score(self, results: Results) -> dict[str, float] | None:
        """A trial's scores from the results of all its jobs; None where they lack one."""

    def tell(self, number: int, scores: Mapping[str, float] | None) -> None:
        """How good a trial was: what `score` gave, or None where a job of it failed."""

    def prune(self, number: int, reason: str) -> None:
        """A trial was stopped early."""

    def best(self) -> list[tuple[int, dict[str, Any], dict[str, float]]]:
        """The best trial or, for several objectives, the Pareto front: number, values, scores."""

    def discard(self) -> None:
        """Forget all trials."""


class TrialSearch:
    """The search of one study with one of Optuna's samplers, persistent: opened again, it goes on where it was.

    Args:
        study: A study with a `search` section.
        url: Optuna's storage.
        data: Fingerprint of the data; other data is another search.

    Raises:
        InputError: The storage cannot be opened, or an earlier search that is to inform this one does not fit.

    Attributes:
        config: The study's search.
        name: What Optuna calls it.
        space: What it varies.
    """

    def __init__(self, study: StudyConfig, url: str, data: str) -> None:
        assert study.search is not None
        self.config: SearchConfig = study.search
        self.name = search_name(study, data)
        self.space = search_space(study)
        self._url = url
        self._storage = open_storage(url)
        self._joint = self.config.sampler in JOINT
        self._study = optuna.create_study(
            study_name=self.name,
            storage=self._storage,
            directions=[f"{direction}imize" for direction in self.config.objective.values()],
            load_if_exists=True,
        )
        if QUESTION not in self._study.user_attrs:
            self._study.set_user_attr(QUESTION, question_of(study, data))
            self._study.set_user_attr("study", study.study)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(list(self.config.objective))
        self._warm_start(study, data)
        self._enqueue(study)
        self._grid = grid(self.config, self.space) if self.config.sampler == "grid" else None
        self._drawing = False
        self._best: list[tuple[int, dict[str, Any], dict[str, float]]] | None = None
        self._abandon()
        self._count()

    def under_way(self) -> dict[int, dict[str, Any]]:
        """Values of the trials that were asked for and not yet told, by number: an interrupted sweep left them."""
        return {trial.number: self._values(trial) for trial in self._trials(TrialState.RUNNING)}

    def complete(self) -> _Found:
        """Values and scores of the trials that were told how good they are, by number."""
        return {t.number: (self._values(t), self._scores(t)) for t in self._trials(TrialState.COMPLETE)}

    def tried(self) -> list[dict[str, Any]]:
        """Values of all trials that were asked for, whatever became of them."""
        return [self._values(trial) for trial in self._trials(*_DRAWN)]

    def failed(self) -> list[int]:
        """Numbers of the trials of which a job failed."""
        return [trial.number for trial in self._trials(TrialState.FAIL)]

    def pruned(self) -> list[int]:
        """Numbers of the trials that were stopped early."""
        return [trial.number for trial in self._trials(TrialState.PRUNED)]

    @property
    def all_asked(self) -> bool:
        """Whether all samples are asked for, or all points of a grid."""
        return self._asked >= self.config.num_samples or (
            not self._waiting and self._next_point() is None is not self._grid
        )

    @property
    def unasked(self) -> int:
        """How many samples, or points of a grid, are still to be asked for, at most."""
        if self.all_asked:
            return 0
        left = self.config.num_samples - self._asked
        return left if self._grid is None else min(left, self._waiting + len(self._grid))

    @property
    def exhausted(self) -> bool:
        """Whether all samples are asked for and told."""
        return self.all_asked and not self._open

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Number and values of the next trial; None when all are asked for."""
        if self.all_asked:
            return None
        return patiently(self._ask, self._url)

    def score(self, results: Results) -> dict[str, float] | None:
        """A trial's objectives, and what its constraints are on, from the results of all its jobs."""
        found = objectives(self.config.objective, [(job, result) for job, result in results if job.kind == "finetune"])
        measured = measurements(self.config.constraints, results)
        return None if found is None or measured is None else found | measured

    def tell(self, number: int, scores: Mapping[str, float] | None) -> None:
        """How good a trial was: what `score` gave, or None where a job of it failed."""
        if scores is None:
            patiently(lambda: self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True), self._url)
        else:
            patiently(lambda: self._tell(number, scores), self._url)
        self._open.discard(number)
        self._best = None

    def report(self, number: int, share: float, value: float) -> None:
        """How a trial stands, for early stopping.

        Args:
            number: The trial.
            share: Of its pretraining that is done, from 0 to 1.
            value: Mean log validation perplexity, in nats.
        """
        trial = self._trial(number)
        reported = {**trial.user_attrs.get(_REPORTED, {}), f"{share:.6g}": value}
        patiently(lambda: trial.set_user_attr(_REPORTED, reported), self._url)
        if len(self.config.objective) == 1:  # Optuna takes none of several; the dashboard shows it, and tpe reads it
            better = -value if "max" in self.config.objective.values() else value
            patiently(lambda: trial.report(better, round(1000 * share)), self._url)

    def reported(self) -> dict[int, tuple[dict[str, Any], dict[float, float]]]:
        """Values of the trials of which something was reported, and that by share, by number."""
        return {
            trial.number: (
                self._values(trial),
                {float(share): value for share, value in trial.user_attrs[_REPORTED].items()},
            )
            for trial in self._trials(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            if _REPORTED in trial.user_attrs
        }

    def prune(self, number: int, reason: str) -> None:
        """A trial was stopped early."""
        patiently(lambda: self._trial(number).set_user_attr("stopped", reason), self._url)
        patiently(lambda: self._study.tell(number, state=TrialState.PRUNED, skip_if_finished=True), self._url)
        self._open.discard(number)

    def best(self) -> list[tuple[int, dict[str, Any], dict[str, float]]]:
        """The best trial or, for several objectives, the Pareto front: number, values, scores; of feasible ones alone.

        Trials of earlier searches that inform this one are among them; `origin` says which.
        """
        if self._best is None:
            front = self._study.best_trials
            self._best = [(trial.number, self._values(trial), self._scores(trial)) for trial in front]
        return self._best

    def origin(self, number: int) -> str | None:
        """The earlier search that a trial is of."""
        return self._origins.get(number)

    def discard(self) -> None:
        """Forget all trials."""
        optuna.delete_study(study_name=self.name, storage=self._storage)

    def _ask(self) -> tuple[int, dict[str, Any]]:
        if self._drawing:  # it was tried before, and the storage went away
            self._abandon()
            self._waiting = len(self._trials(TrialState.WAITING))
        self._drawing = True
        point = None if self._waiting else self._next_point()
        if point is not None:
            self._study.enqueue_trial(to_optuna(point))
        self._study.sampler = make_sampler(self.config, self.space, self._asked)
        trial = self._study.ask()
        values = draw(trial, self.space, self._joint)
        self._drawing = False
        self._waiting = max(0, self._waiting - 1)
        self._open.add(trial.number)
        self._asked += 1
        self._tried.add(_key(values))
        return trial.number, values

    def _tell(self, number: int, scores: Mapping[str, float]) -> None:
        if self.config.constraints:
            trial = self._trial(number)
            known = trial.constraints
            trial.set_user_attr(MEASURED, {name: scores[name] for name in self.config.constraints})
            for name, value in self._violations(scores).items():
                if name not in known:
                    trial.set_constraint(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a sampler that does not learn from constraints
            self._study.tell(number, [scores[name] for name in self.config.objective], skip_if_finished=True)

    def _violations(self, scores: Mapping[str, float]) -> dict[str, float]:
        """How far a trial is beyond each limit, relative to the limit; 0 or less: not at all."""
        found = {}
        for name, limit in self.config.constraints.items():
            for bound, sign in ((limit.min, -1.0), (limit.max, 1.0)):
                if bound is not None:
                    sides = ">=" if sign < 0 else "<="
                    found[f"{name} {sides} {bound:g}"] = sign * (scores[name] - bound) / (abs(bound) or 1.0)
        return found

    def _trial(self, number: int) -> optuna.Trial:
        """A trial to write to; no sampler hears of it."""
        self._study.sampler = optuna.samplers.RandomSampler()
        trial = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return optuna.Trial(self._study, trial)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The samples of this search, those of other searches and those that were never whole left out."""
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [one for one in trials if ORIGIN not in one.user_attrs and _ABANDONED not in one.user_attrs]

    def _values(self, trial: FrozenTrial) -> dict[str, Any]:
        return self.space.active(from_optuna(self.space, trial.params))

    def _scores(self, trial: FrozenTrial) -> dict[str, float]:
        scores = dict(zip(self.config.objective, trial.values, strict=True))
        return {**scores, **trial.user_attrs.get(MEASURED, {})}

    def _count(self) -> None:
        """Read once what is there; from then on it is counted."""
        drawn = self._trials(*_DRAWN)
        self._open = {trial.number for trial in drawn if trial.state is TrialState.RUNNING}
        self._asked = len(drawn)
        self._waiting = len(self._trials(TrialState.WAITING))
        self._tried = {_key(self._values(trial)) for trial in drawn}
        self._origins = {
            trial.number: str(trial.user_attrs[ORIGIN][0])
            for trial in self._study.get_trials(deepcopy=False)
            if ORIGIN in trial.user_attrs
        }

    def _abandon(self) -> None:
        """Take no account of a trial during whose drawing the driver died, or the storage went away."""
        for trial in self._trials(TrialState.RUNNING):
            if not self.space.complete(from_optuna(self.space, trial.params)) or (
                self._joint and len(trial.params) < len(self.space.paths)
            ):
                self._trial(trial.number).set_user_attr(_ABANDONED, True)
                self._study.tell(trial.number, state=TrialState.FAIL)
                if asked := trial.system_attrs.get("fixed_params"):  # of an enqueued trial
                    self._study.enqueue_trial(asked, user_attrs=trial.user_attrs)

    def _next_point(self) -> dict[str, Any] | None:
        """The next point of a grid that was not tried."""
        while self._grid and _key(self._grid[0]) in self._tried:
            del self._grid[0]
        return self._grid[0] if self._grid else None

    def _enqueue(self, study: StudyConfig) -> None:
        """Put the study's own values first, where they lie in the space, then those that it asks for."""
        if not self._trials(*TrialState):
            fields = [one for one in self.space.parameters if one.path != VARIANT]
            held = {one.path: own for one in fields if contains(one, own := value_of(study, one.path))}
            for variant in variants_of(study) if VARIANT in self.space.paths else (None,):
                point = held if variant is None else {VARIANT: variant, **held}
                if self.space.complete(point):
                    self._study.enqueue_trial(
                        to_optuna(point), user_attrs={"kind": "the study's own"}, skip_if_exists=True
                    )
        for asked in self.config.enqueue:
            self._study.enqueue_trial(to_optuna(asked), user_attrs={"kind": "enqueued"}, skip_if_exists=True)

    def _warm_start(self, study: StudyConfig, data: str) -> None:
        """Bring in the trials of earlier searches that are not here yet."""
        trials = self._study.get_trials(deepcopy=False) if self.config.warm_start else []
        here = {tuple(trial.user_attrs[ORIGIN]) for trial in trials if ORIGIN in trial.user_attrs}
        for name in self.config.warm_start:
            for earlier in earlier_trials(name, study, self.space, self._url, data, self.name):
                if earlier.origin in here:
                    continue
                active = self.space.active(earlier.values)
                known = [one for one in self.space.parameters if self._joint or one.path in active]
                self._study.add_trial(
                    optuna.trial.create_trial(
                        params=to_optuna({one.path: active.get(one.path, any_value(one)) for one in known}),
                        distributions={one.path: distribution(one) for one in known},
                        values=[earlier.scores[name] for name in self.config.objective],
                        user_attrs={
                            "kind": "warm start",
                            ORIGIN: list(earlier.origin),
                            MEASURED: {name: earlier.scores[name] for name in self.config.constraints},
                        },
                        constraints=self._violations(earlier.scores),
                    )
                )


def ended_trials(url: str, name: str) -> int:
    """How many trials of a search, of this name in Optuna's storage, have ended; nothing is made there.

    Raises:
        InputError: The storage cannot be opened.
    """
    path = make_url(url).database if url.startswith("sqlite:") else None
    if path is not None and not Path(path).is_file():
        return 0
    storage = open_storage(url)
    if name not in optuna.get_all_study_names(storage):
        return 0
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False, states=_ENDED)
    return sum(ORIGIN not in one.user_attrs and _ABANDONED not in one.user_attrs for one in trials)


def search_name(study: StudyConfig, data: str) -> str:
    """What a study's search is called in Optuna: another question, or other data, is another search."""
    unasked = {"description", "scaling", "probes", "keep"}
    question = study.model_dump(mode="json", exclude=unasked, exclude_defaults=True)
    question.get("data", {}).pop("source", None)  # `data` stands for what lies there
    for name in ("num_samples", "storage", "concurrency", "enqueue", "warm_start", "early_stopping"):
        question["search"].pop(name, None)  # with others of these the same search goes on
    return f"{study.study}-{fingerprint([question, data])}"


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)
