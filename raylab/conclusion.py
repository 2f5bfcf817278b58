"""The end of a sweep: summaries in MLflow, the interference table, what failed, and where to look next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from raylab.config import StudyConfig
from raylab.errors import InputError
from raylab.search.storage import Storage

if TYPE_CHECKING:
    from raylab.search.searcher import JobSearcher
    from raylab.search.trials import TrialSearch
    from raylab.tracking import Tracker

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""

LOGGING_SECONDS = 300.0
"""How long the end of a sweep waits for MLflow to take in what is left."""


def conclude(
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
