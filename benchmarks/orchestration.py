"""What the sweep itself costs per job: `python -m benchmarks.orchestration [STUDY] [--storage DIR]`.

Runs a study from nothing (or reads the records of one that ran) and compares, for each job but the first of its
process, the time from the end of the job before it to its own end with the seconds of its own work. The difference is
orchestration: reporting, MLflow, choosing and handing over the next job, and waiting where no job was ready.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any


def costs(storage: Path) -> dict[str, list[tuple[float, float]]]:
    """Seconds of own work and of orchestration of each job, by kind."""
    processes = defaultdict(list)
    for path in storage.glob("jobs/*/result.json"):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        processes[record["host"], record["process"]].append(record)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for records in processes.values():
        records.sort(key=lambda record: record["ended"])
        for before, record in pairwise(records):
            found[record["kind"]].append((record["seconds"], record["ended"] - before["ended"] - record["seconds"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orchestration", description=__doc__)
    parser.add_argument("study", nargs="?", default="demo")
    parser.add_argument("--storage", type=Path, help="read what lies here instead of running the study")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = options.storage or Path(folder)
        if options.storage is None:
            command = [sys.executable, "-m", "raylab.sweep", options.study, "--storage", folder]
            subprocess.run(
                [*command, "--tracking-uri", f"sqlite:///{folder}/mlflow.db"], check=True, stdout=subprocess.DEVNULL
            )
        print(
            f"{'kind':<10}{'jobs':>6}{'work, s: median':>17}{'orchestration, s: median':>26}"
            f"{'mean':>8}{'90%':>8}{'max':>8}"
        )
        for kind, pairs in sorted(costs(storage).items()):
            over = sorted(cost for _, cost in pairs)
            work = statistics.median(seconds for seconds, _ in pairs)
            ninety = over[min(len(over) - 1, int(0.9 * len(over)))]
            print(
                f"{kind:<10}{len(pairs):>6}{work:>17.3f}{statistics.median(over):>26.3f}"
                f"{statistics.fmean(over):>8.3f}{ninety:>8.3f}{over[-1]:>8.3f}"
            )


if __name__ == "__main__":
    main()
