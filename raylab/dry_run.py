"""`python -m raylab.sweep --dry-run`: what a study would run, what of it is there, and what the rest costs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from raylab.config import SearchConfig, StudyConfig
from raylab.data.source import Source, open_source
from raylab.errors import InputError
from raylab.progress import summary_of_plan
from raylab.search.cost import ASSUMED_TFLOPS, Estimator
from raylab.search.plan import KINDS, Job, Plan, plan
from raylab.search.storage import Storage
from raylab.view import clock


def print_dry_run(
    study: StudyConfig,
    jobs: Plan,
    trial: Iterable[Job],
    storage: Storage,
    sizes: Mapping[tuple[str, str], int],
    console: Console,
    *,
    others: Sequence[StudyConfig] = (),
    tflops: float | None = None,
    ended: int = 0,
) -> None:
    """Print a study's jobs, how many are done, what it shares with others, and an estimate of time and cost.

    Args:
        study: The study.
        jobs: Its jobs.
        trial: The jobs of one trial of its search, if it has one.
        storage: Where results lie.
        sizes: Training examples by task and language.
        console: Where to print.
        others: Studies that may share jobs with it, over the same data.
        tflops: Speed of one worker; default: as earlier sweeps here took, or calibrated by a few training steps.
        ended: How many trials of its search have ended.
    """
    speed, how = _speed(study, storage, tflops)
    known = {job.key: job for job in (*jobs.jobs.values(), *trial)}
    estimator = Estimator(storage, known, sizes, study.scaling.num_workers, speed)
    for job in jobs.jobs.values():
        state = "done" if storage.is_finished(job.key) else _time(estimator.seconds(job))
        console.print(f"{job.key}  {state:>8}  {job.name}", highlight=False, markup=False)
    for note in jobs.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print()
    console.print(_cost_table(study, jobs, estimator, storage.is_finished))
    slots = _slots(study)
    console.print(
        f"study {study.study}: {summary_of_plan(jobs.jobs, storage.is_finished, estimator, slots)}, {slots} at a time"
    )
    console.print(f"speed: {how}", highlight=False, markup=False)
    if study.search:
        console.print(_search_line(study, study.search, list(trial), estimator, ended))
    for line in _shared(study, jobs, others, storage, estimator):
        console.print(line, highlight=False, markup=False)


def _speed(study: StudyConfig, storage: Storage, tflops: float | None) -> tuple[float | None, str]:
    """Operations a second of one worker, or None where earlier sweeps tell; and how that is known, for people."""
    if tflops is not None:
        return tflops * 1e12, f"{tflops:g} TFLOP/s a worker, as given"
    if Estimator(storage, {}, {}).has_timed("pretrain"):
        return None, "as pretraining over this storage took so far"
    from raylab.search.calibration import flops_per_second, has_gpu  # torch is slow to import

    if study.scaling.use_gpu and not has_gpu():
        return ASSUMED_TFLOPS * 1e12, f"{ASSUMED_TFLOPS:g} TFLOP/s a GPU, assumed: none is here (--tflops says another)"
    speed = flops_per_second(study)
    return speed, f"{speed / 1e12:.3g} TFLOP/s a worker, of a few steps timed here (--tflops says another)"


def _unit(study: StudyConfig) -> tuple[str, int]:
    """What costs are in, and how many of these a worker takes an hour."""
    return ("GPU-hours", 1) if study.scaling.use_gpu else ("core-hours", study.scaling.cpus_per_worker)


def _search_line(
    study: StudyConfig, search: SearchConfig, trial: Sequence[Job], estimator: Estimator, ended: int
) -> str:
    """How many trials there are, and what those cost that have not ended, stopped early or not."""
    unit, each = _unit(study)
    seconds = sum(estimator.slot_seconds(job) for job in trial)
    trials = search.num_samples
    # The trials of a member of a population are parts of one training.
    seconds *= (search.population.size / trials if search.population else 1) * max(0, trials - ended)
    count = sum(job.kind != "prepare" for job in trial)
    return (
        f"search: {trials} trials of up to {count} jobs, {ended} ended already; with the study's own values "
        f"{each * seconds / 3600:,.2f} {unit} for the others, about {clock(seconds / _slots(study))}"
    )


def _cost_table(study: StudyConfig, jobs: Plan, estimator: Estimator, is_finished: Callable[[str], bool]) -> Table:
    unit, each = _unit(study)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("kind", "jobs", "done", unit):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    total = 0.0
    for kind in KINDS:
        of_kind = [job for job in jobs.jobs.values() if job.kind == kind]
        if not of_kind:
            continue
        missing = [job for job in of_kind if not is_finished(job.key)]
        hours = each * sum(estimator.slot_seconds(job) for job in missing) / 3600
        total += hours
        table.add_row(kind, str(len(of_kind)), str(len(of_kind) - len(missing)), f"{hours:,.2f}")
    done = sum(map(is_finished, jobs.jobs))
    table.add_row("all", str(len(jobs.jobs)), str(done), f"{total:,.2f}", style="bold")
    return table


def _shared(
    study: StudyConfig, jobs: Plan, others: Sequence[StudyConfig], storage: Storage, estimator: Estimator
) -> list[str]:
    """A line for each other study that has some of the same jobs."""
    lines = []
    sources: dict[str, Source] = {}
    for other in others:
        try:
            source = sources.setdefault(other.data.model_dump_json(), open_source(other.data, storage.root))
            keys = plan(other, source).jobs
        except InputError:  # other languages, which this data lacks: nothing is shared with it then
            continue
        common = [job for key, job in jobs.jobs.items() if key in keys]
        if other.study == study.study or all(job.kind == "prepare" for job in common):
            continue
        counts = Counter(job.kind for job in common)
        counted = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
        hours = sum(estimator.slot_seconds(job) for job in common) / 3600
        lines.append(f"shared with {other.study}: {counted} ({hours:,.2f} worker-hours, needed once)")
    return lines


def _slots(study: StudyConfig) -> int:
    """Workers at once on this machine."""
    return max(1, (os.cpu_count() or 1) // study.scaling.cpus_per_worker)


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"
