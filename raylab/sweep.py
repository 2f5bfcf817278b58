"""`python -m raylab.sweep`: run a study, or what is missing of it, and print which languages hurt each other."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import sys
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from raylab.config import NOT_SEARCHED, StudyConfig, Variant
from raylab.data.atomic import atomic_path
from raylab.data.source import Source, open_source
from raylab.errors import InputError
from raylab.hashing import fingerprint
from raylab.progress import ProgressLines, summary_of_plan
from raylab.search.cost import Estimator
from raylab.search.graph import JobGraph, State
from raylab.search.plan import Job, Plan, plan
from raylab.search.storage import Storage
from raylab.study import load_study, with_values
from raylab.tasks import get_task

if TYPE_CHECKING:
    from raylab.search.searcher import JobSearcher
    from raylab.search.trials import TrialSearch
    from raylab.tracking import Tracker

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

LOGGING_SECONDS = 300.0
"""How long the end of a sweep waits for MLflow to take in what is left."""


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
        "--set",
        action="append",
        default=[],
        metavar="A.B=C",
        dest="overrides",
        help="set a field of the study; may be repeated",
    )
    parser.add_argument(
        "--storage",
        default="runs",
        metavar="DIR",
        help="where results lie, for all studies; every node must see it (default: runs)",
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: MLFLOW_TRACKING_URI, else a SQLite file in the storage)"
    )
    parser.add_argument(
        "--address", metavar="RAY", help="a running Ray cluster (default: RAY_ADDRESS, else Ray starts in this machine)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the jobs, how many are done and how long the others take; run nothing",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="run every job of the study again, and its search from the start"
    )
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        study = load_study(options.study, options.overrides)
        storage = Storage.open(options.storage)
        uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.root}/mlflow.db"
        if options.dry_run:
            return dry_run(study, storage, console)
        with _only_sweep(storage, study):
            return sweep(study, storage, uri, console, address=options.address, fresh=options.fresh)
    except InputError as error:
        print(f"raylab: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("raylab: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def dry_run(study: StudyConfig, storage: Storage, console: Console) -> int:
    """Print the study's jobs, how many are done, and an estimate of the time; run nothing."""
    source = open_source(study.data, storage.root)
    jobs = plan(study, source)
    estimator = Estimator(storage, jobs.jobs, check_datasets(study, source, storage), study.scaling.num_workers)
    for job in jobs.jobs.values():
        state = "done" if storage.is_finished(job.key) else f"{estimator.seconds(job):.0f} s"
        console.print(f"{job.key}  {state:>8}  {job.name}", highlight=False, markup=False)
    _print_notes(jobs, console)
    slots = max(1, (os.cpu_count() or 1) // study.scaling.cpus_per_worker)
    console.print(
        f"study {study.study}: {summary_of_plan(jobs.jobs, storage.is_finished, estimator, slots)}, {slots} at a time"
    )
    if study.search:
        trial = [job for job in plan(study, source, _searched_variants(study)).jobs.values() if job.kind != "prepare"]
        seconds = sum(estimator.slot_seconds(job) for job in trial) / slots
        console.print(
            f"search: {study.search.num_samples} trials of up to {len(trial)} jobs, at most about {seconds:.0f} s each"
        )
    return DONE


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
    source = open_source(study.data, storage.root)
    jobs = plan(study, source)
    sizes = check_datasets(study, source, storage)
    search = _open_search(study, storage, source)
    if study.search:
        _check_objectives(study, source)

    # Imported here because they take seconds: bad input is found before.
    from raylab.search.cluster import connect
    from raylab.search.searcher import JobSearcher, worker_settings
    from raylab.search.tuner import interruptible, run_jobs
    from raylab.tracking import Tracker

    stop = threading.Event()
    graph = JobGraph(storage.is_finished, lambda job: _priority(job, estimator))
    estimator = Estimator(storage, ChainMap(graph.jobs, jobs.jobs), sizes, study.scaling.num_workers)

    def plan_trial(values: Mapping[str, Any]) -> Plan:
        return plan(with_values(study, values), source, _searched_variants(study))

    with ExitStack() as stack:
        stack.enter_context(interruptible(stop))
        background = stack.enter_context(ThreadPoolExecutor(1))
        tracking = background.submit(Tracker, uri, study, storage.root / "jobs", storage.root / "artifacts")
        # Ray and MLflow start side by side; where nothing is left to run there is no need of Ray.
        slots = None
        if fresh or not all(map(storage.is_finished, jobs.jobs)) or (search and not search.exhausted):
            slots = stack.enter_context(connect(address, study.scaling))
        tracker = tracking.result()
        if fresh:
            _forget(storage, jobs, search, plan_trial)
            search = _open_search(study, storage, source)
        progress = ProgressLines(graph, estimator, console)
        settings = worker_settings(storage, source, study.scaling)
        searcher = JobSearcher(graph, storage, settings, [progress, tracker], search, plan_trial)
        searcher.begin(jobs)
        if searcher.has_work:
            slots = slots or stack.enter_context(connect(address, study.scaling))
            progress.slots = slots
        about = summary_of_plan(jobs.jobs, storage.is_finished, estimator, slots or 1)
        console.print(f"study {study.study}: {about}" + (f"; {slots} at a time" if slots else ""))
        _print_notes(jobs, console)
        if slots:
            stack.enter_context(progress)
            run_jobs(searcher, study.scaling, slots, storage.study_folder(study.study), stop)
    estimator.save()
    if stop.is_set():
        tracker.close()
        done = graph.count(State.DONE)
        console.print(f"interrupted: {done} of {len(graph.jobs)} jobs are done; the same command goes on from here")
        return INTERRUPTED
    return _conclude(study, storage, uri, console, tracker, searcher, search)


def _forget(
    storage: Storage, jobs: Plan, search: TrialSearch | None, plan_trial: Callable[[Mapping[str, Any]], Plan]
) -> None:
    """Discard the results of a study's jobs, those of its trials too, and its search."""
    keys = set(jobs.jobs)
    if search is not None:
        trials = [*search.under_way().values(), *(values for values, _ in search.complete().values())]
        for values in trials:
            keys |= set(plan_trial(values).jobs)
        search.discard()
    for key in keys:
        storage.discard(key)


def _check_objectives(study: StudyConfig, source: Source) -> None:
    """Refuse a search for scores that no job of a trial will give.

    Raises:
        InputError: An objective has no score, for lack of languages or of labelled data.
    """
    assert study.search is not None
    scores = set()
    for job in plan(study, source, _searched_variants(study)).jobs.values():
        if job.kind == "finetune":
            for setting in job.labels["setting"].split(","):
                scores |= {f"{setting}/mean", f"{setting}/{job.labels['task']}"}
    for name in study.search.objective:
        if name not in scores:
            given = ", ".join(sorted(scores)) or "none"
            raise InputError(
                f"study {study.study}: search.objective.{name}: the languages and labelled data of this study "
                f"give no such score; they give {given}"
            )


def check_datasets(study: StudyConfig, source: Source, storage: Storage) -> dict[tuple[str, str], int]:
    """Read every labelled file that the study uses once, so that a bad line is found before the first job.

    Returns:
        Training examples by task and language.

    Raises:
        InputError: A file is malformed; it names the file and line.
    """
    sizes: dict[tuple[str, str], int] = {}
    languages = dict.fromkeys(language for languages in study.languages for language in languages)
    checked = storage.root / "checked"
    checked.mkdir(exist_ok=True)
    for task, language in product(study.finetune.tasks if study.finetune else (), languages):
        mark = checked / f"{task}-{source.dataset_fingerprint(task, language)}"
        if not mark.is_file():
            paths = {split: source.dataset(task, language, split) for split in ("train", "dev", "test")}
            counts = {split: len(get_task(task).read(path)) for split, path in paths.items() if path is not None}
            with atomic_path(mark) as temporary:
                temporary.write_text(json.dumps(counts), encoding="utf-8")
        sizes[task, language] = json.loads(mark.read_text(encoding="utf-8")).get("train", 0)
    return sizes


def _conclude(
    study: StudyConfig,
    storage: Storage,
    uri: str,
    console: Console,
    tracker: Tracker,
    searcher: JobSearcher,
    search: TrialSearch | None,
) -> int:
    """Log the summaries, print the results and what failed."""
    import analysis  # it imports MLflow and pandas, as slow as the imports of `sweep`

    tracker.mark_stale(searcher.graph.jobs)
    logged = tracker.flush(LOGGING_SECONDS)
    if not logged:
        console.print(f"MLflow at {uri} is behind or away: the table lacks what it does not hold yet", markup=False)
    try:
        results = analysis.load(study.study, uri)
    except InputError as error:
        console.print(f"no table: {error}", markup=False)
    else:
        if logged:
            tracker.summaries(analysis.summarise(results))
        console.print()
        console.print(analysis.interference_text(results), highlight=False, markup=False)
    tracker.close()
    if search is not None:
        _print_front(search, console)
    for key, (reason, _) in searcher.errors.items():
        console.print(f"FAILED {searcher.graph.jobs[key].name}: {reason}", markup=False)
        if (storage.folder(key) / "error.txt").is_file():
            console.print(f"       {storage.folder(key) / 'error.txt'}", markup=False)
    failed_trials = search.failed() if search is not None else []
    if failed_trials:
        console.print(f"FAILED trials of the search: {failed_trials}; --fresh starts the search again", markup=False)
    if tracker.unlogged:
        console.print(f"MLflow at {uri} is away: the next sweep of this study logs what it missed", markup=False)
    _print_places(study, storage, uri, console)
    if any(bad_input for _, bad_input in searcher.errors.values()):
        return BAD_INPUT
    return SOME_FAILED if searcher.errors or failed_trials else DONE


def _print_places(study: StudyConfig, storage: Storage, uri: str, console: Console) -> None:
    server = uri.startswith(("http://", "https://"))
    look = uri if server else f"mlflow ui --backend-store-uri {uri}"
    lines = [
        f"results   {storage.root}",
        f"runs      {look}   (experiment {study.study}; filter tags.kind = 'summary' and compare)",
        f"report    python -m analysis.report {study.study} --tracking-uri {uri}",
    ]
    console.print()
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _print_front(search: TrialSearch, console: Console) -> None:
    several = len(search.config.objective) > 1
    console.print(
        "\nsearch: the trials that no other beats on every objective (dev scores)"
        if several
        else "\nsearch: the best trial (dev score)"
    )
    table = Table(box=None, header_style="bold")
    fields = [path.rpartition(".")[2] for path in search.config.space]
    if len(set(fields)) < len(fields):  # pretrain.batch_size and meta.batch_size, say
        fields = list(search.config.space)
    for column in ("trial", *fields, *search.config.objective):
        table.add_column(column, justify="right", overflow="fold")
    for number, values, scores in search.best():
        shown = (
            f"{value:.3g}" if isinstance(value, float) else str(value) for value in (*values.values(), *scores.values())
        )
        table.add_row(str(number), *shown)
    console.print(table)


def _print_notes(jobs: Plan, console: Console) -> None:
    for note in jobs.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


def _open_search(study: StudyConfig, storage: Storage, source: Source) -> TrialSearch | None:
    if study.search is None:
        return None
    from raylab.search.trials import TrialSearch

    url = study.search.storage or f"sqlite:///{storage.study_folder(study.study) / 'trials.db'}"
    languages = sorted({language for languages in study.languages for language in languages})
    tasks = study.finetune.tasks if study.finetune else ()
    texts = [source.text_fingerprint(language) for language in languages]
    labelled = [source.dataset_fingerprint(task, language) for task, language in product(tasks, languages)]
    return TrialSearch(study, url, fingerprint([texts, labelled]))


def _searched_variants(study: StudyConfig) -> tuple[Variant, ...]:
    assert study.search is not None
    return study.search.variants or tuple(variant for variant in study.variants if variant not in NOT_SEARCHED)


def _priority(job: Job, estimator: Estimator) -> float:
    """Inputs of others first; among equals the long ones, so that no long job starts last."""
    return {"prepare": 2e9, "import": 2e9, "pretrain": 1e9, "finetune": 0.0}[job.kind] + estimator.seconds(job)


@contextmanager
def _only_sweep(storage: Storage, study: StudyConfig) -> Iterator[None]:
    """Keep a second sweep of the same study out of the same storage."""
    path = storage.study_folder(study.study) / "lock"
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            raise InputError(
                f"study {study.study}: another sweep of it runs ({stream.read().strip()}); wait for it, or stop it"
            ) from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        yield


if __name__ == "__main__":
    sys.exit(main())
