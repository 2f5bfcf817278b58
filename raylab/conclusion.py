"""The end of a sweep: summaries in MLflow, the interference table, what failed, and where to look next."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raylab.config import StudyConfig
from raylab.errors import InputError
from raylab.search.keeping import disk_use, disk_use_line, note_needs, prune_models
from raylab.search.storage import Storage

if TYPE_CHECKING:
    from raylab.search.searcher import JobSearcher
    from raylab.search.trials import Search
    from raylab.tracking import Tracker

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

MOST_PREDICTIONS_READ = 200
"""Jobs whose predictions the end of a sweep reads, some milliseconds each; with more, the report accounts for test
examples, and the table for seeds alone."""

LOGGING_SECONDS = 300.0
"""How long the end of a sweep waits for MLflow to take in what is left."""


def conclude(
    study: StudyConfig,
    storage: Storage,
    uri: str,
    console: Console,
    tracker: Tracker,
    searcher: JobSearcher,
    search: Search | None,
    best: Collection[str] = (),
) -> int:
    """Log the summaries, print the results and what failed, and delete the models that the study does not keep.

    Args:
        study: The study.
        storage: Where results lie.
        uri: MLflow's tracking URI.
        console: Where to print.
        tracker: What has logged the jobs.
        searcher: What has run them.
        search: The search, if the study has one.
        best: Keys of the jobs of its best trials, whose models stay.

    Returns:
        The exit code.
    """
    import analysis  # it imports MLflow and pandas, as slow as the imports of `sweep`

    tracker.mark_stale(searcher.graph.jobs)
    logged = tracker.flush(LOGGING_SECONDS)
    if not logged:
        console.print(f"MLflow at {uri} is behind or away: the table lacks what it does not hold yet", markup=False)
    reported: set[str] | None = None
    try:
        results = analysis.load(study.study, uri)
    except InputError as error:
        console.print(f"no table: {error}", markup=False)
    else:
        if logged:
            reported = set(results.best()["key"])
            tracker.summaries(analysis.summarise(results))
        if study.finetune is not None:  # else there are no scores: the report has what its probes found
            examples = results.best()["key"].nunique() <= MOST_PREDICTIONS_READ
            console.print()
            console.print(analysis.interference_text(results, examples=examples), highlight=False, markup=False)
    tracker.close()
    if search is not None:
        _print_front(search, console)
    for key, (reason, _) in searcher.errors.items():
        console.print(f"FAILED {searcher.graph.jobs[key].name}: {reason}", markup=False)
        if storage.read_error(key) is not None:
            console.print(f"       {storage.location_of(key)}/error.txt", markup=False)
    failed_trials = search.failed() if search is not None else []
    if failed_trials:
        console.print(f"FAILED trials of the search: {failed_trials}; --fresh starts the search again", markup=False)
    if tracker.unlogged:
        console.print(f"MLflow at {uri} is away: the next sweep of this study logs what it missed", markup=False)
    jobs = searcher.graph.jobs
    note_needs(storage, study.study, jobs)
    complete = reported is not None and not searcher.errors and not failed_trials
    if complete and (deleted := prune_models(storage, study.study, jobs, study.keep, reported or (), best)):
        console.print(deleted, highlight=False, markup=False)
    _print_places(study, storage, uri, console)
    if any(bad_input for _, bad_input in searcher.errors.values()):
        return BAD_INPUT
    return SOME_FAILED if searcher.errors or failed_trials else DONE


def _print_front(search: Search, console: Console) -> None:
    several = len(search.config.objective) > 1
    console.print(
        "\nsearch: the trials that no other beats on every objective (dev scores)"
        if several
        else "\nsearch: the best trial (dev score)"
    )
    table = Table(box=None, header_style="bold")
    paths = [] if search.config.population else list(search.config.space)  # those of a population change on the way
    fields = [path.rpartition(".")[2] for path in paths]
    if len(set(fields)) < len(fields):  # pretrain.batch_size and meta.batch_size, say
        fields = paths
    measured = [name for name in search.config.constraints if name not in search.config.objective]
    for column in ("trial", *fields, *search.config.objective, *measured):
        table.add_column(column, justify="right", overflow="fold")
    for number, values, scores in search.best():
        named = [values.get(path, "") for path in paths]  # of some trials, some fields are not varied
        named += [scores.get(name, "") for name in (*search.config.objective, *measured)]
        shown = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in named)
        origin = search.origin(number) if hasattr(search, "origin") else None
        table.add_row(str(number) if origin is None else f"{number} (of {origin})", *shown)
    if table.rows:
        console.print(table)
    elif search.config.constraints:
        console.print("no trial keeps to search.constraints")
    if search.config.population is not None:
        _print_schedules(search, console)


def _print_schedules(search: Search, console: Console) -> None:
    from raylab.search.population import Population, schedule_lines

    assert isinstance(search, Population)
    for number, _, _ in search.best():
        console.print(f"how trial {number} was trained")
        for line in schedule_lines(search.lineage(number)):
            console.print(f"  {line}", highlight=False, markup=False)


def _print_places(study: StudyConfig, storage: Storage, uri: str, console: Console) -> None:
    server = uri.startswith(("http://", "https://"))
    look = uri if server else f"mlflow ui --backend-store-uri {uri}"
    lines = [
        f"results   {storage.location}",
        f"disk use  {disk_use_line(disk_use(storage))}",
        f"runs      {look}   (experiment {study.study}; filter tags.kind = 'summary' and compare)",
        f"report    python -m analysis.report {study.study} --tracking-uri {uri}",
    ]
    console.print()
    for line in lines:
        console.print(line, highlight=False, markup=False)
