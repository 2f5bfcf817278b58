"""What the errors of Ray mean for a job, and how often one is started again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError

from raylab.search.deaths import BLAMELESS_RETRIES, RETRIES, Death, Deaths, Preempted, WorkersLost
from raylab.search.mailbox import JobFailure

OWN = Death("it crashed", False, "")
NODE = Death("its node was lost", True, "")


def _died(message: str) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = message
    return error


@pytest.mark.parametrize(
    ("error", "blameless", "says"),
    [
        (RayActorError(error_msg="x", preempted=True), True, "preempted"),
        (_died("The actor died because its node has died. Node Id: abc"), True, "node was lost"),
        (OutOfMemoryError("Task was killed due to the node running low on memory."), False, "memory"),
        (_died("Worker unexpectedly exits with a connection error code 2. End of file."), False, "killed from outside"),
        (RayTaskError("train", "Traceback: ...", Preempted("SIGTERM")), True, "told to end"),
        (
            RayTaskError("train", "Traceback: ...", WorkersLost("a worker was lost", True, "")),
            True,
            "a worker was lost",
        ),
        (RayTaskError("train", "Traceback:\n  ...\nKeyError: 'a'", KeyError("a")), False, "KeyError"),
    ],
)
def test_why_a_process_died(error: Exception, blameless: bool, says: str) -> None:
    death = Death.of(error)
    assert death.blameless is blameless
    assert says in death.reason
    assert "\n" not in death.reason


def test_a_job_that_dies_at_the_same_place_is_given_up() -> None:
    deaths = Deaths()
    given_up = []
    for _ in range(RETRIES + 1):
        deaths.progressed(0.5)
        given_up.append(deaths.died(OWN))
    # The first death came after progress.
    assert given_up == [False] * RETRIES + [True]
    assert "it crashed" in deaths.reason


def test_a_job_that_gets_on_between_its_deaths_is_never_given_up() -> None:
    deaths = Deaths()
    for number in range(100):
        deaths.progressed(number / 100 + 0.01)
        assert not deaths.died(OWN)


def test_lost_nodes_are_not_the_jobs_fault_but_not_for_ever() -> None:
    deaths = Deaths()
    assert not any(deaths.died(NODE) for _ in range(BLAMELESS_RETRIES))
    assert deaths.died(NODE)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=60))
def test_only_deaths_since_the_last_progress_count(events: list[tuple[bool, float]]) -> None:
    deaths, furthest, before, own = Deaths(), 0.0, 0.0, 0
    for dies, progress in events:
        if not dies:
            deaths.progressed(progress)
            furthest = max(furthest, progress)
            continue
        own = 1 if furthest > before else own + 1
        before = furthest
        assert deaths.died(OWN) == (own > RETRIES)


@pytest.mark.parametrize(
    ("error", "hint"),
    [(MemoryError(), True), (RuntimeError("shapes do not match"), False), (torch.OutOfMemoryError("CUDA"), True)],
)
def test_a_job_that_asks_for_too_much_memory_is_told_what_needs_less(error: Exception, hint: bool) -> None:
    failure = JobFailure.of(error)
    assert ("smaller batch_size" in failure.reason) is hint
    assert "\n" not in failure.reason


def test_the_memory_of_this_machine_that_pytorch_does_not_get() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert "smaller batch_size" in JobFailure.of(caught.value).reason
