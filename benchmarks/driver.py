"""A sweep whose driver is watched: what benchmarks/orchestration.py starts, `python -m benchmarks.driver REPORT ...`.

The arguments after REPORT are those of `python -m raylab.sweep`. It writes to REPORT, as JSON, where the driver's
time and memory went.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARKS = (1, 1000, 2000, 5000, 10000)
"""Numbers of ended jobs at which memory is noted."""

_begun = time.perf_counter()
_spent: defaultdict[str, float] = defaultdict(float)
_report: dict[str, Any] = {"memory": {}, "moments": {}}


def _moment(name: str) -> None:
    """Note when something happened first: seconds of the process, on the clock and of its CPU."""
    _report["moments"].setdefault(name, (time.perf_counter() - _begun, time.process_time(), time.time()))


def _watched(owner: Any, name: str, before: Callable[..., None] | None = None, after: str | None = None) -> None:
    """Have the CPU time of a function's own thread noted, under the owner's and its name."""
    function = getattr(owner, name)
    label = f"{owner.__name__.rpartition('.')[2]}.{name}"

    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        if before is not None:
            before(*arguments, **options)
        start = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            _spent[label] += time.thread_time() - start
            if after is not None:
                _moment(after)

    setattr(owner, name, wrapper)


def _memory() -> int:
    """The process's own memory, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def _threads() -> dict[str, float]:
    """CPU seconds of the threads that there are."""
    clock = time.pthread_getcpuclockid
    return {thread.name: time.clock_gettime(clock(thread.ident)) for thread in threading.enumerate() if thread.ident}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver", description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--light", action="store_true", help="note when Ray is up alone: more would be imported for it")
    options, arguments = parser.parse_known_args()
    import raylab.sweep

    _moment("imported")
    import raylab.search.cluster as cluster

    _watched(cluster.ray, "init", after="Ray up")
    if options.light:
        return _finish(raylab.sweep.main(arguments), options.report)
    import raylab.search.tuner as tuner
    from raylab.board import Board
    from raylab.progress import ProgressLines
    from raylab.search.searcher import JobSearcher
    from raylab.tracking import Tracker

    ended = 0

    def note_end(*arguments: Any, **options: Any) -> None:
        nonlocal ended
        ended += 1
        if ended in MARKS:
            _report["memory"][ended] = _memory()

    _watched(raylab.sweep, "plan", after="planned")
    for listener in (Board, ProgressLines, Tracker):
        for event in ("started", "measured", "done", "failed"):
            _watched(listener, event, before=note_end if (listener, event) == (Board, "done") else None)
    for event in ("suggest", "on_trial_start", "on_trial_result", "on_trial_complete"):
        _watched(JobSearcher, event, after="first job taken" if event == "on_trial_start" else None)
    run_jobs, flush = tuner.run_jobs, Tracker.flush

    def watched_run(*arguments: Any, **options: Any) -> None:
        _moment("jobs begin")
        _report["threads before"] = _threads()
        try:
            run_jobs(*arguments, **options)
        finally:
            _report["threads"] = _threads()
            _moment("jobs end")

    def watched_flush(*arguments: Any, **options: Any) -> bool:
        logged = flush(*arguments, **options)
        _moment("logged")
        _report["threads logged"] = _threads()
        return logged

    tuner.run_jobs, Tracker.flush = watched_run, watched_flush  # type: ignore[method-assign]
    code = raylab.sweep.main(arguments)
    _report["ended"] = ended
    return _finish(code, options.report)


def _finish(code: int, report: Path) -> int:
    _moment("end")
    _report.update({"spent": _spent, "memory at the end": _memory(), "code": code})
    report.write_text(json.dumps(_report), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
