"""Every sampler: drawn from the space, seeded, and the same after an interruption."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from raylab.config import StudyConfig
from raylab.config.search import without_password
from raylab.errors import InputError
from raylab.search import database
from raylab.search.trials import TrialSearch, ended_trials
from raylab.study import validate

NUMBERS = {
    "pretrain.temperature": {"uniform": [1, 5]},
    "pretrain.batch_size": {"int": [8, 32], "step": 8},
    "pretrain.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "pretrain.adam_betas": {"choice": [[0.9, 0.98], [0.9, 0.999]]},
}
CONDITIONAL = {
    "model.adapter_ratio": {"choice": [0.25, 0.5]},
    "meta.epsilon": {"loguniform": [1e-3, 1]},
    "variant": {"choice": ["ffn", "adapter", "meta_adapter"]},
    "meta.method": {"choice": ["finite_difference", "exact"]},
    "pretrain.temperature": {"uniform": [1, 5]},
}
POINTS = {
    "variant": {"choice": ["ffn", "adapter"]},
    "model.adapter_ratio": {"choice": [0.25, 0.5]},
    "pretrain.temperature": {"uniform": [1, 2], "step": 0.5},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 4},
    "nsga2": {"population_size": 3},
    "cmaes": {"population_size": 4},
}


def study(space: dict[str, Any] = NUMBERS, **search: Any) -> StudyConfig:
    fields = {
        "study": "s",
        "languages": [["aa", "bb"]],
        "variants": ["mono", "joint", "ffn", "adapter", "meta_adapter"],
        "pretrain": {"batch_size": 8},
        "search": {"space": space, "num_samples": 7, "objective": {"within/mean": "max"}, **search},
    }
    return validate(fields, "test")


def _scores(values: Mapping[str, Any]) -> dict[str, float]:
    good = values.get("pretrain.temperature", 3.0) - 2 * values.get("model.adapter_ratio", 0.0)
    return {"within/mean": good, "zero_shot/mean": -good + values.get("meta.epsilon", 0.1)}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with Optuna's tables: they take half a second to make."""
    path = tmp_path_factory.mktemp("optuna") / "empty.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def new(empty: Path, tmp_path: Path) -> Callable[[str], str]:
    """The URL of a storage of this name."""

    def url(name: str = "trials") -> str:
        if not (tmp_path / f"{name}.db").exists():
            shutil.copy(empty, tmp_path / f"{name}.db")
        return f"sqlite:///{tmp_path}/{name}.db"

    return url


def run(config: StudyConfig, url: str, cuts: Collection[int] = ()) -> list[dict[str, Any]]:
    """The values of all trials, one after another; after the trials in `cuts` were asked for, the driver dies."""
    search = TrialSearch(config, url, "data")
    values = []
    left = search.unasked
    while (asked := search.ask()) is not None:
        assert search.unasked < left
        left = search.unasked
        if len(values) in cuts:
            search = TrialSearch(config, url, "data")
            assert search.under_way() == {asked[0]: asked[1]}
        search.tell(*asked[:1], {name: _scores(asked[1])[name] for name in search.config.objective})
        values.append(asked[1])
    assert search.exhausted
    assert search.unasked == 0
    return values


@pytest.mark.parametrize(
    ("sampler", "space", "objectives"),
    [
        ("tpe", NUMBERS, 1),
        ("tpe", CONDITIONAL, 1),
        ("tpe", CONDITIONAL, 2),
        ("nsga2", CONDITIONAL, 2),
        ("cmaes", NUMBERS, 1),
        ("qmc", CONDITIONAL, 2),
        pytest.param("cmaes", CONDITIONAL, 1, marks=pytest.mark.slow),
        pytest.param("nsga2", NUMBERS, 1, marks=pytest.mark.slow),
        pytest.param("random", CONDITIONAL, 1, marks=pytest.mark.slow),
        pytest.param("gp", NUMBERS, 1, marks=pytest.mark.slow),
        pytest.param("gp", CONDITIONAL, 2, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_search_draws_what_it_would_have_drawn(
    new: Callable[[str], str], sampler: str, space: dict[str, Any], objectives: int
) -> None:
    names = {"within/mean": "max", "zero_shot/mean": "max"} if objectives == 2 else {"within/mean": "max"}
    config = study(space, sampler=sampler, sampler_options=OPTIONS.get(sampler, {}), objective=names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = run(config, new("whole"))
        assert run(config, new("cut"), cuts=(0, 5)) == whole
    assert len(whole) == 7
    assert len({str(values) for values in whole}) >= 5
    if space is CONDITIONAL:
        assert {values["variant"] for values in whole} == {"ffn", "adapter", "meta_adapter"}
        for values in whole:
            assert ("model.adapter_ratio" in values) == (values["variant"] != "ffn")
            assert ("meta.epsilon" in values) == (values.get("meta.method") == "finite_difference")
    else:
        assert all(values["pretrain.adam_betas"] in ([0.9, 0.98], [0.9, 0.999]) for values in whole)
        assert all(values["pretrain.batch_size"] in (8, 16, 24, 32) for values in whole)


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_draws_that_look_at_no_result_do_not_depend_on_timing(new: Callable[[str], str], sampler: str) -> None:
    config = study(POINTS if sampler == "grid" else NUMBERS, sampler=sampler)
    apart = run(config, new("apart"))
    search = TrialSearch(config, new("together"), "data")
    together = [asked[1] for asked in iter(search.ask, None)]
    assert together == apart
    assert search.all_asked
    assert not search.exhausted


def test_all_trials_that_were_asked_for_are_remembered(new: Callable[[str], str]) -> None:
    search = TrialSearch(study(sampler="random"), new("trials"), "data")
    asked = [search.ask() for _ in range(4)]
    (first, _), (second, _), (third, _), _ = (one for one in asked if one is not None)
    search.tell(first, {"within/mean": 1.0})
    search.tell(second, None)
    search.prune(third, "it was behind")
    again = TrialSearch(study(sampler="random"), new("trials"), "data")
    assert again.tried() == [one[1] for one in asked if one is not None]
    assert ended_trials(new("trials"), again.name) == 3
    assert ended_trials(new("trials"), "another") == 0


def test_who_asks_how_far_a_search_is_makes_none(tmp_path: Path) -> None:
    assert ended_trials(f"sqlite:///{tmp_path}/none/trials.db", "any") == 0
    assert list(tmp_path.iterdir()) == []


def test_another_seed_draws_others(new: Callable[[str], str]) -> None:
    for sampler in ("random", "qmc"):
        first, second = (
            run(study(sampler=sampler, seed=seed, num_samples=3), new(f"{sampler}{seed}")) for seed in (0, 1)
        )
        assert first[0] == second[0]  # the study's own
        assert all(one != other for one, other in zip(first[1:], second[1:], strict=True))


def test_a_grid_tries_every_point_once(new: Callable[[str], str]) -> None:
    config = study(POINTS, sampler="grid", num_samples=100, enqueue=[{"variant": "ffn", "pretrain.temperature": 1.5}])
    values = run(config, new("trials"), cuts=(0, 2, 5))
    assert len(values) == 3 + 2 * 3
    assert len({str(sorted(one.items())) for one in values}) == 9
    assert values[:2] == [
        {"variant": variant, "pretrain.temperature": 1.0, **ratio}
        for variant, ratio in (("ffn", {}), ("adapter", {"model.adapter_ratio": 0.25}))
    ]
    assert values[2] == {"variant": "ffn", "pretrain.temperature": 1.5}
    assert TrialSearch(config, new("trials"), "data").exhausted


@pytest.mark.slow
def test_a_search_learns(new: Callable[[str], str]) -> None:
    space = {"pretrain.temperature": {"uniform": [1, 100]}, "pretrain.mask_probability": {"uniform": [0.1, 0.2]}}
    for sampler in ("tpe", "gp", "cmaes", "nsga2"):
        config = study(space, sampler=sampler, num_samples=18, sampler_options=OPTIONS[sampler])
        values = [one["pretrain.temperature"] for one in run(config, new(sampler))]
        first, last = values[1:6], values[-5:]
        assert sum(last) > sum(first), sampler


def test_points_are_tried_first_and_new_ones_when_they_are_added(new: Callable[[str], str]) -> None:
    url = new("trials")
    points = [{"pretrain.temperature": 4.5}, {"pretrain.temperature": 2.5, "pretrain.batch_size": 24}]
    search = TrialSearch(study(enqueue=points[:1]), url, "data")
    first, second = search.ask(), search.ask()
    assert first is not None
    assert second is not None
    assert first[1]["pretrain.batch_size"] == 8
    assert second[1]["pretrain.temperature"] == 4.5
    again = TrialSearch(study(enqueue=points), url, "data")
    third = again.ask()
    assert third is not None
    assert {path: third[1][path] for path in points[1]} == points[1]
    assert again.name == search.name


def test_a_trial_that_was_cut_off_while_it_was_drawn_is_none(new: Callable[[str], str]) -> None:
    config, url = study(sampler="tpe"), new("trials")
    whole = run(config, new("whole"))
    search = TrialSearch(config, url, "data")
    for _ in range(2):
        asked = search.ask()
        assert asked is not None
        search.tell(asked[0], {"within/mean": _scores(asked[1])["within/mean"]})
    half = optuna.load_study(study_name=search.name, storage=url).ask()
    half.suggest_float("pretrain.temperature", 1, 5)
    assert run(config, url) == whole[2:]
    assert TrialSearch(config, url, "data").failed() == []


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_only_feasible_trials_are_good(new: Callable[[str], str], sampler: str) -> None:
    config = study(
        {"pretrain.temperature": {"uniform": [1, 5]}},
        sampler=sampler,
        sampler_options=OPTIONS.get(sampler, {}),
        constraints={"parameters": {"max": 100}, "within/mean": {"min": 0.5}},
    )
    search = TrialSearch(config, new("trials"), "data")
    assert search.best() == []
    feasible = {}
    for number in range(7):
        asked = search.ask()
        assert asked is not None
        scores = {"within/mean": float(number), "parameters": 90.0 + 10 * (number % 4)}
        search.tell(asked[0], scores)
        if scores["parameters"] <= 100 and number >= 1:
            feasible[asked[0]] = scores
    ((best, _, scores),) = search.best()
    assert best == max(feasible)
    assert scores == feasible[best]
    assert len(search.complete()) == 7
    assert TrialSearch(config, new("trials"), "data").best() == search.best()


def _finished(config: StudyConfig, url: str, data: str = "data") -> TrialSearch:
    search = TrialSearch(config, url, data)
    while (asked := search.ask()) is not None:
        search.tell(asked[0], _scores(asked[1]))
    return search


def test_earlier_trials_inform_a_search_and_are_no_samples(new: Callable[[str], str]) -> None:
    url = new("trials")
    space = {"pretrain.temperature": {"uniform": [1, 5]}}
    earlier = _finished(study(space, sampler="random", num_samples=6), url)
    wider = {**space, "model.dropout": {"uniform": [0.0, 0.5]}}
    config = study(wider, num_samples=3, warm_start=["s"], sampler_options={"n_startup_trials": 5})
    search = TrialSearch(config, url, "data")
    assert search.name != earlier.name
    assert search.complete() == {}
    imported = optuna.load_study(study_name=search.name, storage=url).get_trials(states=(TrialState.COMPLETE,))
    assert [trial.params["model.dropout"] for trial in imported] == [0.1] * 6  # the earlier study's own
    (best,) = earlier.best()
    ((number, values, scores),) = search.best()
    assert (values["pretrain.temperature"], scores) == (best[1]["pretrain.temperature"], best[2])
    assert search.origin(number) == earlier.name
    assert len(run(config, url)) == 3
    again = TrialSearch(config, url, "data")  # and they are brought in once
    assert len(again.complete()) == 3
    assert len(optuna.load_study(study_name=search.name, storage=url).trials) == 9


def test_earlier_trials_of_a_fixed_variant_inform_a_search_over_variants(new: Callable[[str], str]) -> None:
    url = new("trials")
    space = {"pretrain.temperature": {"uniform": [1, 5]}}
    _finished(study(space, variants=["adapter"], num_samples=4), url)
    config = study(
        {**space, "variant": {"choice": ["ffn", "adapter"]}, "model.adapter_ratio": {"choice": [0.25, 0.5]}},
        warm_start=[f"{url}#s"],
    )
    trials = optuna.load_study(study_name=TrialSearch(config, url, "data").name, storage=url).trials
    found = [trial.params for trial in trials if trial.state is TrialState.COMPLETE]
    assert len(found) == 4
    assert {(params["variant"], params["model.adapter_ratio"]) for params in found} == {("adapter", 0.25)}


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        ({}, "other", "its data is other data; to try its best values again: search.enqueue"),
        ({"pretrain": {"batch_size": 16}}, "data", "its pretrain.batch_size is 8, and here it is 16"),
        ({"seeds": [0, 1]}, "data", r"its seeds is \[0\], and here it is \[0, 1\]"),
        ({"search": {"objective": {"zero_shot/mean": "max"}}}, "data", "it did not measure zero_shot/mean"),
        ({"search": {"constraints": {"parameters": {"max": 1}}}}, "data", "it did not measure parameters"),
        ({"search": {"space": {"pretrain.temperature": {"uniform": [8, 9]}}}}, "data", "outside search.space"),
        ({"search": {"warm_start": ["t"]}}, "data", "no search of this name"),
    ],
)
def test_trials_that_do_not_compare_are_refused(
    new: Callable[[str], str], change: dict[str, Any], data: str, message: str
) -> None:
    url = new("trials")
    space = {"pretrain.temperature": {"uniform": [1, 5]}}
    _finished(study(space, num_samples=3), url)
    fields = study(space, num_samples=3, warm_start=["s"]).model_dump(mode="json", exclude={"search"})
    search = {"space": space, "num_samples": 4, "objective": {"within/mean": "max"}, "warm_start": ["s"]}
    fields["pretrain"] |= change.get("pretrain", {})
    fields["seeds"] = change.get("seeds", fields["seeds"])
    config = validate({**fields, "search": search | change.get("search", {})}, "test")
    with pytest.raises(InputError, match=message) as caught:
        TrialSearch(config, url, data)
    assert "\n" not in str(caught.value)


def test_a_password_is_in_no_error() -> None:
    for url in ("postgresql://me:secret@127.0.0.1:9/trials", "postgresql://me:secret@127.0.0.1:9:9/trials"):
        with pytest.raises(InputError, match=r"search\.storage: postgresql://me:\*\*\*@127") as caught:
            TrialSearch(study(storage=url), url, "data")
        assert "secret" not in str(caught.value)
    assert without_password("sqlite:///a:b@c.db") == "sqlite:///a:b@c.db"


def test_a_search_waits_for_a_storage_that_is_locked(
    new: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCKED_SECONDS", 0.1)
    config, url = study(sampler="tpe"), new("trials")
    whole = run(config, new("whole"))
    search = TrialSearch(config, url, "data")
    other = sqlite3.connect(tmp_path / "trials.db", check_same_thread=False)
    values = []
    for number in range(7):
        other.execute("BEGIN EXCLUSIVE")
        threading.Timer(0.2 if number % 4 == 0 else 0.0, other.rollback).start()
        asked = search.ask()
        assert asked is not None
        search.tell(asked[0], {"within/mean": _scores(asked[1])["within/mean"]})
        values.append(asked[1])
    assert values == whole
    assert search.failed() == []


def test_a_storage_that_stays_away_ends_the_sweep() -> None:
    waited: list[float] = []

    def away() -> None:
        raise optuna.exceptions.StorageInternalError("gone")

    with pytest.raises(InputError, match=r"search\.storage: postgresql://me:\*\*\*@host/db is away for 18"):
        database.patiently(away, "postgresql://me:secret@host/db", waited.append)
    assert sum(waited) >= database.PATIENCE_SECONDS
