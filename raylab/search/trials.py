"""Optuna's part: which pretraining configuration to try next, and how good the last ones were.

A trial is one assignment of values to the searched fields. It is good as far as the finetune jobs on its checkpoints
score on dev sets; test scores are never read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from raylab.config import SearchConfig, StudyConfig
from raylab.errors import InputError
from raylab.hashing import fingerprint
from raylab.search.plan import Job
from raylab.seeding import seed_of
from raylab.study import value_at
from raylab.tasks import get_task


class TrialSearch:
    """The search of one study, persistent: opened again, it goes on where it was.

    Args:
        study: A study with a `search` section.
        url: Optuna's storage.
        data: Fingerprint of the data; other data is another search.

    Raises:
        InputError: The storage cannot be opened.
    """

    def __init__(self, study: StudyConfig, url: str, data: str) -> None:
        assert study.search is not None
        self.config: SearchConfig = study.search
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        question = study.model_dump(mode="json", exclude={"description", "scaling"})
        del question["data"]["source"]  # `data` stands for what lies there
        for name in ("num_samples", "storage", "concurrency"):  # more samples go on with the same search
            del question["search"][name]
        self.name = f"{study.study}-{fingerprint([question, data])}"
        try:
            self._storage = optuna.storages.RDBStorage(url)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"search.storage: {url} cannot be opened ({reason}); a URL such as sqlite:///trials.db is needed"
            ) from None
        self._study = optuna.create_study(
            study_name=self.name,
            storage=self._storage,
            directions=[f"{direction}imize" for direction in self.config.objective.values()],
            load_if_exists=True,
        )
        self._distributions = {path: _distribution(spec) for path, spec in self.config.space.items()}
        own = {path: value_at(study, path) for path in self._distributions}
        if not self._study.get_trials(deepcopy=False) and all(
            _holds(distribution, own[path]) for path, distribution in self._distributions.items()
        ):
            self._study.enqueue_trial(own)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.params.keys() != self._distributions.keys():  # the driver died while it asked
                self._study.tell(trial.number, state=TrialState.FAIL)

    def under_way(self) -> dict[int, dict[str, Any]]:
        """Values of the trials that were asked for and not yet told, by number: an interrupted sweep left them."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {trial.number: dict(trial.params) for trial in trials}

    def complete(self) -> dict[int, tuple[dict[str, Any], dict[str, float]]]:
        """Values and objectives of the trials that were told how good they are, by number."""
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return {t.number: (dict(t.params), dict(zip(self.config.objective, t.values, strict=True))) for t in trials}

    def failed(self) -> list[int]:
        """Numbers of the trials of which a job failed."""
        return [trial.number for trial in self._study.get_trials(deepcopy=False, states=(TrialState.FAIL,))]

    @property
    def exhausted(self) -> bool:
        """Whether all trials were asked for and told."""
        return len(self.complete()) + len(self.failed()) >= self.config.num_samples

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Number and values of the next trial; None when all are asked for."""
        number = sum(trial.state is not TrialState.WAITING for trial in self._study.get_trials(deepcopy=False))
        if number >= self.config.num_samples:
            return None
        # A sampler seeded by the trial's number: a search that was interrupted draws what it would have drawn.
        self._study.sampler = _sampler(self.config.sampler, seed_of(self.config.seed, "trial", number) % 2**32)
        trial = self._study.ask(self._distributions)
        return trial.number, dict(trial.params)

    def tell(self, number: int, scores: Mapping[str, float] | None) -> None:
        """How good a trial was: its objectives by name, or None where a job of it failed."""
        if scores is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, [scores[name] for name in self.config.objective])

    def best(self) -> list[tuple[int, dict[str, Any], dict[str, float]]]:
        """The best trial or, for several objectives, the Pareto front: number, values, objectives."""
        front = self._study.best_trials
        return [(t.number, dict(t.params), dict(zip(self.config.objective, t.values, strict=True))) for t in front]

    def discard(self) -> None:
        """Forget all trials."""
        optuna.delete_study(study_name=self.name, storage=self._storage)


def objectives(names: Mapping[str, str], results: list[tuple[Job, Mapping[str, Any]]]) -> dict[str, float] | None:
    """A trial's objectives from the results of its finetune jobs, all on dev sets.

    For each checkpoint, task and training language, the job of the grid with the best dev score on its training
    language is chosen; its dev score on each evaluation language is a cell. `SETTING/mean` is the mean of the setting's
    cells, `SETTING/TASK` that of one task's.

    Returns:
        Objectives by name; None if one of them has no cell.
    """
    chosen: dict[tuple[str, str, str], tuple[Job, Mapping[str, Any]]] = {}
    for job, result in results:
        place = (job.labels["checkpoint"], job.labels["task"], job.labels["train_language"])
        if place not in chosen or result["selection"] > chosen[place][1]["selection"]:
            chosen[place] = (job, result)
    cells: dict[str, list[float]] = {}
    for job, result in chosen.values():
        task = job.labels["task"]
        main = get_task(task).metrics[0]
        for language, scores in result["scores"]["dev"].items():
            setting = "within" if language == job.labels["train_language"] else "zero_shot"
            if setting in job.labels["setting"].split(","):
                cells.setdefault(f"{setting}/mean", []).append(scores[main])
                cells.setdefault(f"{setting}/{task}", []).append(scores[main])
    if any(name not in cells for name in names):
        return None
    return {name: sum(cells[name]) / len(cells[name]) for name in names}


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):  # of another type, such as `current` among numbers
        return False


def _distribution(spec: Mapping[str, Any]) -> BaseDistribution:
    ((kind, values),) = spec.items()
    if kind == "choice":
        return CategoricalDistribution(values)
    if kind == "int":
        return IntDistribution(int(values[0]), int(values[1]))
    return FloatDistribution(values[0], values[1], log=kind == "loguniform")


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
