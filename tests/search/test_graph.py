"""The job graph: every job after its inputs, and a failure stops only what needs it."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from raylab.config import PrepareJob
from raylab.search.graph import ENDED, JobGraph, State
from raylab.search.plan import Job

_CONFIG = PrepareJob(languages=("aa",), vocab_size=1, subsample={}, meta_fraction=0.0, invalid_utf8="stop")


def _job(key: str, *inputs: str) -> Job:
    return Job("prepare", key, _CONFIG, inputs)


@st.composite
def _graphs(draw: st.DrawFn) -> list[Job]:
    count = draw(st.integers(1, 25))
    return [
        _job(str(n), *map(str, draw(st.sets(st.integers(0, n - 1), max_size=3)) if n else ())) for n in range(count)
    ]


def _needed_by(jobs: list[Job], failed: set[str]) -> set[str]:
    lost = set(failed)
    for job in jobs:  # inputs stand before the jobs that read them
        if lost & set(job.inputs):
            lost.add(job.key)
    return lost - failed


@settings(max_examples=200, deadline=None)
@given(
    jobs=_graphs(),
    seed=st.integers(0, 1000),
    finished=st.sets(st.integers(0, 24)),
    failing=st.sets(st.integers(0, 24)),
    stopping=st.sets(st.integers(0, 24)),
)
def test_every_job_ends_and_runs_after_its_inputs(
    jobs: list[Job], seed: int, finished: set[int], failing: set[int], stopping: set[int]
) -> None:
    # A finished job's inputs were finished before it.
    there = {str(n) for n in finished}
    for job in reversed(jobs):
        if job.key in there:
            there |= set(job.inputs)
    graph = JobGraph(there.__contains__, lambda job: int(job.key) % 5)
    chance = random.Random(seed)
    half = chance.randint(0, len(jobs))
    seen: dict[str, State] = {}

    def see(job: Job, before: State | None, after: State) -> None:
        assert seen.get(job.key) is before
        seen[job.key] = after

    if chance.random() < 0.5:
        graph.watch(see)
        found = graph.add(jobs[:half])
    else:
        found = graph.add(jobs[:half])
        graph.watch(see)
    running: list[str] = []
    ran: set[str] = set()
    failed: set[str] = set()
    added = False
    while True:
        if not added and chance.random() < 0.2:
            # What was stopped or skipped would be wanted again.
            found += graph.add(job for job in jobs if graph.states.get(job.key) not in (State.STOPPED, State.SKIPPED))
            added = True
        if running and (chance.random() < 0.5 or not graph.has_ready):
            key = running.pop(chance.randrange(len(running)))
            assert graph.states[key] is State.RUNNING
            if int(key) in failing | stopping:
                lost = graph.failed(key) if int(key) in failing else graph.stopped(key)
                assert all(graph.states[job.key] is State.SKIPPED for job in lost)
                failed.add(key)
            else:
                graph.done(key)
            continue
        job = graph.take()
        if job is None:
            if not added:
                continue
            break
        assert all(graph.states[key] is State.DONE for key in job.inputs)
        assert job.key not in there
        assert job.key not in ran
        ran.add(job.key)
        running.append(job.key)
    keys = {job.key for job in jobs}
    assert {job.key for job in found} == there & keys
    skipped = {key for key in keys if graph.states[key] is State.SKIPPED}
    assert skipped == _needed_by(jobs, failed)
    assert graph.ended(keys)
    assert graph.count(*ENDED) == len(keys)
    assert ran == keys - there - skipped
    assert seen == graph.states
    assert {key for key, state in seen.items() if state is State.STOPPED} == {
        key for key in failed if int(key) not in failing
    }


def test_the_highest_priority_goes_first() -> None:
    graph = JobGraph(lambda key: False, lambda job: float(job.key))
    graph.add([_job("1"), _job("3"), _job("2")])
    assert [graph.take().key for _ in range(3)] == ["3", "2", "1"]  # type: ignore[union-attr]
    assert graph.take() is None


def test_a_job_that_does_not_fit_is_not_overtaken() -> None:
    graph = JobGraph(lambda key: False, lambda job: float(job.key))
    graph.add([_job("1"), _job("3"), _job("2")])
    assert graph.take(lambda job: job.key != "3") is None
    assert graph.has_ready
    assert graph.take(lambda job: True).key == "3"  # type: ignore[union-attr]
    assert graph.take(lambda job: job.key != "3").key == "2"  # type: ignore[union-attr]


def test_what_was_stopped_runs_when_it_is_wanted_again() -> None:
    graph = JobGraph(lambda key: False, lambda job: float(job.key))
    jobs = [_job("1"), _job("2", "1")]
    graph.add(jobs)
    graph.take()
    assert graph.stopped("1") == [jobs[1]]
    assert not graph.has_ready
    graph.add(jobs)
    assert graph.take() == jobs[0]
    graph.done("1")
    assert graph.take() == jobs[1]
