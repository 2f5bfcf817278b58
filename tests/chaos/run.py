"""A sweep that is disturbed until enough was killed, then left to end, and compared with one that was not disturbed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import mlflow

from .disturbances import ALL
from .world import World, table

_PATIENCE_SECONDS = 600.0
"""For the sweep to end when nothing disturbs it any more."""


@dataclass
class Findings:
    """What a run of chaos found.

    Attributes:
        done: How often each disturbance was done.
        log: What was done when.
        wrong: What should not have been.
        starts: How often the sweep was started.
    """

    done: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    starts: int = 0

    @property
    def kills(self) -> int:
        """How much was killed."""
        return sum(self.done[kind.name] for kind in ALL if kind.kills)


class _Records(threading.Thread):
    """Watches that a finished job stays as it is."""

    def __init__(self, world: World, findings: Findings) -> None:
        super().__init__(daemon=True)
        self._world, self._findings = world, findings
        self._seen: dict[str, int] = {}
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()
        self.look()

    def run(self) -> None:
        """Look, again and again."""
        while not self._ended.wait(0.1):
            self.look()

    def look(self) -> None:
        """Compare the records with those before."""
        try:
            found = self._world.records()
        except FileNotFoundError:
            return  # one was being replaced: the next look says by what
        for key, written in self._seen.items():
            if found.get(key) != written:
                self._findings.wrong.append(f"job {key} was finished, and was finished again or forgotten")
        self._seen = found


Reference = tuple[str, dict[str, object]]
"""The table and the results of a sweep that nothing disturbed."""


def undisturbed(world: World) -> Reference:
    """What a sweep gives that nothing disturbs; its results are removed afterwards."""
    driver = world.start_driver()
    code = driver.wait(timeout=_PATIENCE_SECONDS)
    output = world.log.read_text(encoding="utf-8")
    assert code == 0, output
    found = table(output), world.results()
    world.forget()
    return found


def disturb(
    world: World,
    reference: Reference,
    seed: int,
    kills: int,
    pace: float,
    *,
    without: frozenset[str] = frozenset(),
    report: bool = False,
) -> Findings:
    """Disturb a sweep at random times until so much was killed, let it end, and compare.

    A sweep that ends before is compared, forgotten and started again.

    Args:
        world: Where it runs.
        reference: What it should give.
        seed: Of what is done when.
        kills: How much to kill.
        pace: Mean seconds between two disturbances.
        without: Kinds of disturbances to leave out.
        report: Print what is done.
    """
    draw = random.Random(seed)
    findings = Findings()
    begun = time.monotonic()

    def say(what: str) -> None:
        line = f"{time.monotonic() - begun:6.1f} s  {len(world.records()):3} jobs done  {what}"
        findings.log.append(line)
        if report:
            print(line, flush=True)

    kinds = [kind for kind in ALL if kind.name not in without]
    while True:
        with _Records(world, findings):
            _start(world, findings)
            while findings.kills < kills:
                world.sleep(draw.expovariate(1 / pace))
                if (code := world.ended()) is not None:
                    if code == 0:
                        break
                    say(f"the sweep ended with {code}")
                    _start(world, findings)  # a job that was given up runs again
                (kind,) = draw.choices(kinds, [kind.weight for kind in kinds])
                done = kind.do(world, draw)
                if done is not None:
                    findings.done[kind.name] += 1
                    findings.starts += kind.name == "driver killed"
                    say(f"{kind.name}: {done}")
            code = _finish(world, findings)
        say(f"the sweep ended with {code}")
        if code != 0:
            findings.wrong.append(f"the sweep ends with {code}")
        else:
            _compare(world, findings, reference)
        if findings.wrong or findings.kills >= kills:
            return findings
        world.forget()


def _compare(world: World, findings: Findings, reference: Reference) -> None:
    """Note where the results differ from those of an undisturbed sweep."""
    expected, results = reference
    given = table(world.log.read_text(encoding="utf-8"))
    if given != expected:
        findings.wrong.append(f"the table is\n{given}\nand undisturbed\n{expected}")
    found = world.results()
    if found != results:
        keys = [key for key in {*found, *results} if found.get(key) != results.get(key)]
        findings.wrong.append(f"the results of these jobs differ: {', '.join(sorted(keys))}")
    leftovers = [str(path) for path in world.runs.glob("jobs/*/checkpoint*.pt")]
    if leftovers:
        findings.wrong.append(f"finished jobs left checkpoints: {', '.join(leftovers)}")
    findings.wrong += _runs(world)


def _start(world: World, findings: Findings) -> None:
    findings.starts += 1
    world.start_driver()


def _finish(world: World, findings: Findings) -> int | None:
    """Let the sweep end; a job that was given up runs again with the next sweep."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    code: int | None = None
    for _ in range(3):
        while (code := world.ended()) is None:
            if time.monotonic() > deadline:
                return None
            world.sleep(0.2)
        if code == 0:
            return 0
        _start(world, findings)
    return code


def _runs(world: World) -> list[str]:
    """What is wrong with the runs in MLflow: each finished job has one, which is finished."""
    client = mlflow.MlflowClient(world.uri)
    experiment = client.get_experiment_by_name("chaos")
    if experiment is None:
        return ["MLflow knows nothing of the study"]
    runs = [run for run in client.search_runs([experiment.experiment_id], max_results=10_000) if "key" in run.data.tags]
    counts = Counter(run.data.tags["key"] for run in runs)
    wrong = [f"job {key} has {count} runs in MLflow" for key, count in counts.items() if count != 1]
    wrong += [
        f"the run of job {run.data.tags['key']} is {run.info.status}" for run in runs if run.info.status != "FINISHED"
    ]
    missing = set(world.records()) - set(counts)
    return wrong + [f"job {key} has no run in MLflow" for key in missing]
