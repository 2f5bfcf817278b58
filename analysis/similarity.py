"""What the probes measured: how alike the languages' gradients and masks are, beside how alike within one language."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from analysis.jobs import Job

_MEASURES = {"gradients": "gradient/cosine", "pruning": "pruning/cosine"}
_PLACE = re.compile(r"(?:layer\.(?P<layer>\d+))?\.?(?P<module>[a-z]+)?")


def similarities(jobs: Sequence[Job], probe: str) -> pd.DataFrame:
    """The last cosines that the probes of one kind gave.

    Args:
        jobs: The study's runs of kind `probe`.
        probe: `gradients` or `pruning`.

    Returns:
        One row for each probed model, seed, two languages and place: variant, languages, seed, first, second, within
        (whether the two are one), layer (NaN: of none, or all), module ("": all), cosine.
    """
    prefix = _MEASURES[probe] + "/"
    rows = []
    for job in jobs:
        if job.tags.get("probe") != probe or job.status != "FINISHED":
            continue
        for name, value in job.metrics.items():
            if not name.startswith(prefix):
                continue
            pair, _, place = name.removeprefix(prefix).partition("/")
            first, _, second = pair.partition("-")
            found = _PLACE.fullmatch(place)
            if not second or found is None:
                continue
            layer = float(found["layer"]) if found["layer"] else float("nan")
            model = (job.tags.get("variant"), job.tags.get("languages"), int(job.tags.get("seed", 0)))
            rows.append((*model, first, second, first == second, layer, found["module"] or "", value))
    columns = ["variant", "languages", "seed", "first", "second", "within", "layer", "module", "cosine"]
    return pd.DataFrame(rows, columns=columns)


def overall(frame: pd.DataFrame) -> pd.DataFrame:
    """The cosines over the whole model, means over seeds: variant, languages, within (over its languages), across."""
    whole = frame[frame["layer"].isna() & (frame["module"] == "")]
    means = whole.groupby(["variant", "languages", "within"], sort=False)["cosine"].mean().unstack("within")
    means = means.reindex(columns=[True, False]).set_axis(["within", "across"], axis=1)
    return means.reset_index()


def by_layer(frame: pd.DataFrame) -> pd.DataFrame:
    """Cosines across languages by layer and module, means over seeds and pairs: a row a model, a column a place."""
    inside = frame[~frame["within"].astype(bool) & frame["layer"].notna() & (frame["module"] != "")]
    if inside.empty:
        return pd.DataFrame()
    inside = inside.assign(layer=inside["layer"].astype(int))
    return inside.pivot_table(
        index=["languages", "variant"], columns=["module", "layer"], values="cosine", sort=False
    ).sort_index(axis=1)
