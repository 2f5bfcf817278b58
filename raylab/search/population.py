"""Population-based training (Jaderberg et al. 2017) as a search over trials, in synchronous generations.

A trial is one member of one generation. It trains its part of the steps, and goes on from where its parent, a member
of the generation before, ended: the parent's values are part of its own, in `pretrain.changes`, so that the plan finds
the parent's job by its key, and members that share their past share its jobs. When all members of a generation have
ended, the worst of them are replaced (exploit) and the values of the copies changed (explore); which, and how, is a
function of the scores and of the search's seed alone. So a population that was interrupted goes on as if it was not.

Generations before the last finetune nothing. Their members are compared by the mean log perplexity of the `valid` text
at the end of their part, which for all of them is after equally many steps and tokens; the study's objectives are for
the last generation.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from raylab.config import PopulationConfig, SearchConfig, StudyConfig
from raylab.search.database import open_storage, patiently
from raylab.search.objectives import Results, objectives
from raylab.search.trials import search_name
from raylab.seeding import seed_of
from raylab.study import value_at

LOG_PERPLEXITY = "log_perplexity"
"""Score of the generations before the last, the lower the better: a mean over languages and models, in nats."""

_STOPPED = "stopped"  # a trial's attribute: its training was stopped early


class Stage(NamedTuple):
    """One generation of a member's past.

    Attributes:
        trial: Who trained it.
        first: Its first step.
        last: Its last step.
        values: Of the searched fields, by dotted path.
    """

    trial: int
    first: int
    last: int
    values: dict[str, Any]


class Population:
    """The population of one study, persistent: opened again, it goes on where it was.

    Trials are numbered through: member m of generation g, both from 0, is g x size + m. Optuna holds them under the
    same numbers, with `generation`, `member` and `parent` (a member of the generation before) as their attributes.
    Those of generations before the last are there as pruned, at the step where their part ended, with their score.

    Args:
        study: A study with `search.population`.
        url: Optuna's storage.
        data: Fingerprint of the data; other data is another search.

    Raises:
        InputError: The storage cannot be opened.

    Attributes:
        config: The study's search.
        name: What Optuna calls it.
    """

    def __init__(self, study: StudyConfig, url: str, data: str) -> None:
        assert study.search is not None
        assert study.search.population is not None
        self.config: SearchConfig = study.search
        self._population = study.search.population
        self._ends = self._population.ends(study.pretrain.steps)
        self._space = {path: distribution_of(spec) for path, spec in self.config.space.items()}
        own = {path: value_at(study, path) for path in self._space}
        self._own = own if all(_contains(self._space[path], own[path]) for path in own) else None
        self.name = search_name(study, data)
        self._url = url
        self._storage = open_storage(url)
        self._study = optuna.create_study(
            study_name=self.name,
            storage=self._storage,
            directions=[f"{direction}imize" for direction in self.config.objective.values()],
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names(list(self.config.objective))
        self._known: list[FrozenTrial] | None = None  # the trials, until this process changes one

    def under_way(self) -> dict[int, dict[str, Any]]:
        """Values of the trials that were asked for and not yet told, by number: an interrupted sweep left them."""
        trials = self._trials()
        return {t.number: self._values(trials, t.number) for t in trials if t.state is TrialState.RUNNING}

    def complete(self) -> dict[int, tuple[dict[str, Any], dict[str, float]]]:
        """Values and scores of the trials that were told how good they are, by number, of all generations."""
        trials = self._trials()
        scores = {trial.number: self._scores(trial) for trial in trials}
        return {number: (self._values(trials, number), found) for number, found in scores.items() if found is not None}

    def tried(self) -> list[dict[str, Any]]:
        """Values of all trials that were asked for, whatever became of them."""
        trials = self._trials()
        return [self._values(trials, trial.number) for trial in trials]

    def failed(self) -> list[int]:
        """Numbers of the trials of which a job failed."""
        return [t.number for t in self._trials() if t.state is TrialState.FAIL and _STOPPED not in t.user_attrs]

    def pruned(self) -> list[int]:
        """Numbers of the trials whose training was stopped early; the population goes on without them."""
        return [trial.number for trial in self._trials() if _STOPPED in trial.user_attrs]

    @property
    def all_asked(self) -> bool:
        """Whether there will never be another trial: all were asked for, or a generation has no survivor."""
        trials = self._trials()
        if len(trials) >= self._population.trials:
            return True
        generation = len(trials) // self._population.size
        before = self._generation(trials, generation - 1) if generation else []
        return bool(before) and all(trial.state is TrialState.FAIL for trial in before)

    @property
    def unasked(self) -> int:
        """How many trials are still to be asked for."""
        return 0 if self.all_asked else self._population.trials - len(self._trials())

    @property
    def exhausted(self) -> bool:
        """Whether there will never be another trial, and all are told."""
        return self.all_asked and not any(trial.state is TrialState.RUNNING for trial in self._trials())

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Number and values of the next trial; None when all are asked for, or while a generation is not told."""
        trials = self._trials()
        number = len(trials)
        generation, member = divmod(number, self._population.size)
        if self.all_asked:
            return None
        parent, values = None, self._first(member)
        if generation > 0:
            before = self._generation(trials, generation - 1)
            if any(trial.state is TrialState.RUNNING for trial in before):
                return None
            scores = [(self._scores(trial) or {}).get(LOG_PERPLEXITY) for trial in before]
            parent = exploit(scores, self._population.quantile, self.config.seed, generation)[member]
            values = before[parent].params
            if parent != member:
                values = explore(values, self._space, self._population, self.config.seed, generation, member)
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=values,
            distributions=self._space,
            user_attrs={"generation": generation, "member": member, "parent": parent},
        )
        patiently(lambda: self._add(trial, number), self._url)
        return number, self._values(self._trials(), number)

    def tell(self, number: int, scores: Mapping[str, float] | None) -> None:
        """How good a trial was: what `score` gave, or None where a job of it failed; then a survivor replaces it."""
        patiently(lambda: self._tell(number, scores), self._url)

    def prune(self, number: int, reason: str) -> None:
        """A pretraining job of the trial was stopped early; a survivor replaces it."""
        patiently(
            lambda: self._storage.set_trial_user_attr(self._trials()[number]._trial_id, _STOPPED, reason), self._url
        )
        self.tell(number, None)

    def score(self, results: Results) -> dict[str, float] | None:
        """A trial's scores from the results of all its jobs: the objectives where it finetunes, else LOG_PERPLEXITY."""
        finetuned = [(job, result) for job, result in results if job.kind == "finetune"]
        return objectives(self.config.objective, finetuned) if finetuned else log_perplexity(results)

    def best(self) -> list[tuple[int, dict[str, Any], dict[str, float]]]:
        """The best of the last generation or, for several objectives, the Pareto front: number, values, scores."""
        trials = self._trials()
        return [
            (t.number, self._values(trials, t.number), dict(zip(self.config.objective, t.values, strict=True)))
            for t in self._study.best_trials
        ]

    def lineage(self, number: int) -> list[Stage]:
        """How a trial's model was trained, from its first step on: the schedule that the population found."""
        return self._lineage(self._trials(), number)

    def discard(self) -> None:
        """Forget all trials."""
        optuna.delete_study(study_name=self.name, storage=self._storage)

    def _trials(self) -> list[FrozenTrial]:
        """All trials, read again only after a change: no other process makes any."""
        if self._known is None:
            self._known = patiently(lambda: self._study.get_trials(deepcopy=False), self._url)
        return self._known

    def _add(self, trial: FrozenTrial, number: int) -> None:
        """In one transaction: a driver that dies leaves the whole trial or none."""
        if len(self._study.get_trials(deepcopy=False)) == number:  # else the storage went away just after
            self._study.add_trial(trial)
        self._known = None

    def _tell(self, number: int, scores: Mapping[str, float] | None) -> None:
        generation = number // self._population.size
        if scores is None:
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        elif generation == self._population.generations - 1:
            self._study.tell(number, [scores[name] for name in self.config.objective], skip_if_finished=True)
        else:  # past the study's `tell`, which would take the score for an objective
            trial = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
            if not self._storage.get_trial(trial).state.is_finished():
                self._storage.set_trial_intermediate_value(trial, self._ends[generation], scores[LOG_PERPLEXITY])
                self._storage.set_trial_state_values(trial, TrialState.PRUNED)
        self._known = None

    def _generation(self, trials: Sequence[FrozenTrial], generation: int) -> Sequence[FrozenTrial]:
        size = self._population.size
        return trials[generation * size : (generation + 1) * size]

    def _scores(self, trial: FrozenTrial) -> dict[str, float] | None:
        if trial.state is TrialState.COMPLETE:
            return dict(zip(self.config.objective, trial.values, strict=True))
        if trial.state is TrialState.PRUNED:
            return {LOG_PERPLEXITY: trial.intermediate_values[self._ends[trial.number // self._population.size]]}
        return None

    def _first(self, member: int) -> dict[str, Any]:
        """Values of a member of the first generation: the first has the study's own, if these are in the space."""
        if member == 0 and self._own is not None:
            return self._own
        return {
            path: _draw(distribution, _random(self.config.seed, 0, member, path))
            for path, distribution in self._space.items()
        }

    def _values(self, trials: Sequence[FrozenTrial], number: int) -> dict[str, Any]:
        """What a trial sets of the study."""
        first, *later = self._lineage(trials, number)
        values = dict(first.values)
        if later:
            values["pretrain.changes"] = [
                {"step": stage.first - 1, **{path.rpartition(".")[2]: value for path, value in stage.values.items()}}
                for stage in later
            ]
        if len(later) + 1 < self._population.generations:
            values |= {"pretrain.until": self._ends[len(later)], "finetune": None}
        return values

    def _lineage(self, trials: Sequence[FrozenTrial], number: int) -> list[Stage]:
        size = self._population.size
        generation = number // size
        first = self._ends[generation - 1] + 1 if generation else 1
        here = Stage(number, first, self._ends[generation], {path: trials[number].params[path] for path in self._space})
        if not generation:
            return [here]
        return [*self._lineage(trials, (generation - 1) * size + trials[number].user_attrs["parent"]), here]


def schedule_lines(stages: Sequence[Stage]) -> list[str]:
    """A lineage for people, a line a stage."""
    shown = []
    for stage in stages:
        values = ", ".join(f"{path.rpartition('.')[2]} {value:.4g}" for path, value in stage.values.items())
        shown.append((f"steps {stage.first} to {stage.last}", f"{values} (trial {stage.trial})"))
    width = max(len(steps) for steps, _ in shown)
    return [f"{steps:<{width}}  {values}" for steps, values in shown]


def exploit(scores: Sequence[float | None], quantile: float, seed: int, generation: int) -> list[int]:
    """Truncation selection: which member of the generation before each member goes on from.

    The worst members of the quantile, those that failed before all others, each go on from one of as many of the best,
    drawn at random; the others from themselves.

    Args:
        scores: Of each member, the lower the better; None: it failed. One at least did not.
        quantile: Share of the members that is replaced.
        seed: Of the draws.
        generation: Number of the generation that begins.

    Example:
        >>> exploit([0.1, 0.4, 0.3, 0.2], 0.25, seed=0, generation=1)
        [0, 0, 2, 3]
    """
    ranked = sorted((score, member) for member, score in enumerate(scores) if score is not None)
    survivors = [member for _, member in ranked]
    count = min(math.ceil(len(scores) * quantile), len(scores) // 2)
    replaced = max(0, min(count - (len(scores) - len(survivors)), len(survivors) - 1))
    kept = survivors[: len(survivors) - replaced]
    best = kept[:count]
    return [
        member if member in kept else best[_random(seed, generation, member, "parent").randrange(len(best))]
        for member in range(len(scores))
    ]


def explore(
    values: Mapping[str, Any],
    space: Mapping[str, BaseDistribution],
    config: PopulationConfig,
    seed: int,
    generation: int,
    member: int,
) -> dict[str, Any]:
    """Other values near a parent's: each is perturbed, or drawn anew from the space.

    A number is multiplied by one of the factors, and stays in its range; of a list of choices, a neighbour in the list
    is taken.

    Args:
        values: The parent's.
        space: What each may be.
        config: Factors, and the probability to draw anew.
        seed: Of all draws.
        generation: Number of the generation that begins.
        member: Number of the member in it.
    """
    found = {}
    for path, distribution in space.items():
        chance = _random(seed, generation, member, path)
        if chance.random() < config.resample_probability:
            found[path] = _draw(distribution, chance)
        elif isinstance(distribution, CategoricalDistribution):
            place = distribution.choices.index(values[path]) + chance.choice((-1, 1))
            found[path] = distribution.choices[min(max(place, 0), len(distribution.choices) - 1)]
        else:
            found[path] = _within(distribution, values[path] * chance.choice(config.factors))
    return found


def log_perplexity(results: Results) -> dict[str, float] | None:
    """LOG_PERPLEXITY of the models that trained furthest, which are those of a trial's own generation; None of none."""
    models = [result for job, result in results if job.kind == "pretrain"]
    last = max((result["steps"] for result in models), default=0)
    logs = [
        math.log(value) for model in models if model["steps"] == last for value in model["valid_perplexity"].values()
    ]
    return {LOG_PERPLEXITY: sum(logs) / len(logs)} if logs else None


def distribution_of(spec: Mapping[str, list[Any]]) -> BaseDistribution:
    """What a field of the space may be, as Optuna has it."""
    ((kind, values),) = spec.items()
    if kind == "choice":
        return CategoricalDistribution(values)
    return FloatDistribution(values[0], values[1], log=kind == "loguniform")


def _contains(distribution: BaseDistribution, value: float) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return bool(distribution.low <= value <= distribution.high)


def _draw(distribution: BaseDistribution, chance: random.Random) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return chance.choice(distribution.choices)
    low, high, share = distribution.low, distribution.high, chance.random()
    if distribution.log:
        return _within(distribution, low * (high / low) ** share)
    return _within(distribution, low + (high - low) * share)


def _within(distribution: BaseDistribution, value: float) -> float:
    return min(max(value, distribution.low), distribution.high)


def _random(seed: int, generation: int, member: int, what: str) -> random.Random:
    """The draws of one member for one purpose."""
    return random.Random(seed_of(seed, "population", generation, member, what))
