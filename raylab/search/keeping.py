"""What takes room in a storage, and which models a study that has ended does not need any more."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from raylab.atomic import atomic_path
from raylab.config import KeepConfig
from raylab.search.plan import Job
from raylab.search.storage import ERROR, PRUNED, RECORD, Storage

_NEEDS = "needs.json"  # in a study's folder: its jobs, and those whose models it keeps
_KINDS_OF_JOB_FILES = {
    **dict.fromkeys((RECORD, ERROR, PRUNED), "records"),
    **dict.fromkeys(("model", "state.pt", "snapshots"), "models"),
    **dict.fromkeys(("epochs", "best"), "finetuned models"),
    **dict.fromkeys(("tokens", "tokenizer", "tokenizer.model", "statistics.json", "done.json"), "token stores"),
    "predictions.parquet": "predictions",
}
_KINDS_OF_FOLDERS = {
    "features": "features",
    **dict.fromkeys(("text", "labelled", "demo", "checked"), "copies of data"),
    "studies": "studies",
    "artifacts": "MLflow",
}


def kind_of(name: str) -> str:
    """What a file of a storage is, for people, given its path below the root."""
    parts = name.split("/")
    if parts[0] == "jobs" and len(parts) > 2:
        if parts[2].startswith("checkpoint.") and parts[2].endswith(".pt"):
            return "checkpoints"
        return _KINDS_OF_JOB_FILES.get(parts[2], "other")
    if parts[0].startswith("mlflow.db"):
        return "MLflow"
    return _KINDS_OF_FOLDERS.get(parts[0], "other")


def disk_use(storage: Storage) -> dict[str, int]:
    """Bytes of all that lies in a storage by kind, the largest first."""
    sizes: Counter[str] = Counter()
    for name, size in storage.files():
        sizes[kind_of(name)] += size
    return dict(sizes.most_common())


def disk_use_line(sizes: Mapping[str, int], shown: int = 4) -> str:
    """`disk_use` in a line, with the kinds that take most."""
    largest = [f"{kind} {size_text(size)}" for kind, size in list(sizes.items())[:shown] if size]
    return size_text(sum(sizes.values())) + (f" ({', '.join(largest)})" if largest else "")


def size_text(size: float) -> str:
    """Bytes, for people."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 999.5 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def note_needs(storage: Storage, study: str, jobs: Iterable[str], models: Iterable[str] | None = None) -> None:
    """Note which jobs a study has, and the models of which of them it keeps.

    Args:
        storage: The storage, of which this machine drives the study.
        study: Its name.
        jobs: Keys of all its jobs.
        models: Keys of the jobs whose models it keeps; default: all.
    """
    keys = sorted(jobs)
    with atomic_path(storage.study_folder(study) / _NEEDS) as temporary:
        kept = keys if models is None else sorted(models)
        temporary.write_text(json.dumps({"jobs": keys, "models": kept}), encoding="utf-8")


def needs(storage: Storage) -> dict[str, dict[str, list[str]] | None]:
    """What `note_needs` noted last of each study; None for one of which nothing is noted."""
    texts = {study: storage.read_study_file(study, _NEEDS) for study in storage.studies()}
    return {study: None if text is None else json.loads(text) for study, text in texts.items()}


def unneeded_models(
    jobs: Mapping[str, Job], keep: KeepConfig, reported: Collection[str], best: Collection[str]
) -> set[str]:
    """Keys of the jobs whose models a study that has ended does not keep.

    Args:
        jobs: All its jobs, by key.
        keep: What it keeps.
        reported: Keys of the finetune jobs whose scores are reported.
        best: Keys of the jobs of the best trials of its search.
    """
    found: set[str] = set()
    if keep.finetuned == "best":
        found |= {key for key, job in jobs.items() if job.kind == "finetune" and key not in reported}
    if keep.models == "best":
        finetuned = [job for job in jobs.values() if job.kind == "finetune"]
        compared = {job.inputs[0] for job in finetuned}
        rested_on = {job.inputs[0] for job in finetuned if job.key in reported or job.key in best}
        handed_on = {key for job in jobs.values() if job.kind == "pretrain" for key in job.inputs[1:]}
        found |= {key for key in compared | handed_on if key in jobs and key not in rested_on}
    return found


def prune_models(
    storage: Storage,
    study: str,
    jobs: Mapping[str, Job],
    keep: KeepConfig,
    reported: Collection[str],
    best: Collection[str] = (),
) -> str | None:
    """Delete the models that a study which has ended, with all its jobs done, does not keep; their results stay.

    What another study keeps stays too; while another one is under way nothing is deleted, for it may need any model.

    Returns:
        A line for people; None where there was nothing to delete.
    """
    unneeded = unneeded_models(jobs, keep, reported, best)
    note_needs(storage, study, jobs, set(jobs) - unneeded)
    unneeded = {key for key in unneeded if storage.has_files(key)}
    if not unneeded:
        return None
    others = {name: needed for name, needed in needs(storage).items() if name != study}
    if running := [name for name in others if storage.is_driven(name)]:
        return f"no model is deleted while {', '.join(running)} runs; the next sweep of {study} does it"
    if unknown := [name for name, needed in others.items() if needed is None]:
        return f"no model is deleted: which ones {', '.join(unknown)} needs is not known until its sweep has run again"
    unneeded -= {key for needed in others.values() if needed is not None for key in needed["models"]}
    for key in sorted(unneeded):
        storage.prune(key)
    return f"the models of {len(unneeded)} jobs are deleted, as `keep` says; their results stay" if unneeded else None
