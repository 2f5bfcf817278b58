"""What a sweep looks at before its first job: labelled data, objectives, and what has changed since it last ran."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from raylab.atomic import atomic_path
from raylab.config import StudyConfig
from raylab.data.source import Source
from raylab.errors import InputError
from raylab.search.plan import KINDS, Job
from raylab.search.storage import Storage
from raylab.tasks import get_task

MOST_CHANGES_SHOWN = 8

_LAST_RUN = "study.json"  # in the study's folder


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


def check_objectives(study: StudyConfig, trial: Iterable[Job]) -> None:
    """Refuse a search for scores that no job of a trial will give.

    Args:
        study: A study with a search.
        trial: The jobs of one of its trials.

    Raises:
        InputError: An objective has no score, for lack of languages or of labelled data.
    """
    assert study.search is not None
    scores = set()
    for job in trial:
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


def changes_since_last_run(
    study: StudyConfig, jobs: Mapping[str, Job], search: str | None, storage: Storage
) -> list[str]:
    """What is different from the last sweep of this study over the same storage, as `note_run` noted it.

    Args:
        study: The study as it is now.
        jobs: Its jobs, by key.
        search: Name of its search, which another question has another one of.
        storage: Where results lie.

    Returns:
        Lines for people; none where nothing changed, or the study never ran.
    """
    try:
        before = json.loads(storage.read_study_file(study.study, _LAST_RUN) or "")
        return _differences(before, _run(study, jobs, search), jobs)
    except (ValueError, KeyError, TypeError):  # it never ran here, or another version of raylab noted it
        return []


def note_run(study: StudyConfig, jobs: Mapping[str, Job], search: str | None, storage: Storage) -> None:
    """Note what a sweep runs that is about to begin; arguments as those of `changes_since_last_run`."""
    with atomic_path(storage.study_folder(study.study) / _LAST_RUN) as temporary:
        temporary.write_text(json.dumps(_run(study, jobs, search)), encoding="utf-8")


def _run(study: StudyConfig, keys: Collection[str], search: str | None) -> dict[str, Any]:
    return {"study": study.model_dump(mode="json"), "keys": sorted(keys), "search": search}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], jobs: Mapping[str, Job]) -> list[str]:
    old, new = (dict(_leaves(which["study"])) for which in (before, now))
    changed = [path for path in (*old, *(path for path in new if path not in old)) if old.get(path) != new.get(path)]
    changed = [path for path in changed if path != "description"]
    kept, keys = set(before["keys"]) & set(now["keys"]), now["keys"]
    if not changed and len(kept) == len(keys) == len(before["keys"]):
        return []
    shown = [f"{path} {_text(old, path)} -> {_text(new, path)}" for path in changed[:MOST_CHANGES_SHOWN]]
    shown += [f"and {len(changed) - len(shown)} more fields"] * (len(changed) > len(shown))
    lines = [f"changed since the last sweep: {'; '.join(shown) or 'the data'}"]
    gone = len(before["keys"]) - len(kept)
    kinds = Counter(jobs[key].kind for key in kept)
    counted = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
    lines.append(
        f"    {len(kept)} of {len(keys)} jobs are the same as then and stay valid"
        + (f" ({counted})" if counted else "")
        + (f"; {gone} are no longer part of the study (their results stay in the storage)" if gone else "")
    )
    if before["search"] is not None and now["search"] is not None and before["search"] != now["search"]:
        lines.append("    the search asks another question, and begins anew; the trials of before are kept apart")
    return lines


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inside in value.items():
            yield from _leaves(inside, f"{path}.{name}" if path else name)
    else:
        yield path, value


def _text(values: Mapping[str, Any], path: str) -> str:
    if path not in values:
        return "(none)"
    text = json.dumps(values[path], ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
