"""Population-based training as a search: what a generation makes of the one before, and what survives a restart."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylab.config import ModelConfig, PopulationConfig, PretrainConfig, PretrainJob, StudyConfig
from raylab.errors import InputError
from raylab.search.plan import Job
from raylab.search.population import LOG_PERPLEXITY, Population, distribution_of, exploit, explore, schedule_lines
from raylab.study import validate, with_values
from raylab.study.space import trial_study

RATE, TEMPERATURE = "pretrain.learning_rate", "pretrain.temperature"
SPACE = {RATE: {"loguniform": [1e-4, 1e-2]}, TEMPERATURE: {"uniform": [1, 5]}}
Reopen = Callable[..., Population]
FINAL = {"within/mean": 1.0, "zero_shot/mean": 2.0}


def _study(
    population: dict[str, Any] | None = None, pretrain: dict[str, Any] | None = None, **search: Any
) -> StudyConfig:
    fields = {
        "study": "s",
        "languages": [["aa", "bb"]],
        "variants": ["mono", "joint"],
        "pretrain": {"steps": 100, **(pretrain or {})},
        "search": {"space": SPACE, "population": {"size": 4, "generations": 3, **(population or {})}, **search},
    }
    return validate(fields, "test")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One file for all, for its tables take long to make; a test has a search of its own there, by its data's name."""
    return f"sqlite:///{tmp_path_factory.mktemp('optuna')}/trials.db"


@pytest.fixture
def reopen(url: str, request: pytest.FixtureRequest) -> Reopen:
    """Opens the population of the test; again, as a restart does."""

    def reopen(study: StudyConfig | None = None, name: str = "") -> Population:
        return Population(study or _study(), url, f"{request.node.name} {name}")

    return reopen


def _asked(search: Population) -> dict[int, dict[str, Any]]:
    """All that can be asked for now."""
    return dict(iter(search.ask, None))  # type: ignore[arg-type]


def _score(values: dict[str, Any]) -> float:
    """Another one for every member: the better, the nearer its last learning rate is to 3e-3."""
    changes = values.get("pretrain.changes", [])
    rate = changes[-1]["learning_rate"] if changes else values[RATE]
    return abs(math.log(rate / 3e-3))


def _run(search: Population, asked: dict[int, dict[str, Any]], order: random.Random | None = None) -> None:
    """Tell how good trials were, and ask for the next ones, to the end."""
    while not search.exhausted:
        asked |= _asked(search)
        number = order.choice(sorted(asked)) if order else min(asked)
        values = asked.pop(number)
        search.tell(number, {LOG_PERPLEXITY: _score(values)} if "finetune" in values else FINAL)


def test_the_first_generation_has_the_studys_own_values_and_draws(reopen: Reopen) -> None:
    search = reopen()
    asked = _asked(search)
    assert list(asked) == [0, 1, 2, 3]
    assert asked[0] == {RATE: 5e-4, TEMPERATURE: 1.0, "pretrain.until": 33, "finetune": None}
    assert len({values[RATE] for values in asked.values()}) == 4
    assert all(1e-4 <= values[RATE] <= 1e-2 and 1 <= values[TEMPERATURE] <= 5 for values in asked.values())
    assert not search.all_asked
    outside = reopen(_study(pretrain={"temperature": 9.0}))
    assert _asked(outside)[0][TEMPERATURE] <= 5


def test_a_generation_waits_for_the_one_before_and_copies_the_best_over_the_worst(reopen: Reopen) -> None:
    search = reopen()
    first = _asked(search)
    for number, score in enumerate((3.0, 1.0, 4.0, 2.0)):
        assert search.ask() is None
        assert not search.exhausted
        search.tell(number, {LOG_PERPLEXITY: score})
    second = _asked(search)
    assert list(second) == [4, 5, 6, 7]
    for member in (0, 1, 3):
        same = {"learning_rate": first[member][RATE], "temperature": first[member][TEMPERATURE]}
        assert second[4 + member] == {
            **first[member],
            "pretrain.changes": [{"step": 33, **same}],
            "pretrain.until": 66,
        }
    copy = second[6]
    assert (copy[RATE], copy[TEMPERATURE]) == (first[1][RATE], first[1][TEMPERATURE])  # its past is the best member's
    assert copy["pretrain.changes"][0]["learning_rate"] != first[1][RATE]
    for number in second:
        search.tell(number, {LOG_PERPLEXITY: float(number)})
    third = _asked(search)
    assert all("pretrain.until" not in values and "finetune" not in values for values in third.values())
    assert [change["step"] for change in third[8]["pretrain.changes"]] == [33, 66]
    assert search.all_asked
    for number in third:
        search.tell(number, {"within/mean": float(number), "zero_shot/mean": 0.0})
    assert search.exhausted
    ((best, values, scores),) = search.best()
    assert (best, values, scores) == (11, third[11], {"within/mean": 11.0, "zero_shot/mean": 0.0})
    assert search.complete()[6] == (second[6], {LOG_PERPLEXITY: 6.0})
    lineage = search.lineage(11)
    assert [(stage.first, stage.last) for stage in lineage] == [(1, 33), (34, 66), (67, 100)]
    assert [stage.trial for stage in lineage] == [0, 4, 11]  # the last was a copy of the best of the second
    assert lineage[0].values == {RATE: third[11][RATE], TEMPERATURE: third[11][TEMPERATURE]}
    first_line, *_, last_line = schedule_lines(lineage)
    assert first_line == "steps 1 to 33    learning_rate 0.0005, temperature 1 (trial 0)"
    assert last_line.startswith("steps 67 to 100  learning_rate ")


def test_the_values_of_every_generation_fit_the_study(reopen: Reopen) -> None:
    study = _study()
    search = reopen(study)
    _run(search, {})
    for values, _ in search.complete().values():
        changed, variants = trial_study(study, values, with_values)
        assert variants == ("joint",)
        assert (changed.finetune is None) == (changed.pretrain.until is not None)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), cut=st.integers(0, 12))
def test_neither_order_nor_a_restart_changes_the_members(reopen: Reopen, seed: int, cut: int) -> None:
    reference = reopen(name="reference")
    if not reference.exhausted:
        _run(reference, {})
    order = random.Random(seed)
    name = f"{seed}-{cut}"
    search = reopen(name=name)
    asked: dict[int, dict[str, Any]] = {}
    for _ in range(cut):
        asked |= _asked(search)
        if asked:
            number = order.choice(sorted(asked))
            values = asked.pop(number)
            search.tell(number, {LOG_PERPLEXITY: _score(values)} if "finetune" in values else FINAL)
    if order.random() < 0.5:
        search.ask()  # and the driver dies
    search = reopen(name=name)
    assert {number: values for number, values in search.under_way().items() if number in asked} == asked
    _run(search, search.under_way(), order)
    assert search.complete() == reference.complete()
    search.discard()


def test_a_member_that_failed_is_replaced_by_a_survivor(reopen: Reopen) -> None:
    search = reopen()
    first = _asked(search)
    search.tell(0, None)
    search.tell(1, {LOG_PERPLEXITY: 9.0})
    search.prune(2, "behind")
    search.tell(3, {LOG_PERPLEXITY: 8.0})
    second = _asked(search)
    assert [values[RATE] for values in second.values()] == [first[parent][RATE] for parent in (3, 1, 3, 3)] or [
        values[RATE] for values in second.values()
    ] == [first[parent][RATE] for parent in (1, 1, 1, 3)]
    assert (search.failed(), search.pruned()) == ([0], [2])
    assert reopen().pruned() == [2]


def test_a_generation_without_a_survivor_is_the_last(reopen: Reopen) -> None:
    search = reopen()
    for number in _asked(search):
        assert not search.all_asked
        search.tell(number, None)
    assert search.all_asked
    assert search.exhausted
    assert search.ask() is None
    assert search.best() == []


def test_optuna_shows_generation_member_and_parent(reopen: Reopen, url: str) -> None:
    search = reopen()
    _run(search, {})
    trials = optuna.load_study(study_name=search.name, storage=url).trials
    assert [trial.number for trial in trials] == list(range(12))
    assert [(t.user_attrs["generation"], t.user_attrs["member"]) for t in trials] == [divmod(n, 4) for n in range(12)]
    assert {t.user_attrs["parent"] for t in trials[:4]} == {None}
    for trial in trials[4:]:
        parent = trials[(trial.user_attrs["generation"] - 1) * 4 + trial.user_attrs["parent"]]
        if trial.user_attrs["parent"] == trial.user_attrs["member"]:
            assert trial.params == parent.params
        else:
            assert trial.params != parent.params
    assert [len(trial.intermediate_values) for trial in trials] == [1] * 8 + [0] * 4


def test_another_population_is_another_search(reopen: Reopen) -> None:
    names = {
        reopen(study).name
        for study in (_study(), _study({"size": 5}), _study({"factors": [0.5]}), _study(pretrain={"steps": 99}))
    }
    assert len(names) == 4


def _result(until: int | None, perplexity: dict[str, float], steps: int = 100) -> tuple[Job, dict[str, Any]]:
    changes = [{"step": 50}] if until != 50 else []
    config = PretrainConfig.model_validate({"steps": steps, "until": until, "changes": changes})
    job = PretrainJob(languages=("aa",), variant="joint", seed=0, model=ModelConfig(), pretrain=config, meta=None)
    return Job("pretrain", str(random.random()), job), {"steps": until or steps, "valid_perplexity": perplexity}


def test_a_score_is_the_mean_log_perplexity_at_the_end_of_the_trials_own_part(reopen: Reopen) -> None:
    results = [
        _result(50, {"aa": 1000.0, "bb": 1000.0}),
        _result(80, {"aa": math.e, "bb": math.e**2}),
        _result(50, {"aa": 1000.0, "cc": 1000.0}),
        _result(80, {"aa": math.e**3, "cc": math.e**6}),
    ]
    search = reopen()
    assert search.score(results) == {LOG_PERPLEXITY: pytest.approx(3.0)}
    assert search.score([]) is None


scores = st.lists(st.none() | st.floats(0, 10), min_size=2, max_size=20).filter(
    lambda all: any(s is not None for s in all)
)


@settings(deadline=None)
@given(scores=scores, quantile=st.floats(0.01, 0.5), seed=st.integers(0, 99), generation=st.integers(1, 9))
def test_exploit_replaces_the_worst_by_the_best(
    scores: list[float | None], quantile: float, seed: int, generation: int
) -> None:
    parents = exploit(scores, quantile, seed, generation)
    assert parents == exploit(list(scores), quantile, seed, generation)
    replaced = [member for member, parent in enumerate(parents) if parent != member]
    kept = [score for member, score in enumerate(scores) if member not in replaced and score is not None]
    failed = [member for member, score in enumerate(scores) if score is None]
    assert set(failed) <= set(replaced)
    count = min(math.ceil(quantile * len(scores)), len(scores) // 2)
    assert len(replaced) == max(len(failed), min(count, len(scores) - 1))
    for member in replaced:
        own, parent = scores[member], scores[parents[member]]
        assert parent is not None
        assert sorted(kept).index(parent) < count  # one of the best
        assert own is None or own >= max(kept)


factors = st.lists(st.floats(0.01, 100), min_size=1, max_size=3)


@settings(deadline=None)
@given(data=st.data(), factors=factors, resample=st.floats(0, 1), seed=st.integers(0, 99), member=st.integers(0, 99))
def test_explore_stays_in_the_space(
    data: st.DataObject, factors: list[float], resample: float, seed: int, member: int
) -> None:
    choices = [0.5, 1.0, 2.0, 8.0]
    specs = [{"loguniform": [1e-4, 1e-2]}, {"uniform": [1.0, 5.0]}, {"choice": choices}]
    space = {name: distribution_of(spec) for name, spec in zip("abc", specs, strict=True)}
    values = {
        "a": data.draw(st.floats(1e-4, 1e-2)),
        "b": data.draw(st.floats(1, 5)),
        "c": data.draw(st.sampled_from(choices)),
    }
    config = PopulationConfig(factors=tuple(factors), resample_probability=resample)
    found = explore(values, space, config, seed, 1, member)
    assert found == explore(dict(reversed(values.items())), space, config, seed, 1, member)
    assert 1e-4 <= found["a"] <= 1e-2
    assert 1 <= found["b"] <= 5
    assert found["c"] in choices
    if resample == 0:
        assert found["a"] in [min(max(values["a"] * factor, 1e-4), 1e-2) for factor in factors]
        assert abs(choices.index(found["c"]) - choices.index(values["c"])) <= 1


def test_explore_draws_anew_as_often_as_told() -> None:
    space = {"a": distribution_of({"uniform": [1.0, 5.0]})}
    config = PopulationConfig(factors=(1.0,), resample_probability=0.25)
    drawn = [explore({"a": 2.0}, space, config, 0, 1, member)["a"] for member in range(400)]
    assert 60 < sum(value != 2.0 for value in drawn) < 140


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space": {"model.dropout": {"uniform": [0.1, 0.5]}}}, r"search\.space\.model\.dropout: .* cannot change"),
        ({"space": {"pretrain.steps": {"int": [1, 9]}}}, r"search\.space\.pretrain\.steps: .* cannot change"),
        ({"space": {TEMPERATURE: {"int": [1, 5]}}}, r"search\.space\.pretrain\.temperature: found .*'int'"),
        ({"num_samples": 20}, r"search\.num_samples: found 20; .* is 12 trials"),
        ({"population": {"generations": 101}}, r"search\.population\.generations: found 101; at most pretrain\.steps"),
        ({"population": {"size": 1}}, r"search\.population\.size: found 1"),
        ({"population": {"quantile": 0.7}}, r"search\.population\.quantile: found 0\.7"),
        ({"population": {"factors": []}}, r"search\.population\.factors: found \[\]"),
        ({"pretrain": {"until": 50}}, r"pretrain\.until: found with search\.population"),
        ({"pretrain": {"changes": [{"step": 50}]}}, r"pretrain\.changes: found with search\.population"),
        ({"early_stopping": {"method": "median"}}, r"search\.early_stopping: found with search\.population"),
    ],
)
def test_a_population_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        _study(**fields)
    assert "\n" not in str(caught.value)


def test_the_number_of_samples_is_that_of_the_trials() -> None:
    for study in (_study(), _study(num_samples=12)):
        assert study.search is not None
        assert study.search.num_samples == 12
    plain = _study()
    assert validate(plain.model_dump(mode="json"), "again") == plain
