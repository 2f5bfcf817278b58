"""What a study's models cost, and what a point gained over the joint models costs more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.contrasts import Average
from analysis.jobs import Job
from analysis.study import Study

_NAN = float("nan")


def hour_unit(configuration: Mapping[str, Any]) -> str:
    """What hours are counted in: GPU-hours where a study's workers have a GPU each, else core-hours."""
    return "GPU-hours" if (configuration.get("scaling") or {}).get("use_gpu") else "core-hours"


def hours(job: Job, configuration: Mapping[str, Any]) -> float:
    """GPU-hours or core-hours of a job that finished: its seconds, times the workers of a pretraining, times cores.

    Hours of today's configuration: what earlier sweeps of a study ran on is not recorded.
    """
    scaling = configuration.get("scaling") or {}
    workers = scaling.get("num_workers", 1) if job.kind == "pretrain" else 1
    per_worker = 1 if scaling.get("use_gpu") else scaling.get("cpus_per_worker", 1)
    return job.metrics.get("seconds", 0.0) * workers * per_worker / 3600


def cost_by_kind(jobs: Sequence[Job], configuration: Mapping[str, Any]) -> pd.DataFrame:
    """Finished jobs of each kind: kind, jobs, hours and tokens (of pretraining: what the models read)."""
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for job in jobs:
        if job.status == "FINISHED" and "seconds" in job.metrics:
            of_kind = sums[job.kind]
            of_kind[0] += 1
            of_kind[1] += hours(job, configuration)
            of_kind[2] += job.metrics.get("train_tokens", 0.0)
    order = ("prepare", "import", "pretrain", "finetune", "probe")
    rows = [
        (kind, int(number), spent, tokens or float("nan"))
        for kind in order
        if kind in sums
        for number, spent, tokens in [sums[kind]]
    ]
    return pd.DataFrame(rows, columns=["kind", "jobs", "hours", "tokens"])


def cost_of_variants(
    jobs: Sequence[Job],
    study: Study,
    configuration: Mapping[str, Any],
    gained: Mapping[tuple[str, str], Average],
    chosen: Mapping[tuple[str, str], str],
) -> pd.DataFrame:
    """What a language set costs with each variant, and what that buys over the joint models.

    Args:
        jobs: The study's pretraining jobs; a model that was trained in segments costs all of them.
        study: The study's outline.
        configuration: The study's configuration, or nothing.
        gained: `analysis.contrasts.above_joint`.
        chosen: The recipe of each variant and model's languages; other recipes are the search's cost, not the model's.

    Returns:
        For each variant that has finished models: variant, hours and tokens of pretraining (means over language sets
        and seeds; a set needs a mono model for each language), ratio (hours over joint's), within and zero_shot
        (points gained over joint, means over cells and seeds), hours_per_point and tokens_per_point (more than joint's
        for each point gained within language; NaN where no gain can be told from 0, or nothing costs more).
    """
    spent: dict[tuple[str, str], dict[str, list[float]]] = {}
    for job in jobs:
        model = (job.tags.get("variant", ""), job.tags.get("languages", ""))
        wanted = chosen.get(model)
        if job.status != "FINISHED" or (wanted is not None and job.tags.get("recipe") not in (wanted, None)):
            continue
        of_seed = spent.setdefault(model, {}).setdefault(job.tags.get("seed", "0"), [0.0, 0.0])
        of_seed[0] += hours(job, configuration)
        of_seed[1] += job.metrics.get("train_tokens", 0.0)
    rows = []
    for variant in study.variants:
        sets = []
        for languages in study.language_sets:
            models = dict.fromkeys(study.model_languages(languages, variant, language) for language in languages)
            known = [spent.get((variant, model)) for model in models]
            if all(known):
                sets.append(np.sum([np.mean(list(seeds.values()), axis=0) for seeds in known if seeds], axis=0))
        if sets:
            points = [
                gained[setting, variant].mean if (setting, variant) in gained else 0.0 if variant == "joint" else _NAN
                for setting in ("within", "zero_shot")
            ]
            told = ("within", variant) in gained and gained["within", variant].told
            rows.append((variant, *np.mean(sets, axis=0), *points, told))
    frame = pd.DataFrame(rows, columns=["variant", "hours", "tokens", "within", "zero_shot", "told"])
    joint = frame.loc[frame["variant"] == "joint", ["hours", "tokens"]]
    base = joint.iloc[0].where(joint.iloc[0] > 0) if len(joint) else pd.Series(_NAN, ["hours", "tokens"])
    frame.insert(3, "ratio", frame["hours"] / base["hours"])
    gains = frame["within"].where(frame["told"] & (frame["within"] > 0))
    for name in ("hours", "tokens"):
        extra = frame[name] - base[name]
        frame[f"{name}_per_point"] = extra.where(extra > 0) / gains
    return frame.drop(columns="told")
