from __future__ import annotations

import pytest

from analysis.jobs import Job
from analysis.search import importance, read_search

CONFIGURATION = {
    "search": {
        "objective": {"within/mean": "max", "seconds": "min"},
        "space": {"meta.epsilon": {"loguniform": [1e-4, 1]}, "pretrain.temperature": {"uniform": [1, 5]}},
    }
}


def trial(number: int, params: dict[str, object], metrics: dict[str, float], status: str = "FINISHED") -> Job:
    texts = {name: str(value) for name, value in params.items()}
    return Job(str(number), f"trial {number}", status, 0, 1, "trial", {"trial": str(number)}, texts, metrics)


def trials(count: int) -> list[Job]:
    """The first objective depends on the temperature alone."""
    return [
        trial(
            number,
            {"pretrain.temperature": 1 + number % 5, "meta.epsilon": 10.0 ** -(number % 3)},
            {"within/mean": 70.0 + number % 5, "seconds": 100.0 - number},
        )
        for number in range(count)
    ]


def test_no_trials_no_search() -> None:
    assert read_search([], CONFIGURATION) is None


def test_trials_are_read_with_their_types() -> None:
    jobs = [*trials(3), trial(3, {"pretrain.temperature": 2, "meta.method": "exact"}, {}, "FAILED")]
    search = read_search(jobs[::-1], CONFIGURATION)
    assert search is not None
    assert search.trials["trial"].to_list() == [0, 1, 2, 3]
    assert search.trials["pretrain.temperature"].to_list() == [1.0, 2.0, 3.0, 2.0]
    assert search.trials.loc[3, "meta.method"] == "exact"
    assert len(search.finished) == 3
    assert search.logarithmic == {"meta.epsilon"}


def test_front_is_what_no_other_beats() -> None:
    jobs = [
        trial(0, {}, {"within/mean": 70.0, "seconds": 10.0}),
        trial(1, {}, {"within/mean": 72.0, "seconds": 20.0}),
        trial(2, {}, {"within/mean": 71.0, "seconds": 30.0}),
        trial(3, {}, {"within/mean": 70.0, "seconds": 10.0}),
    ]
    search = read_search(jobs, CONFIGURATION)
    assert search is not None
    assert search.best()["trial"].to_list() == [1, 0, 3]


def test_importance_finds_the_parameter_that_matters() -> None:
    search = read_search(trials(30), CONFIGURATION)
    assert search is not None
    table, remark = importance(search)
    assert remark == ""
    assert table.loc["pretrain.temperature", "within/mean"] > 0.9
    assert table.sum().to_list() == pytest.approx([1.0, 1.0])


def test_importance_says_why_there_is_none() -> None:
    few = read_search(trials(5), CONFIGURATION)
    assert few is not None
    table, remark = importance(few)
    assert table.empty
    assert remark.startswith("5 finished trials are too few")
    same = read_search([trial(n, {"a": 1}, {"within/mean": n, "seconds": n}) for n in range(9)], CONFIGURATION)
    assert same is not None
    assert importance(same)[1].startswith("No parameter was varied")


def test_conditional_parameters_are_left_out_by_name() -> None:
    jobs = trials(12)
    jobs[0] = trial(0, {"pretrain.temperature": 1, "meta.epsilon": 1, "meta.inner_lr": 1}, jobs[0].metrics)
    search = read_search(jobs, CONFIGURATION)
    assert search is not None
    table, remark = importance(search)
    assert "meta.inner_lr" not in table.index
    assert remark == "Left out, as not all trials vary them: meta.inner_lr."
