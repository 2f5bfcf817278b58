"""`python -m raylab.sweep`: run a study, or what is missing of it, and print which languages hurt each other."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from itertools import product
from typing import TYPE_CHECKING, Any

from rich.console import Console

from raylab.board import Board, StatusFile
from raylab.conclusion import BAD_INPUT, DONE, INTERRUPTED, conclude
from raylab.config import StudyConfig
from raylab.data.source import Source, open_source
from raylab.dry_run import print_dry_run
from raylab.errors import InputError
from raylab.hashing import fingerprint
from raylab.preflight import changes_since_last_run, check_datasets, check_objectives, note_run
from raylab.progress import ProgressLines, summary_of_plan
from raylab.search.cost import Estimator
from raylab.search.graph import JobGraph, State
from raylab.search.keeping import note_needs
from raylab.search.plan import Job, Plan, plan, searched_variants
from raylab.search.running import default_storage
from raylab.search.searcher import JobSearcher, worker_settings
from raylab.search.storage import Storage
from raylab.study import known_studies, load_study, with_values
from raylab.study.parameters import VARIANT
from raylab.study.space import trial_study

if TYPE_CHECKING:
    from raylab.search.trials import Search
    from raylab.tracking import Tracker


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run the study; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raylab.sweep", description=__doc__)
    parser.add_argument(
        "study",
        nargs="?",
        default="demo",
        help="a YAML file, or the name of a study that comes with raylab (default: demo)",
    )
    parser.add_argument(
        "--sizing", metavar="NAME", help="which of the sizings that the study has, such as pocket; a study of its own"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.B=C",
        dest="overrides",
        help="set a field of the study; may be repeated",
    )
    parser.add_argument(
        "--storage",
        metavar="DIR",
        help="where results lie, for all studies; every node must see it (default: that of the cluster that runs "
        "here, else runs)",
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: MLFLOW_TRACKING_URI, else a SQLite file in the storage)"
    )
    parser.add_argument(
        "--address",
        metavar="RAY",
        help="a running Ray cluster (default: RAY_ADDRESS, else the one that runs here; `local`: Ray in this machine)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the jobs, how many are done, what they share with other studies and what they cost; run nothing",
    )
    parser.add_argument(
        "--tflops",
        type=_positive,
        metavar="N",
        help="with --dry-run: speed of one worker in 10^12 operations a second (default: measured here)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="run every job of the study again, and its search from the start"
    )
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        study = load_study(options.study, options.overrides, options.sizing)
        storage = replace(
            Storage.open(default_storage(options.address) if options.storage is None else options.storage),
            checkpoints=study.keep.checkpoints,
        )
        uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.root}/mlflow.db"
        if options.dry_run:
            others = _other_studies(options.study, options.overrides, options.sizing)
            return dry_run(study, storage, console, others=others, tflops=options.tflops)
        with storage.lock_study(study.study):
            return sweep(study, storage, uri, console, address=options.address, fresh=options.fresh)
    except InputError as error:
        print(f"raylab: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("raylab: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}; a number above 0 is needed")
    return value


def _other_studies(name: str, overrides: list[str], sizing: str | None) -> list[StudyConfig]:
    """The studies that come with raylab, but this one, in the same sizing and over the same data."""
    found = []
    for other in known_studies():
        if other != name:
            with contextlib.suppress(InputError):  # it has no such sizing, or the data is not for its languages
                found.append(load_study(other, [one for one in overrides if one.startswith("data.")], sizing))
    return found


def dry_run(
    study: StudyConfig,
    storage: Storage,
    console: Console,
    *,
    others: Sequence[StudyConfig] = (),
    tflops: float | None = None,
) -> int:
    """Print the study's jobs, how many are done, and an estimate of time and cost; run nothing.

    Args:
        study: The study.
        storage: Where results lie.
        console: Where to print.
        others: Studies that it may share jobs with.
        tflops: Speed of one worker in 10^12 operations a second; default: measured.
    """
    storage.finished()  # an object store is asked once, not once a job
    source = open_source(study.data, storage.root)
    jobs = plan(study, source)
    trial = _jobs_of_a_trial(study, source)
    sizes = check_datasets(study, source, storage)
    name, ended = None, 0
    if study.search:
        check_objectives(study, trial)
        from raylab.search.trials import ended_trials, search_name

        name = search_name(study, _data_of(study, source))
        ended = ended_trials(_search_url(study, storage), name)
    print_dry_run(study, jobs, trial, storage, sizes, console, others=others, tflops=tflops, ended=ended)
    for line in changes_since_last_run(study, jobs.jobs, name, storage):
        console.print(line, highlight=False, markup=False)
    return DONE


def _jobs_of_a_trial(study: StudyConfig, source: Source) -> list[Job]:
    """With the study's own values, the jobs of one trial of its search: of its largest variant, if that is searched."""
    if study.search is None:
        return []
    variants = searched_variants(study)
    trials = [(variant,) for variant in variants] if VARIANT in study.search.space else [variants]
    return max((list(plan(study, source, trial).jobs.values()) for trial in trials), key=len)


def sweep(
    study: StudyConfig, storage: Storage, uri: str, console: Console, *, address: str | None = None, fresh: bool = False
) -> int:
    """Run what is missing of a study, log it, and print its results.

    Args:
        study: The study.
        storage: Where results lie.
        uri: MLflow's tracking URI.
        console: Where to print.
        address: A running Ray cluster.
        fresh: Forget the study's results first.

    Returns:
        The exit code.

    Raises:
        InputError: Something in the study, its data or an address is wrong; nothing ran.
    """
    finished = storage.finished()  # an object store is asked once, not once a job
    source = open_source(study.data, storage.root)
    jobs = plan(study, source)
    sizes = check_datasets(study, source, storage)
    trial = _jobs_of_a_trial(study, source)
    if study.search:
        check_objectives(study, trial)
    search = _open_search(study, storage, source)

    changes = changes_since_last_run(study, jobs.jobs, search.name if search else None, storage)
    stop = threading.Event()
    graph = JobGraph(storage.is_finished, lambda job: _priority(job, estimator), storage.has_files)
    scaling = study.scaling
    estimator = Estimator(storage, ChainMap(graph.jobs, jobs.jobs), sizes, scaling.num_workers, on_gpu=scaling.use_gpu)

    def plan_trial(values: Mapping[str, Any]) -> Plan:
        changed, variants = trial_study(study, values, with_values)
        return plan(changed, source, variants)

    # From here on imports take seconds: bad input is found before. MLflow's and Tune's go beside Ray's start, which is
    # mostly waiting; never beside other imports, for two threads may see each other's modules half made.
    runs_jobs = fresh or not jobs.jobs.keys() <= finished or (search is not None and not search.exhausted)
    if runs_jobs:
        from raylab.search.cluster import connect

    with ExitStack() as stack:
        stack.enter_context(_interruptible(stop))
        background = stack.enter_context(ThreadPoolExecutor(1))
        tracking = background.submit(_open_tracker, uri, study, storage)
        slots = None  # where nothing is left to run there is no need of Ray
        if runs_jobs:
            tuning = background.submit(import_module, "raylab.search.tuner")
            slots = stack.enter_context(connect(address, study.scaling))
            tuning.result()
        tracker = tracking.result()
        if fresh:
            _forget(storage, jobs, search, plan_trial)
            search = _open_search(study, storage, source)
        board = Board(
            study.study,
            graph,
            estimator,
            search=study.search,
            trial=trial,
            storage=storage.location,
            command=["python", "-m", "raylab.sweep", *sys.argv[1:]],
        )
        board.behind = lambda: tracker.behind
        stack.enter_context(StatusFile(board, storage.study_folder(study.study)))
        progress = ProgressLines(board, console)
        settings = worker_settings(storage, source, study.scaling)
        searcher = JobSearcher(
            graph, storage, settings, [board, progress, tracker], search, plan_trial, estimator.seconds
        )
        board.hosts = searcher.hosts
        board.unasked = lambda: searcher.unasked
        searcher.begin(jobs)
        note_needs(storage, study.study, graph.jobs)
        if searcher.has_work:
            from raylab.search.cluster import connect

            slots = slots or stack.enter_context(connect(address, study.scaling))
            board.slots = slots
        about = summary_of_plan(jobs.jobs, lambda key: graph.states[key] is State.DONE, estimator, slots or 1)
        console.print(f"study {study.study}: {about}" + (f"; {slots} at a time" if slots else ""))
        for line in (*(f"note: {note}" for note in jobs.notes), *changes):
            console.print(line, highlight=False, markup=False)
        note_run(study, jobs.jobs, search.name if search else None, storage)
        if searcher.has_work:
            from raylab.search.tuner import run_jobs

            assert slots is not None
            stack.enter_context(progress)
            run_jobs(searcher, study.scaling, slots, stop)
        if not stop.is_set():
            board.finish("failed" if graph.count(State.FAILED) else "done")
    estimator.save()
    if stop.is_set():
        tracker.close()
        done = graph.count(State.DONE)
        console.print(f"interrupted: {done} of {len(graph.jobs)} jobs are done; the same command goes on from here")
        return INTERRUPTED
    front = search.best() if search is not None and study.keep.models == "best" else ()
    best = {key for _, values, _ in front for key in plan_trial(values).jobs}
    return conclude(study, storage, uri, console, tracker, searcher, search, best)


def _open_tracker(uri: str, study: StudyConfig, storage: Storage) -> Tracker:
    from raylab.tracking import Tracker

    return Tracker(uri, study, f"{storage.location}/jobs", storage.root / "artifacts")


def _forget(
    storage: Storage, jobs: Plan, search: Search | None, plan_trial: Callable[[Mapping[str, Any]], Plan]
) -> None:
    """Discard the results of a study's jobs, those of its trials too, and its search."""
    keys = set(jobs.jobs)
    if search is not None:
        for values in search.tried():
            with contextlib.suppress(InputError):  # values that did not go together: it had no jobs
                keys |= set(plan_trial(values).jobs)
        search.discard()
    for key in keys:
        storage.discard(key)


def _open_search(study: StudyConfig, storage: Storage, source: Source) -> Search | None:
    if study.search is None:
        return None
    from raylab.search.population import Population
    from raylab.search.trials import TrialSearch

    kind = TrialSearch if study.search.population is None else Population
    return kind(study, _search_url(study, storage), _data_of(study, source))


def _search_url(study: StudyConfig, storage: Storage) -> str:
    """Where Optuna keeps a study's search."""
    assert study.search is not None
    return study.search.storage or f"sqlite:///{storage.root}/studies/{study.study}/trials.db"


def _data_of(study: StudyConfig, source: Source) -> str:
    """Fingerprint of the data that a study's search rests on."""
    languages = sorted({language for languages in study.languages for language in languages})
    tasks = study.finetune.tasks if study.finetune else ()
    texts = [source.text_fingerprint(language) for language in languages]
    labelled = [source.dataset_fingerprint(task, language) for task, language in product(tasks, languages)]
    return fingerprint([texts, labelled])


@contextlib.contextmanager
def _interruptible(stop: threading.Event) -> Iterator[None]:
    """On the first Ctrl-C (or SIGTERM) set `stop`; on the second, interrupt at once."""

    def request(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _priority(job: Job, estimator: Estimator) -> float:
    """Inputs of others first; among equals the long ones, so that no long job starts last."""
    return {"prepare": 2e9, "import": 2e9, "pretrain": 1e9}.get(job.kind, 0.0) + estimator.seconds(job)


if __name__ == "__main__":
    sys.exit(main())
