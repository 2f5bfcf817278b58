"""The space of a search: what may be varied, and where."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raylab.config import StudyConfig
from raylab.errors import InputError
from raylab.study import validate, with_values
from raylab.study.parameters import Parameter, Space
from raylab.study.space import search_space, trial_study

VARIANTS = ["mono", "ffn", "adapter", "meta_adapter"]
RATIO = {"choice": [0.25, 0.5]}


def _study(space: dict[str, Any], study: dict[str, Any] | None = None, **search: Any) -> StudyConfig:
    fields = {"study": "s", "languages": [["aa", "bb"]], "variants": VARIANTS, **(study or {})}
    return validate({**fields, "search": {"space": space, **search}}, "test")


def test_an_adapter_ratio_is_varied_only_where_there_are_adapters() -> None:
    study = _study({"model.adapter_ratio": RATIO, "variant": {"choice": ["ffn", "adapter"]}})
    assert list(search_space(study).points()) == [
        {"variant": "ffn"},
        {"variant": "adapter", "model.adapter_ratio": 0.25},
        {"variant": "adapter", "model.adapter_ratio": 0.5},
    ]


def test_a_step_of_the_finite_difference_is_varied_only_where_there_is_one() -> None:
    space = {
        "meta.epsilon": {"choice": [0.1, 0.2], "when": {"pretrain.schedule": "linear"}},
        "meta.method": {"choice": ["exact", "forward_difference"]},
        "pretrain.schedule": {"choice": ["linear", "cosine"]},
    }
    points = list(search_space(_study(space)).points())
    with_epsilon = [point for point in points if "meta.epsilon" in point]
    assert len(points) == 5
    assert all(point["meta.method"] == "forward_difference" for point in with_epsilon)
    assert all(point["pretrain.schedule"] == "linear" for point in with_epsilon)


def test_a_condition_that_always_holds_is_none() -> None:
    space = {"model.adapter_ratio": {**RATIO, "when": {"variant": ["adapter", "meta_adapter"], "seeds": [(0,)]}}}
    assert not search_space(_study(space)).conditional


def test_a_trial_runs_its_variant_alone_and_the_studys_own_value_where_none_is_varied() -> None:
    study = _study({"model.adapter_ratio": RATIO, "variant": {"choice": ["ffn", "adapter"]}})
    changed, variants = trial_study(study, {"variant": "adapter", "model.adapter_ratio": 0.5}, with_values)
    assert (changed.model.adapter_ratio, variants) == (0.5, ("adapter",))
    changed, variants = trial_study(study, {"variant": "ffn"}, with_values)
    assert (changed.model.adapter_ratio, variants) == (0.25, ("ffn",))
    assert changed.search is None


def test_steps_and_logarithms() -> None:
    space = {
        "pretrain.temperature": {"uniform": [1, 2], "step": 0.25},
        "pretrain.batch_size": {"int": [8, 40], "step": 16},
        "pretrain.steps": {"int": [300, 500], "log": True},
    }
    first, second, third = search_space(_study(space)).parameters
    assert first.values == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert second.values == [8, 24, 40]
    assert (third.log, third.values is not None) == (True, True)


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    conditions=st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 2), min_size=1)), max_size=4),
)
def test_the_points_are_the_combinations_with_the_inactive_left_out(
    sizes: list[int], conditions: list[tuple[int, set[int]]]
) -> None:
    whens: list[dict[str, tuple[int, ...]]] = [{} for _ in sizes]
    for place, (on, allowed) in enumerate(conditions[: len(sizes)]):
        if on < place:
            whens[place][str(on)] = tuple(allowed)
    parameters = [
        Parameter(str(place), "choice", choices=tuple(range(size)), when=whens[place])
        for place, size in enumerate(sizes)
    ]
    space = Space.of(reversed(parameters), "test")
    every = itertools.product(*(range(size) for size in sizes))
    wanted = {tuple(sorted(space.active({str(n): v for n, v in enumerate(one)}).items())) for one in every}
    points = [tuple(sorted(point.items())) for point in space.points()]
    assert set(points) == wanted
    assert len(points) == len(wanted)
    assert all(space.complete(dict(point)) for point in points)


LR = {"pretrain.learning_rate": {"loguniform": [1e-4, 1e-2]}}


@pytest.mark.parametrize(
    ("space", "search", "parts"),
    [
        ({"varaint": {"choice": ["ffn"]}}, {}, ["search.space.varaint", "did you mean variant?"]),
        ({"pretrain.until": {"int": [1, 9]}}, {}, ["search.space.pretrain.until", "not a field to search"]),
        (
            {"variant": {"choice": ["ffn", "mono"]}},
            {},
            ["search.space.variant", "'mono'", "['ffn', 'adapter', 'meta_adapter']"],
        ),
        ({"variant": {"choice": ["ffn", "joint"]}}, {}, ["search.space.variant", "'joint'"]),
        ({"variant": {"choice": ["ffn"]}}, {"variants": ["ffn"]}, ["search.variants", "search.space.variant"]),
        (
            {"meta.epsilon": {"uniform": [0.1, 1]}},
            {"variants": ["ffn"]},
            ["search.space.meta.epsilon", "meta_adapter", "ffn"],
        ),
        (
            {
                "meta.epsilon": {"uniform": [0.1, 1], "when": {"meta.method": "exact"}},
                "meta.method": {"choice": ["exact", "finite_difference"]},
            },
            {},
            ["search.space.meta.epsilon", "matters only where meta.method is"],
        ),
        (
            {**LR, "meta.epsilon": {"uniform": [0.1, 1], "when": {"model.dim": 32}}},
            {},
            ["when.model.dim", "always 64", "never varied"],
        ),
        (
            {**LR, "meta.epsilon": {"uniform": [0.1, 1], "when": {"model.dims": 32}}},
            {},
            ["when.model.dims", "not a field"],
        ),
        (
            {**LR, "meta.epsilon": {"uniform": [0.1, 1], "when": {"variants": "ffn"}}},
            {},
            ["when.variants", "did you mean variant?"],
        ),
        (
            {**LR, "meta.epsilon": {"uniform": [0.1, 1], "when": LR}},
            {},
            ["when.pretrain.learning_rate", "any number in a range"],
        ),
        (
            {
                "model.dropout": {"choice": [0.1, 0.2], "when": {"pretrain.schedule": "linear"}},
                "pretrain.schedule": {"choice": ["linear", "cosine"], "when": {"model.dropout": 0.1}},
            },
            {},
            ["circle", "model.dropout on pretrain.schedule"],
        ),
        (
            {"pretrain.schedule": {"choice": ["linear", "linear"]}},
            {},
            ["search.space.pretrain.schedule.choice", "different values"],
        ),
        ({"pretrain.temperature": {"uniform": [1, 2], "step": 3}}, {}, ["step", "at most 1"]),
        ({"pretrain.learning_rate": {"loguniform": [0.1, 1], "step": 0.1}}, {}, ["step", "logarithmic"]),
        ({"pretrain.learning_rate": {"loguniform": [0, 1]}}, {}, ["starts above 0"]),
        (LR, {"sampler": "tpee"}, ["search.sampler", "'tpee'", "'tpe'"]),
        (LR, {"sampler": "grid"}, ["search.space.pretrain.learning_rate", "a step is needed"]),
        (LR, {"sampler": "cmaes"}, ["search.sampler: found cmaes with 2 objectives"]),
        (LR, {"sampler": "nsga2"}, ["first 50 samples are random", "num_samples is 20"]),
        (
            {"variant": {"choice": ["ffn", "adapter"]}},
            {"sampler": "cmaes", "objective": {"within/mean": "max"}},
            ["choices alone"],
        ),
        (
            LR,
            {"sampler": "random", "sampler_options": {"population_size": 4}},
            ["sampler_options.population_size", "no option of random"],
        ),
        (LR, {"enqueue": [{"pretrain.learning_rate": 1}]}, ["search.enqueue.0.pretrain.learning_rate", "found 1"]),
        (LR, {"enqueue": [{"pretrain.steps": 1}]}, ["search.enqueue.0.pretrain.steps", "not in search.space"]),
        (
            {"model.adapter_ratio": RATIO, "variant": {"choice": ["ffn", "adapter"]}},
            {"enqueue": [{"variant": "ffn", "model.adapter_ratio": 0.5}]},
            ["search.enqueue.0.model.adapter_ratio", "not varied"],
        ),
        (LR, {"constraints": {"parameter": {"max": 1}}}, ["search.constraints.parameter", "parameters"]),
        (LR, {"constraints": {"parameters": {}}}, ["search.constraints.parameters", "a limit is needed"]),
        (LR, {"constraints": {"perplexity/cc": {"max": 1}}}, ["search.constraints.perplexity/cc"]),
        (LR, {"early_stopping": {"method": "asha", "grace": 0.1}}, ["early_stopping.grace", "warms up", "50"]),
        (LR, {"early_stopping": {"method": "asha"}}, ["early_stopping.grace", "not measured", "100"]),
        (LR, {"early_stopping": {"method": "hyperband"}}, ["early_stopping.method", "'asha'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(space: dict[str, Any], search: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        _study(space, **search)
    message = str(caught.value)
    assert message.startswith("test: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_temperature_needs_a_set_of_languages() -> None:
    with pytest.raises(InputError, match="two languages or more"):
        _study({"pretrain.temperature": {"uniform": [1, 2]}}, {"languages": [["aa"]], "variants": ["joint"]})


def test_a_password_is_not_shown() -> None:
    url = "postgresql://me:se@cret@host/trials"
    study = _study(LR, storage=url, warm_start=["postgresql://me:other@host/trials?password=third#demo"])
    assert study.search is not None
    assert study.search.storage == url
    for shown in (study.model_dump_json(), str(study.model_dump()), repr(study)):
        assert not any(secret in shown for secret in ("se@cret", "cret@"))
    assert "other" not in study.model_dump_json()
    assert "third" not in study.model_dump_json()
    assert "postgresql://me:***@host/trials" in study.model_dump_json()


def test_the_examples_of_the_documentation_are_taken() -> None:
    text = (Path(__file__).parents[1] / "docs" / "search.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(examples) >= 7
    for example in examples:
        fields = {"study": "s", "languages": [["en", "fr"]], "variants": VARIANTS, **yaml.safe_load(example)}
        assert validate(fields, "docs/search.md").search is not None
