"""Which trials are stopped early, on which readings, and what that does to their jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from raylab.config import ModelConfig, PretrainConfig, PretrainJob, StudyConfig
from raylab.config.search import EarlyStoppingConfig
from raylab.data.source import Source, open_source
from raylab.search.early_stopping import EarlyStopping, Verdict
from raylab.search.graph import JobGraph, State
from raylab.search.plan import Job, plan
from raylab.search.searcher import FINISHED, JobSearcher, worker_settings
from raylab.search.storage import Storage
from raylab.search.trials import TrialSearch
from raylab.study import validate, with_values
from raylab.study.space import trial_study

ASHA = EarlyStoppingConfig(method="asha", grace=0.1, reduction_factor=3, min_trials=2)
MEDIAN = EarlyStoppingConfig(method="median", grace=0.5, min_trials=2)


def _job(
    key: str, *, prepare: str = "p", steps: int = 100, variant: str = "joint", seed: int = 0, **fields: Any
) -> Job:
    config = PretrainJob(
        languages=("aa", "bb"),
        variant=variant,
        seed=seed,
        model=ModelConfig(),
        pretrain=PretrainConfig(steps=steps, **fields),
        meta=None,
    )
    return Job("pretrain", key, config, (prepare,))


def _curve(points: Mapping[int, float]) -> list[tuple[str, float, int, int]]:
    return [
        (f"valid/perplexity/{language}", math.exp(v), step, 0)
        for step, v in points.items()
        for language in ("aa", "bb")
    ]


def _run(early: EarlyStopping, number: int, job: Job, points: Mapping[int, float]) -> list[Verdict]:
    early.watch(number, [job], {})
    early.measured(job, _curve(points))
    return early.verdicts(number, judge=True)


def test_asha_keeps_the_best_of_each_rung() -> None:
    early = EarlyStopping(ASHA)
    assert early.shares == pytest.approx([0.1, 0.3, 0.9])
    for number, value in enumerate((1.0, 2.0, 3.0)):
        early.watch(number, [_job(str(number))], {})
        early.measured(_job(str(number)), _curve({10: value}))
    stopped = [[verdict.stop for verdict in early.verdicts(number, judge=True)] for number in range(3)]
    assert stopped == [[False], [False], [True]]  # the second had too few beside it
    assert [one.stop for one in _run(early, 3, _job("3"), {10: 0.5, 30: 0.4, 90: 0.3})] == [False, False, False]


def test_the_median_of_the_others_decides() -> None:
    early = EarlyStopping(MEDIAN)
    for number, value in enumerate((1.0, 2.0)):
        _run(early, number, _job(str(number)), {50: value, 100: value})
    assert [one.stop for one in _run(early, 2, _job("2"), {50: 1.4, 55: 1.4})] == [False, False]
    assert [one.stop for one in _run(early, 3, _job("3"), {50: 1.7, 55: 1.4})] == [True]


@pytest.mark.parametrize(
    "other",
    [
        {"prepare": "other"},
        {"variant": "ffn"},
        {"seed": 1},
        {"sequence_length": 32},
        {"mask_probability": 0.3},
        {"schedule": "cosine"},
    ],
)
def test_what_does_not_compare_is_not_compared(other: dict[str, Any]) -> None:
    early = EarlyStopping(ASHA)
    for number in range(3):
        _run(early, number, _job(str(number)), {10: 1.0})
    (verdict,) = _run(early, 3, _job("3", **other), {10: 9.0})
    assert (verdict.stop, verdict.compared) == (False, 0)
    (verdict,) = _run(early, 4, _job("4", learning_rate=1e-3, batch_size=64, temperature=3.0), {10: 9.0})
    assert (verdict.stop, verdict.compared) == (True, 3)


def test_trials_are_compared_at_the_same_share_of_their_steps_whenever_they_were_measured() -> None:
    early = EarlyStopping(ASHA)
    (verdict,) = _run(early, 0, _job("0", steps=1000), {80: 3.0, 120: 2.0})
    assert (verdict.share, verdict.value) == (pytest.approx(0.1), pytest.approx(2.5))
    assert _run(early, 1, _job("1", steps=100), {8: 3.0}) == []  # it is not there yet
    early.measured(_job("1", steps=100), _curve({12: 2.0}))
    (verdict,) = early.verdicts(1, judge=True)
    assert verdict.value == pytest.approx(2.5)


def test_a_trial_of_several_models_is_judged_by_all_of_them() -> None:
    early = EarlyStopping(ASHA)
    jobs = [_job("a", seed=0), _job("b", seed=1)]
    early.watch(0, jobs, {})
    early.measured(jobs[0], _curve({10: 1.0}))
    assert early.verdicts(0, judge=True) == []
    early.measured(jobs[1], _curve({10: 2.0})[:1])  # of one language alone
    assert early.verdicts(0, judge=True) == []
    early.measured(jobs[1], _curve({10: 2.0}))
    (verdict,) = early.verdicts(0, judge=True)
    assert verdict.value == pytest.approx(1.5)


def test_what_was_reported_before_is_evidence_and_not_judged_again() -> None:
    early = EarlyStopping(ASHA)
    for number, value in enumerate((1.0, 2.0, 3.0)):
        early.watch(number, [_job(str(number))], {0.1: value})
        early.forget(number)
    early.watch(3, [_job("3")], {0.1: 9.0})
    early.measured(_job("3"), _curve({10: 9.0, 30: 9.0}))
    (verdict,) = early.verdicts(3, judge=True)
    assert (verdict.share, verdict.stop) == (pytest.approx(0.3), False)
    (verdict,) = _run(early, 4, _job("4"), {10: 8.0})
    assert verdict.stop
    assert verdict.compared == 4


# What the searcher makes of it: as Tune drives it, with results made up here.


class _Tune:
    def __init__(self, study: StudyConfig, source: Source, storage: Storage, url: str) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.graph = JobGraph(storage.is_finished, lambda job: {"prepare": 2.0, "pretrain": 1.0}.get(job.kind, 0.0))
        self.search = TrialSearch(study, url, "data")

        def plan_trial(values: Mapping[str, Any]) -> Any:
            changed, variants = trial_study(study, values, with_values)
            return plan(changed, source, variants)

        self.searcher = JobSearcher(
            self.graph,
            storage,
            worker_settings(storage, source, study.scaling),
            [self],
            self.search,
            plan_trial,  # type: ignore[list-item]
        )
        self.storage = storage
        self.running: dict[str, Job] = {}
        self._asked = 0
        self.searcher.begin(plan(study, source))

    def ask(self) -> bool:
        """Take all jobs that are ready; whether the search goes on."""
        while isinstance(given := self.searcher.suggest(str(self._asked)), dict):
            self.running[str(self._asked)] = given["job"]
            self._asked += 1
        return given != FINISHED

    def report(self, trial: str, points: Mapping[int, float]) -> bool:
        """A pretraining job measures; whether it is stopped."""
        result = {"fresh": _curve(points), "progress": 0.5, "done": False}
        if self.searcher.reported(trial, result["fresh"]):
            self.running.pop(trial)
            self.searcher.on_trial_complete(trial, result | {"done": True})
            return True
        self.searcher.on_trial_result(trial, result)
        return False

    def finish(self, trial: str) -> None:
        job = self.running.pop(trial)
        result: dict[str, Any] = {"valid_perplexity": {}, "parameters": 1, "seconds": 1.0}
        if job.kind == "finetune":
            dev = {language: {"f1": 50.0} for language in job.labels["eval_language"].split(",")}
            result = {"selection": 1.0, "scores": {"dev": dev, "test": dev}}
        self.storage.write_record(job.key, {"result": result, "history": []})
        self.searcher.on_trial_complete(trial, {"done": True, "fresh": [], "progress": 1.0})

    def pretraining(self, count: int = 0) -> list[str]:
        """The pretraining jobs that run, once there are so many."""
        while True:
            self.ask()
            found = [trial for trial, job in self.running.items() if job.kind == "pretrain"]
            if len(found) >= count:
                return found
            for trial, job in list(self.running.items()):
                if job.kind == "prepare":
                    self.finish(trial)

    def end(self) -> None:
        """Finish all that is left."""
        while self.ask():
            for trial in list(self.running):
                self.finish(trial)
        assert self.search.exhausted

    # It hears the events, as a listener does.

    def started(self, job: Job) -> None: ...
    def measured(self, job: Job, fresh: Any, progress: float) -> None: ...
    def done(self, job: Job, record: Any, *, found: bool) -> None: ...
    def failed(self, job: Job, error: str, skipped: list[Job]) -> None:
        self.events.append(("failed", job.kind))

    def pruned(self, job: Job, reason: str) -> None:
        self.events.append(("pruned", job.kind))

    def trial(self, number: int, values: Any, scores: Any, *, found: bool) -> None:
        self.events.append(("trial", number, scores))


def _study(folder: Path, **changes: Any) -> StudyConfig:
    search = {
        "num_samples": 5,
        "sampler": "random",
        "space": {"pretrain.learning_rate": {"loguniform": [1e-5, 1e-2]}},
        "objective": {"within/mean": "max"},
        "early_stopping": {"method": "asha", "grace": 0.1, "min_trials": 2},
    }
    fields = {
        "study": "s",
        "data": {"source": str(folder)},
        "languages": [["aa", "bb"]],
        "variants": ["joint", "ffn"],
        "pretrain": {"steps": 100, "warmup_steps": 0, "valid_every": 10},
        "finetune": {"tasks": ["ner"], "epochs": 1, "grid": {"batch_size": [8], "learning_rate": [1e-3]}},
    }
    return validate({**fields, **changes, "search": {**search, **changes.get("search", {})}}, "test")


@pytest.fixture
def tune(corpus_folder: Path, tmp_path: Path) -> Any:
    def start(**changes: Any) -> _Tune:
        study = _study(corpus_folder, **changes)
        source = open_source(study.data, tmp_path)
        return _Tune(study, source, Storage.open(str(tmp_path / "runs")), f"sqlite:///{tmp_path}/trials.db")

    return start


def test_a_stopped_trial_is_pruned_and_its_jobs_never_run(tune: Any, tmp_path: Path) -> None:
    first: _Tune = tune(search={"variants": ["joint"], "concurrency": 5})
    trials = first.pretraining(6)  # the study's own joint and ffn, and those of the other trials
    for place, trial in enumerate(trials):
        stopped = first.report(trial, {10: 1.0 + place})
        assert stopped == (place >= 3)  # the study's own comes first and beside it another variant, of no trial
    assert [event for event in first.events if event[0] == "pruned"] == [("pruned", "pretrain")] * (len(trials) - 3)
    assert ("trial", 3, {}) in first.events
    assert first.search.pruned() == [2, 3, 4]
    assert first.graph.count(State.STOPPED) == len(trials) - 3
    assert first.graph.count(State.SKIPPED) == 2 * (len(trials) - 3)
    trial = optuna.load_study(study_name=first.search.name, storage=f"sqlite:///{tmp_path}/trials.db").trials[3]
    assert trial.state is TrialState.PRUNED
    assert trial.intermediate_values == {100: pytest.approx(-5.0)}  # of several that were stopped, tpe takes the larger

    # The driver dies; another goes on: what was stopped stays so, is evidence, and the search comes to its end.
    second: _Tune = tune(search={"variants": ["joint"], "concurrency": 5})
    assert ("trial", 3, {}) in second.events
    keys = {job.key for job in first.running.values()} - first.searcher._own  # of the trial that was under way
    (going_on,) = [trial for trial in second.pretraining(3) if second.running[trial].key in keys]
    assert not second.report(going_on, {10: 99.0})  # it passed that rung before
    second.end()
    assert second.search.pruned() == [2, 3, 4]
    assert sorted(second.search.complete()) == [0, 1]


def test_jobs_of_the_study_itself_are_never_stopped(tune: Any) -> None:
    driven: _Tune = tune(variants=["joint"], search={"concurrency": 5})
    own, *others = driven.pretraining(5)
    assert [driven.report(trial, {10: 1.0}) for trial in others] == [False] * 4
    assert not driven.report(own, {10: 99.0, 30: 99.0})
    assert driven.search.reported()[0][1] == {0.1: 99.0, 0.3: 99.0}  # and they are evidence
    driven.end()
    assert sorted(driven.search.complete()) == [0, 1, 2, 3, 4]


def test_jobs_that_several_trials_need_are_never_stopped(tune: Any) -> None:
    # The adapters' width matters to one of two variants: all these trials have the same model of the other.
    space = {
        "model.adapter_ratio": {"choice": [0.125, 0.5, 0.75, 1.0]},
        "pretrain.learning_rate": {"choice": [1e-3]},
    }
    search = {"space": space, "sampler": "grid", "variants": ["ffn", "adapter"], "concurrency": 4}
    driven: _Tune = tune(variants=["ffn", "adapter"], search=search)
    tried = [trial for trial in driven.pretraining(7) if driven.running[trial].config.pretrain.learning_rate == 1e-3]  # type: ignore[union-attr]
    (shared,) = [trial for trial in tried if driven.running[trial].labels["variant"] == "ffn"]
    first, second, third, fourth = [trial for trial in tried if trial != shared]
    for place, trial in enumerate((first, second, third)):
        driven.report(trial, {10: 1.0 + place})
    driven.finish(fourth)
    key = driven.running[shared].key
    assert not driven.report(shared, {10: 5.0})  # now two trials are known, and the third is behind them
    assert driven.search.pruned() == [2]
    assert driven.report(third, {11: 5.0})  # its own model stops
    assert not driven.report(shared, {20: 9.0})
    assert driven.graph.states[key] is State.RUNNING
    driven.end()
    assert sorted(driven.search.complete()) == [0, 1, 3]


def test_a_trial_with_nothing_left_to_stop_is_not_pruned(tune: Any) -> None:
    space = {
        "model.adapter_ratio": {"choice": [0.125, 0.5, 0.75, 1.0]},
        "pretrain.learning_rate": {"choice": [1e-3]},
    }
    search = {"space": space, "sampler": "grid", "variants": ["ffn", "adapter"], "concurrency": 4}
    driven: _Tune = tune(variants=["ffn", "adapter"], search=search)
    tried = [trial for trial in driven.pretraining(7) if driven.running[trial].config.pretrain.learning_rate == 1e-3]  # type: ignore[union-attr]
    (shared,) = [trial for trial in tried if driven.running[trial].labels["variant"] == "ffn"]
    for place, trial in enumerate(trial for trial in tried if trial != shared):
        driven.report(trial, {10: 1.0 + place})
        driven.finish(trial)
    assert not driven.report(shared, {10: 5.0})
    assert driven.search.pruned() == []
    assert len(driven.search.reported()) == 4


def test_a_stopped_job_that_another_trial_needs_goes_on(tune: Any) -> None:
    points = [{"pretrain.learning_rate": rate} for rate in (1e-3, 2e-3, 3e-3)]
    search = {"enqueue": points, "variants": ["joint"], "num_samples": 4, "concurrency": 4}
    driven: _Tune = tune(search=search)
    joint = [trial for trial in driven.pretraining(5) if driven.running[trial].labels["variant"] == "joint"]
    last = driven.running[joint[-1]]
    for place, trial in enumerate(joint):
        driven.report(trial, {10: 1.0 + place})
    assert driven.graph.states[last.key] is State.STOPPED
    values = driven.search.reported()[3][0]
    driven.searcher._add_trial(9, values)  # as the sampler may draw it again
    assert driven.graph.states[last.key] is State.READY
    driven.ask()
    assert last.key in {job.key for job in driven.running.values()}
