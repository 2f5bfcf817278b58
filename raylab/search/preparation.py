"""Preparations of a study ahead of its sweep, some at a time, and what the study will read."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from functools import partial
from itertools import product
from typing import Any

import torch

from raylab.config import PrepareJob, StudyConfig
from raylab.data.extract import extract
from raylab.data.prepare import Prepared
from raylab.data.sampling import language_probabilities
from raylab.data.source import Source
from raylab.search.execution import Execution
from raylab.search.plan import Job
from raylab.search.storage import Storage
from raylab.tasks import get_task

Report = Callable[[str, str, float], None]
"""Told the languages, what is being done for them, and the share that is done."""

_WORTH_A_PROCESS = 16 << 20  # bytes of text: a process takes seconds to start
_POLL_SECONDS = 0.1

_queue: Any = None  # of a worker process: where it reports to


def prepare_all(jobs: Sequence[Job], storage: Storage, source: Source, workers: int | None, report: Report) -> None:
    """Run the preparations that are not finished.

    Args:
        jobs: Preparations.
        storage: Where their results will lie.
        source: The study's data.
        workers: Processes; they share the cores. Default: one a core, but none where there is little text.
        report: Told how far each is.

    Raises:
        InputError: The text of one is wrong; the others that had begun are finished, or go on from there next time.
    """
    pending = [job for job in jobs if not storage.is_finished(job.key)]
    cores = os.cpu_count() or 1
    if workers is None:
        workers = min(cores, 1 + sum(_size(job, source) for job in pending) // _WORTH_A_PROCESS)
    workers = min(workers, len(pending))
    if workers <= 1:
        before = torch.get_num_threads()
        torch.set_num_threads(cores)
        try:
            for job in pending:
                _execute(job, storage, source, partial(report, job.labels["languages"]))
        finally:
            torch.set_num_threads(before)
        return
    context = multiprocessing.get_context("spawn")  # of a process with threads nothing less may be copied
    reports = context.Queue()
    threads = max(1, cores // workers)
    with ProcessPoolExecutor(workers, context, _begin, (reports, threads)) as pool:
        by_language = {language: job for job in pending for language in job.labels["languages"].split("-")}
        _await(pool, [pool.submit(_extract, *item, source) for item in by_language.items()], reports, report)
        _await(pool, [pool.submit(_run, job, storage, source) for job in pending], reports, report)


def _size(job: Job, source: Source) -> int:
    assert isinstance(job.config, PrepareJob)
    return sum(file.size for language in job.config.languages for of in source.text(language).values() for file in of)


def _await(pool: ProcessPoolExecutor, futures: list[Future[None]], reports: Any, report: Report) -> None:
    """Wait for work to end, passing on what it reports; on a failure, what has not begun does not begin."""
    waiting = set(futures)
    try:
        while waiting:
            ended, waiting = wait(waiting, timeout=_POLL_SECONDS)
            while True:
                try:
                    report(*reports.get_nowait())
                except queue.Empty:
                    break
            for future in ended:
                future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _begin(reports: Any, threads: int) -> None:
    global _queue
    _queue = reports
    torch.set_num_threads(threads)


def _extract(language: str, job: Job, source: Source) -> None:
    assert isinstance(job.config, PrepareJob)
    if source.cache is not None:
        extract(source.text(language), source.named(language), job.config, source.cache)


def _run(job: Job, storage: Storage, source: Source) -> None:
    _execute(job, storage, source, lambda what, share: _queue.put((job.labels["languages"], what, share)))


def _execute(job: Job, storage: Storage, source: Source, report: Callable[[str, float], None]) -> None:
    Execution(job, storage, source, report=report).advance(0.0)


def describe(study: StudyConfig, jobs: Sequence[Job], storage: Storage, source: Source) -> dict[str, Any]:
    """What a study reads; its preparations are finished.

    Args:
        study: The study.
        jobs: Its preparations.
        storage: Where they lie.
        source: The study's data.

    Returns:
        `text`: for each preparation its `languages`, `folder`, `vocabulary` (ids), and by language what
        `raylab.data.prepare.prepare` returns, with the sampling `probability` at the study's temperature.
        `labelled`: examples by task, language and split.
    """
    text = []
    for job in jobs:
        storage.fetch([job.key], without=("tokens",))
        prepared = Prepared(storage.folder(job.key))
        probabilities = language_probabilities(prepared.sizes, study.pretrain.temperature)
        by_language = {
            language: {**numbers, "probability": probabilities[language]}
            for language, numbers in prepared.statistics.items()
        }
        text.append(
            {
                "languages": job.labels["languages"],
                "folder": str(prepared.folder),
                "vocabulary": prepared.tokenizer.vocab_size,
                "by_language": by_language,
            }
        )
    return {
        "study": study.study,
        "temperature": study.pretrain.temperature,
        "text": text,
        "labelled": _labelled(study, source),
    }


def _labelled(study: StudyConfig, source: Source) -> dict[str, Mapping[str, Mapping[str, int]]]:
    languages = dict.fromkeys(language for languages in study.languages for language in languages)
    examples: dict[str, dict[str, dict[str, int]]] = {}
    for name, language in product(study.finetune.tasks if study.finetune else (), languages):
        task = get_task(name)
        found = {split: source.dataset(name, language, split) for split in ("train", "dev", "test")}
        counts = {split: len(task.read(dataset)) for split, dataset in found.items() if dataset is not None}
        if counts:
            examples.setdefault(name, {})[language] = counts
    return {name: dict(by_language) for name, by_language in examples.items()}
