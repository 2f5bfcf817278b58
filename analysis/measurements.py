"""What pretraining and probes measured: perplexity, training loss, cosines of gradients and of masks.

All of it is in MLflow but the single groups of parameters, which a probe leaves in its folder (docs/probes.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raylab.errors import InputError

if TYPE_CHECKING:
    from analysis.results import Results

_MEASURED = ("FINISHED", "RUNNING")
_COSINE = re.compile(
    r"(?P<probe>gradient|pruning)/cosine/(?P<first>[^-/]+)-(?P<second>[^-/]+)"
    r"(?:/(?:layer\.(?P<layer>\d+))?\.?(?P<module>[a-z]+)?)?"
)
_MODEL = ["variant", "languages", "seed"]


class Job(NamedTuple):
    """A job that measured something.

    Attributes:
        run_id: MLflow's identifier.
        variant: Of the model.
        languages: Of the model, joined by `-`.
        seed: Of the model.
        tags: Of the MLflow run.
        params: Likewise.
        metrics: Last values.
    """

    run_id: str
    variant: str
    languages: str
    seed: int
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


def jobs(results: Results, kind: str) -> list[Job]:
    """The jobs of a kind that have finished or run; of pretraining those of the chosen recipes alone.

    Args:
        results: The study's results.
        kind: pretrain or probe.
    """
    recipes = results.recipes()
    chosen = recipes[recipes["chosen"]].set_index(["variant", "languages"])["recipe"].to_dict()
    runs = results.runs.filter(
        pc.and_(pc.equal(results.runs["kind"], kind), pc.is_in(results.runs["status"], pa.array(_MEASURED)))
    )
    found = []
    columns = (runs[name].to_pylist() for name in ("run_id", "tags", "params", "metrics"))
    for run_id, *pairs in zip(*columns, strict=True):
        tags, params, metrics = map(dict, pairs)
        if not {*_MODEL, "recipe"} <= tags.keys():
            continue
        if chosen.get((tags["variant"], tags["languages"]), tags["recipe"]) == tags["recipe"]:
            found.append(Job(run_id, tags["variant"], tags["languages"], int(tags["seed"]), tags, params, metrics))
    return sorted(found, key=lambda job: (job.variant, job.languages, job.seed, job.tags.get("key", "")))


def perplexities(results: Results, variants: Sequence[str] = ("mono", "joint")) -> pd.DataFrame:
    """Validation perplexity in the course of pretraining.

    Args:
        results: The study's results.
        variants: Whose.

    Returns:
        Columns variant, languages (of the model), seed, language, step and value.
    """
    found = [job for job in jobs(results, "pretrain") if job.variant in variants]
    return _histories(results, found, lambda name: _after("valid/perplexity/", name), ["language"]).drop(
        columns="run_id"
    )


def training_losses(results: Results) -> pd.DataFrame:
    """Training loss in the course of pretraining, in nats.

    Returns:
        Columns variant, languages (of the model), seed, warmup_steps, step and value.
    """
    found = jobs(results, "pretrain")
    frame = _histories(results, found, lambda name: () if name == "train/loss" else None, [])
    warmup = {job.run_id: int(job.params.get("pretrain.warmup_steps", 0)) for job in found}
    return frame.assign(warmup_steps=frame["run_id"].map(warmup)).drop(columns="run_id")


def gradient_cosines(results: Results, by: str | None = None) -> pd.DataFrame:
    """Cosines of languages' gradients in the course of pretraining (paper, Figure 3).

    As a probe measured them; where a model was not probed, as its training did (`pretrain.gradients_every`).

    Args:
        results: The study's results.
        by: Over all shared parameters by default; also of each `layer`, or of each `module`.

    Returns:
        Columns variant, languages (of the model), seed, first and second (languages; the same one: the baseline), layer
        and module (None: all of them), step and value.

    Raises:
        ValueError: If `by` is something else.
    """
    if by not in (None, "layer", "module"):
        raise ValueError(f"by layer or by module; found {by!r}")

    def place(name: str) -> tuple[object, ...] | None:
        found = _COSINE.fullmatch(name)
        if found is None or found["probe"] != "gradient":
            return None
        asked = (found["layer"] is None or by == "layer") and (found["module"] is None or by == "module")
        return _place(found) if asked else None

    found = [job for job in jobs(results, "probe") if job.tags.get("probe") == "gradients"]
    probed = {(job.variant, job.languages, job.seed) for job in found}
    found += [job for job in jobs(results, "pretrain") if (job.variant, job.languages, job.seed) not in probed]
    return _histories(results, found, place, ["first", "second", "layer", "module"]).drop(columns="run_id")


def mask_cosines(results: Results) -> pd.DataFrame:
    """Cosines of languages' masks at the end of pretraining (paper, Figure 4, left).

    Returns:
        Columns variant, languages (of the model), seed, first and second (languages; the same one: the repeat), layer
        and module (None: all of them) and value.
    """
    rows = [
        (job.variant, job.languages, job.seed, *_place(found), value)
        for job in jobs(results, "probe")
        for name, value in job.metrics.items()
        if (found := _COSINE.fullmatch(name)) and found["probe"] == "pruning"
    ]
    return pd.DataFrame(rows, columns=[*_MODEL, "first", "second", "layer", "module", "value"]).astype(
        {"layer": object, "module": object}
    )


def mask_groups(results: Results, languages: str, variant: str = "joint") -> pd.DataFrame:
    """The groups of parameters of a model, each with how much each language's masks want it kept.

    Args:
        results: The study's results.
        languages: Of the model, joined by `-`.
        variant: Of the model.

    Returns:
        One row a group, by name (`layer.0.attention.query.12`), of the first seed's model: layer, module, for each
        language a column of its mean log alpha over repeats (over 0: kept), and `specific`, whether all masks of one
        language keep it and none of another's does.

    Raises:
        InputError: If there is no such probe, or its folder cannot be read from here.
    """
    probes = [job for job in jobs(results, "probe") if job.tags.get("probe") == "pruning"]
    probes = [job for job in probes if (job.languages, job.variant) == (languages, variant)]
    if not probes:
        raise InputError(f"study {results.study.name!r} has no finished pruning probe of {variant} {languages}")
    path = f"{probes[0].tags.get('output')}/groups.parquet"
    try:
        groups = pd.read_parquet(path)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: the groups of a pruning probe cannot be read from here: {reason}") from error
    by_language = groups.groupby(["group", "language"], sort=False)["log_alpha"]
    means, lowest, highest = (getattr(by_language, name)().unstack("language") for name in ("mean", "min", "max"))
    specific = (lowest > 0).any(axis="columns") & (highest <= 0).any(axis="columns")
    places = groups.drop_duplicates("group").set_index("group")[["layer", "module"]]
    return places.join(means[languages.split("-")]).join(specific.rename("specific"))


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Curves with one row a step: value (mean), low and high (least and greatest) over what differs in seed alone."""
    places = [name for name in frame.columns if name not in ("seed", "value")]
    return (
        frame.groupby(places, dropna=False, sort=False)["value"]
        .agg(value="mean", low="min", high="max")
        .reset_index()
        .sort_values("step", kind="stable", ignore_index=True)
    )


def smoothed(frame: pd.DataFrame, points: int = 40) -> pd.DataFrame:
    """Curves over fewer steps, evenly spaced on a logarithmic scale; a value is the mean of those around it.

    Args:
        frame: Columns step and value, and others that tell curves apart.
        points: Most steps of one curve.
    """
    if frame.empty:
        return frame
    steps = frame["step"].clip(lower=1)
    edges = np.geomspace(steps.min(), steps.max() + 1, points + 1)
    bins = np.digitize(steps, edges)
    curves = [name for name in frame.columns if name not in ("step", "value")]
    grouped = frame.assign(bin=bins).groupby([*curves, "bin"], dropna=False, sort=False)
    means = grouped[["step", "value"]].mean().reset_index()
    centres = frame.assign(bin=bins).groupby("bin")["step"].mean()  # the same for all curves, which are compared
    return means.assign(step=means["bin"].map(centres)).drop(columns="bin")


def _histories(
    results: Results,
    found: Sequence[Job],
    place: Callable[[str], Sequence[object] | None],
    names: list[str],
) -> pd.DataFrame:
    """The histories of the metrics that `place` has a place for, which are its values of the columns `names`."""
    parts = []
    for metric in dict.fromkeys(metric for job in found for metric in job.metrics):
        values = place(metric)
        if values is None:
            continue
        measured = {job.run_id: job for job in found if metric in job.metrics}
        for run_id, curve in results.histories(list(measured), metric).items():
            job = measured[run_id]
            own = dict(zip([*_MODEL, *names], (job.variant, job.languages, job.seed, *values), strict=True))
            columns = {name: pd.Series([value] * len(curve), dtype=object) for name, value in own.items()}
            steps = pd.DataFrame(curve, columns=["step", "value"])
            parts.append(pd.concat([pd.DataFrame(columns).assign(run_id=run_id), steps], axis="columns"))
    if not parts:
        return pd.DataFrame(columns=[*_MODEL, *names, "run_id", "step", "value"])
    return pd.concat(parts, ignore_index=True)


def _after(prefix: str, name: str) -> tuple[str] | None:
    return (name.removeprefix(prefix),) if name.startswith(prefix) else None


def _place(found: re.Match[str]) -> tuple[str, str, int | None, str | None]:
    layer = found["layer"]
    return found["first"], found["second"], None if layer is None else int(layer), found["module"]
