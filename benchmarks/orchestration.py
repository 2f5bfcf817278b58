"""What the sweep itself costs: `python -m benchmarks.orchestration [--sections jobs many again start] [STUDY]`.

`jobs` runs a study from nothing (or reads the records of one that ran) and compares, for each job but the first of its
process, the time from the end of the job before it to its own end with the seconds of its own work. The difference is
orchestration: reporting, MLflow, choosing and handing over the next job, and waiting where no job was ready. `idle` is
the part of it between the end of one job and the beginning of the next.

`many` runs ten thousand jobs that do no work, under the real driver, with real actors and a real MLflow in SQLite;
`again` starts that study once more, of which all is done. `start` runs a small study, then with another seed over the
same data, and says when its first job trains.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.simulation import HOOK

JOBS_PER_SEED, OTHER_JOBS = 98, 5
"""Of the study `demo` without its search."""


def costs(storage: Path) -> dict[str, list[tuple[float, float, float]]]:
    """Seconds of own work, of orchestration and of idleness of each job, by kind."""
    processes = defaultdict(list)
    for path in storage.glob("jobs/*/result.json"):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        processes[record["host"], record["process"]].append(record)
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for records in processes.values():
        records.sort(key=lambda record: record["ended"])
        for before, record in pairwise(records):
            over = record["ended"] - before["ended"] - record["seconds"]
            found[record["kind"]].append((record["seconds"], over, record["started"] - before["ended"]))
    return found


def _sweep(report: Path | None, *options: str, simulated: bool = False) -> dict[str, Any]:
    module = ["benchmarks.driver", str(report)] if report is not None else ["raylab.sweep"]
    root = str(Path(__file__).parents[1])
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    if simulated:
        environment[HOOK] = "benchmarks.simulation.simulate_jobs"
    command = [sys.executable, "-m", *module, *options, "--address", "local"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return json.loads(report.read_text(encoding="utf-8")) if report is not None else {}


def jobs(study: str, storage: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if storage is None:
            _sweep(None, study, "--storage", folder, "--tracking-uri", f"sqlite:///{folder}/mlflow.db")
        print(
            f"{'kind':<10}{'jobs':>6}{'work, s: median':>17}{'orchestration, s: median':>26}"
            f"{'mean':>8}{'90%':>8}{'max':>8}{'idle, s: median':>17}"
        )
        for kind, found in sorted(costs(storage or Path(folder)).items()):
            work, over, idle = (sorted(numbers) for numbers in zip(*found, strict=True))
            ninety = over[min(len(over) - 1, int(0.9 * len(over)))]
            print(
                f"{kind:<10}{len(over):>6}{statistics.median(work):>17.3f}{statistics.median(over):>26.3f}"
                f"{statistics.fmean(over):>8.3f}{ninety:>8.3f}{over[-1]:>8.3f}{statistics.median(idle):>17.3f}"
            )


def many(count: int, folder: Path) -> list[str]:
    """Run so many simulated jobs; returns the options that name them."""
    seeds = list(range(math.ceil((count - OTHER_JOBS) / JOBS_PER_SEED)))
    options = ["demo", "--set", f"seeds={seeds}", "--set", "search=null", "--storage", str(folder / "runs")]
    options += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    report = _sweep(folder / "many.json", *options, simulated=True)
    total, moments = report["ended"], report["moments"]
    (begin, begin_cpu, _), (end, _, _), (logged, logged_cpu, _) = (
        moments[name] for name in ("jobs begin", "jobs end", "logged")
    )
    print(f"{total} jobs without work, planned in {report['spent']['sweep.plan']:.2f} s of CPU")
    print(f"  from start to MLflow   {1e3 * (logged_cpu - begin_cpu) / total:6.2f} ms of the driver's CPU time each")
    loop = report["threads"]["MainThread"] - report["threads before"]["MainThread"]
    tracking = report["threads logged"]["tracking"]
    rest = logged_cpu - begin_cpu - loop - tracking
    for name, seconds in (("Tune's loop", loop), ("MLflow", tracking), ("all other threads", rest)):
        print(f"    {name:<20} {1e3 * seconds / total:6.2f}")
    parts = {"JobSearcher": "of the loop: searcher", "Board": "board", "ProgressLines": "lines", "Tracker": "tracker"}
    for owner, name in parts.items():
        seconds = sum(spent for label, spent in report["spent"].items() if label.startswith(f"{owner}."))
        print(f"      {name:<25} {1e3 * seconds / total:6.2f}")
    print(f"  on the clock           {1e3 * (end - begin) / total:6.2f} ms each; MLflow {logged - end:.1f} s later")
    print("  driver's memory, MiB   " + ", ".join(f"{n} jobs: {size}" for n, size in report["memory"].items()))
    return options


def again(options: list[str], folder: Path) -> None:
    report = _sweep(folder / "again.json", *options, "--light")
    seconds, cpu, _ = report["moments"]["end"]
    imported = report["moments"]["imported"][1]
    print(f"the same study, all done: {seconds:.1f} s, {cpu:.1f} s of CPU, {imported:.1f} of imports")


def start(folder: Path) -> None:
    options = ["demo", "--set", "search=null", "--set", "variants=[joint]", "--set", "languages=[[en, fr]]"]
    options += ["--set", "finetune.tasks=[ner]", "--set", "pretrain.steps=60", "--storage", str(folder / "runs")]
    options += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    _sweep(None, *options)
    before = set((folder / "runs" / "jobs").iterdir())
    report = _sweep(folder / "start.json", *options, "--set", "seeds=[1]", "--light")
    new = [path / "result.json" for path in (folder / "runs" / "jobs").iterdir() if path not in before]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in new]
    first = min(records, key=lambda record: record["started"])
    up, begun = report["moments"]["Ray up"][2], report["moments"]["imported"][2] - report["moments"]["imported"][0]
    steps = [milliseconds / 1e3 - up for name, _, _, milliseconds in first["history"] if name == "train/loss"]
    print(f"second run over the same data: Ray is up after {report['moments']['Ray up'][0]:.1f} s; from then on, s")
    print(
        f"  {'the first job began':<30} {first['started'] - up:6.2f}   ({first['started'] - begun:.2f} of the command)"
    )
    print(f"  {'its first report came':<30} {steps[0]:6.2f}   (of steps in the second before)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__)
    parser.add_argument("study", nargs="?", default="demo")
    parser.add_argument("--storage", type=Path, help="with `jobs`: read what lies here instead of running the study")
    parser.add_argument("--sections", nargs="+", default=["jobs", "many", "again", "start"])
    parser.add_argument("--jobs", type=int, default=10_000, help="of `many` (default: 10000)")
    options = parser.parse_args()
    if "jobs" in options.sections:
        jobs(options.study, options.storage)
    with tempfile.TemporaryDirectory() as folder:
        if {"many", "again"} & set(options.sections):
            arguments = many(options.jobs, Path(folder))
            if "again" in options.sections:
                again(arguments, Path(folder))
    if "start" in options.sections:
        with tempfile.TemporaryDirectory() as folder:
            start(Path(folder))


if __name__ == "__main__":
    main()
