"""A study beside the paper (Wang, Lipton and Tsvetkov 2020): values, and what of its findings comes out the same.

Values depend on the size of models and data. What a small study can share with the paper is which model does better:
the signs of differences, and the order of the variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, spearmanr

from analysis import paper, tables
from analysis.claims import claims_text
from analysis.interference import SeedScores
from analysis.labels import in_variant_order
from analysis.reference import AVERAGE, CELL, paper_scores
from analysis.statistics import excludes_zero
from analysis.uncertainty import Contrast, Uncertainty
from raylab.errors import InputError

if TYPE_CHECKING:
    from analysis.results import Results

_XLM = "xlm-mlm-100-1280"  # the model of the paper's row XLM, among others that `external` may be
_FEWEST_RANKED = 3  # variants
_DIFFERENCES = ("below_mono", "above_joint")
_TRIO = "joint of three languages"
_PAPER_SIZE = "8 layers of 512, 500,000 steps of 512 sequences"


def comparison(results: Results) -> pd.DataFrame:
    """Every score that the paper prints too, over all tables that the study can give; see `compare_with_paper`.

    Raises:
        InputError: If the study and the paper have no score in common.
    """
    frames = []
    for number in paper.TITLES:
        try:
            frames.append(compare_with_paper(results, number))
        except InputError:
            continue  # the study has nothing of this table
    if not frames:
        raise InputError(
            f"study {results.study.name!r} has no score that the paper prints: its pairs are of English with "
            "Arabic, French, Russian, Hindi, Swahili or Telugu"
        )
    return pd.concat(frames, ignore_index=True)


def compare_with_paper(results: Results, number: int) -> pd.DataFrame:
    """The scores of one of the paper's tables beside the paper's.

    Differences are paired by seed, as those of `analysis.interference.interference`. A cell's sign agrees where our
    difference and the paper's have the same one; where either is 0 there is none to compare.

    Args:
        results: The study's results.
        number: Of the table, from 2 to 7.

    Returns:
        One row a cell that the paper prints there and the study lays out: table, setting, task, metric, variant,
        languages (of the set, joined by `-`), language, value and paper (percent; value is NaN where missing),
        below_mono and paper_below_mono (mono minus the variant, percentage points), above_joint and paper_above_joint
        (the variant minus joint; in Table 4, joint of three languages minus that of two); for each difference of ours
        also its interval from all sources of chance at hand, `_low` and `_high`, what these are, `_basis`, and whether
        its sign agrees, `_agrees` (True, False or NA).

    Raises:
        InputError: If the study has no such table, or shares no score of it with the paper.
    """
    layout = results.layout_of_paper(number)
    scores, printed, of_table = SeedScores(results.best(), results.study), _printed(), set(_printed(number))
    rows: list[dict[str, Any]] = []
    contrasts: dict[tuple[int, str], Contrast] = {}
    for cell in layout.cells:
        if _key(cell) not in of_table or (cell.variant == "external" and not _is_xlm(results)):
            continue
        own = paper.scores_of(cell, scores)
        value = float(np.mean(list(own.values()))) if own else float("nan")
        row: dict[str, Any] = {
            "table": number,
            **dict(zip(CELL, _key(cell), strict=True)),
            "value": value,
            "paper": printed[_key(cell)],
        }
        for name, baseline in (("below_mono", _mono_of(cell)), ("above_joint", _joint_of(cell, number))):
            theirs = printed.get(_key(baseline), float("nan")) - printed[_key(cell)] if baseline else float("nan")
            if baseline:
                places = [one.place(results.study) for one in (baseline, cell)]
                contrasts[len(rows), name] = scores.contrast(*(places if name == "below_mono" else places[::-1]))
            row[f"paper_{name}"] = theirs if name == "below_mono" else -theirs
        rows.append(row)
    measured = dict(zip(contrasts, results.uncertainty(list(contrasts.values())), strict=True))
    for place, row in enumerate(rows):
        for name in _DIFFERENCES:
            found = measured.get((place, name), Uncertainty())
            row[name] = contrasts[place, name].mean if (place, name) in contrasts else float("nan")
            row |= {f"{name}_low": found.total_low, f"{name}_high": found.total_high, f"{name}_basis": found.basis}
            row[f"{name}_agrees"] = _same_sign(row[name], row[f"paper_{name}"])
    frame = pd.DataFrame(rows)
    if frame.empty or frame["value"].isna().all():
        raise InputError(f"table {number} of the paper and study {results.study.name!r} have no score in common")
    return frame.astype({f"{name}_agrees": "boolean" for name in _DIFFERENCES})


def agreement(frame: pd.DataFrame, by: Sequence[str] = ("table",)) -> pd.DataFrame:
    """How often signs agree with the paper's.

    Args:
        frame: Rows of `comparison` or `compare_with_paper`.
        by: Columns whose values make a row each, such as table, or setting and variant. Where table is not among
            them, a score that several tables print counts once.

    Returns:
        `by`, cells (compared), difference (mean of ours minus the paper's, percentage points) and, for below_mono and
        above_joint: its mean, paper_ its mean in the paper over the same cells, _same (cells of the same sign), _of
        (of how many), _clear (cells whose interval excludes 0) and _clear_same (of these, of the same sign).
    """
    compared = frame[frame["value"].notna()]
    if "table" not in by:
        compared = compared.drop_duplicates(CELL)
    rows = []
    for group, cells in compared.groupby(list(by), sort=False):
        row = dict(zip(by, group if isinstance(group, tuple) else (group,), strict=True))
        row |= {"cells": len(cells), "difference": (cells["value"] - cells["paper"]).mean()}
        for name in _DIFFERENCES:
            both = cells[cells[name].notna() & cells[f"paper_{name}"].notna()]
            agrees = both[f"{name}_agrees"]
            ends = zip(both[f"{name}_low"], both[f"{name}_high"], strict=True)
            clear = np.array([excludes_zero(*pair) for pair in ends], dtype=bool) & agrees.notna().to_numpy(bool)
            row |= {name: both[name].mean(), f"paper_{name}": both[f"paper_{name}"].mean()}
            row |= {f"{name}_same": int(agrees.sum()), f"{name}_of": int(agrees.notna().sum())}
            row |= {f"{name}_clear": int(clear.sum()), f"{name}_clear_same": int(agrees[clear].sum())}
        rows.append(row)
    return pd.DataFrame(rows)


def rank_agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """How alike the variants stand in order, ours and the paper's, in each column of each table.

    Args:
        frame: Rows of `comparison` or `compare_with_paper`.

    Returns:
        One row a column with three variants or more: table, setting, task, metric, languages and language (of an
        average over the columns that all of them have, `average`), variants (how many), kendall (tau-b) and spearman,
        from -1 (reversed) to 1; NaN where all scores are equal.
    """
    columns = ["table", "setting", "task", "metric"]
    rows = []
    for place, block in frame[frame["value"].notna()].groupby(columns, sort=False):
        for column, cells in block.groupby(["languages", "language"], sort=False):
            rows.append((*place, *column, *_ranks(cells["value"], cells["paper"])))
        ours, theirs = (
            block.pivot(index="variant", columns=["languages", "language"], values=name) for name in ("value", "paper")
        )
        common = ours.columns[ours.notna().all()]
        if len(common) > 1:
            means = [scores[common].mean(axis=1) for scores in (ours, theirs)]
            rows.append((*place, "", AVERAGE, *_ranks(*means)))
    found = pd.DataFrame(rows, columns=[*columns, "languages", "language", "variants", "kendall", "spearman"])
    return found[found["variants"] >= _FEWEST_RANKED].reset_index(drop=True)


def comparison_text(results: Results) -> str:
    """The comparison for a terminal: the paper's claims, where signs and ranks agree, and each table.

    Raises:
        InputError: If the study and the paper have no score in common.
    """
    frame = comparison(results)
    parts = [_title(results), claims_text(results), _agreement_text(frame)]
    for number in frame["table"].unique():
        parts.append(f"Table {number}: {paper.TITLES[number]}; the paper's in brackets")
        parts.append(_side_by_side(results.layout_of_paper(number), frame[frame["table"] == number]))
    return "\n\n".join(part for part in parts if part)


def _agreement_text(frame: pd.DataFrame) -> str:
    order = {variant: place for place, variant in enumerate(in_variant_order(frame["variant"]))}
    by_variant = agreement(frame, ("setting", "variant"))
    by_variant = by_variant.sort_values(
        ["setting", "variant"], key=lambda c: c.map(order) if c.name == "variant" else c
    )
    by_variant = by_variant.set_index(["setting", "variant"])
    ranks = rank_agreement(frame)
    parts = []
    for name, words in (("below_mono", "Mono minus the variant"), ("above_joint", "The variant minus joint")):
        counted = by_variant[by_variant[f"{name}_of"] > 0]
        if counted.empty:
            continue
        shown = pd.DataFrame(
            {
                "ours": [tables.number(value, signed=True) for value in counted[name]],
                "paper": [tables.number(value, signed=True) for value in counted[f"paper_{name}"]],
                "same sign": _of(counted[f"{name}_same"], counted[f"{name}_of"]),
                "of clear ones": _of(counted[f"{name}_clear_same"], counted[f"{name}_clear"]),
            },
            index=pd.MultiIndex.from_tuples(
                [
                    (setting, _TRIO if name == "above_joint" and variant == "joint" else variant)
                    for setting, variant in counted.index
                ],
                names=counted.index.names,
            ),
        )
        same, of = counted[f"{name}_same"].sum(), counted[f"{name}_of"].sum()
        parts.append(
            f"{words}, percentage points, mean over cells: {same} of {of} signs are the paper's\n\n{tables.text(shown)}"
        )
    if parts:
        bases = sorted({basis for name in _DIFFERENCES for basis in frame[f"{name}_basis"]} - {""})
        parts.append(
            f"Clear: the 95% interval of the cell ({' or '.join(bases) or 'of which none is known'}) excludes 0, not\n"
            "corrected for the number of cells. Half of all signs agree by chance, cells of one model are not "
            "independent,\nand the paper has one run of each model: the counts have no interval of their own."
        )
    if not ranks.empty:
        means = ranks.assign(of=np.where(ranks["language"] == AVERAGE, "averages", "languages"))
        means = means.pivot_table(index=["table", "setting", "task", "metric"], columns="of", values="kendall")
        means = means.rename(columns={"languages": "mean over languages", "averages": "of averages"})
        means.columns.name = None
        parts.append(f"Order of the variants, Kendall's tau with the paper's\n\n{tables.text(means, 2)}")
    return "\n\n".join(part for part in parts if part)


def _side_by_side(layout: paper.Layout, frame: pd.DataFrame) -> str:
    """A text table a task: ours, and the paper's in brackets, both with averages over the same columns."""
    by_key = {tuple(row[name] for name in CELL): row for row in frame.to_dict("records")}
    cells = {cell: by_key[_key(cell)] for cell in layout.cells if _key(cell) in by_key}
    there = {(cell.row[0], cell.column) for cell, row in cells.items() if not np.isnan(row["value"])}
    cells = {cell: row for cell, row in cells.items() if (cell.row[0], cell.column) in there}
    ours, theirs = (
        paper.filled(layout, {cell: row[name] for cell, row in cells.items()}) for name in ("value", "paper")
    )
    parts = []
    shown = ours.columns[ours.notna().any()]
    for task in dict.fromkeys(shown.get_level_values("task")):
        columns = shown[shown.get_level_values("task") == task]
        pairs = {
            column: [
                tables.MISSING
                if np.isnan(mine) and np.isnan(other)
                else f"{tables.number(mine)} ({tables.number(other)})"
                for mine, other in zip(ours[column], theirs[column], strict=True)
            ]
            for column in columns
        }
        rows = ours[columns].notna().any(axis="columns")
        parts.append(tables.text(pd.DataFrame(pairs, index=ours.index)[rows], blocks=True))
    return "\n\n".join(part for part in parts if part)


def _title(results: Results) -> str:
    study = results.study
    lines = [f"Beside the paper (Wang, Lipton and Tsvetkov 2020), study {study.name}"]
    model, pretrain = (study.configuration.get(section) or {} for section in ("model", "pretrain"))
    if model and pretrain:
        lines.append(
            f"Models here: {model['num_layers']} layers of {model['dim']}, {pretrain['steps']:,} steps of "
            f"{pretrain['batch_size']} sequences; the paper's: {_PAPER_SIZE}."
        )
    if (study.configuration.get("data") or {}).get("source") == "demo":
        lines.append("The languages here are generated and have no more than their names in common with the paper's.")
    lines.append("Scores depend on the size of models and data; compare signs and order.")
    return "\n".join(lines)


def _printed(table: int | None = None) -> dict[tuple[str, ...], float]:
    """The paper's scores by cell: of one table or, by default, of all."""
    scores = paper_scores()
    chosen = (scores["language"] != AVERAGE) & ((scores["table"] == table) | (table is None))
    rows = scores.loc[chosen, [*CELL, "value"]].itertuples(index=False, name=None)
    return {tuple(key): value for *key, value in rows}


def _key(cell: paper.Cell) -> tuple[str, ...]:
    return (cell.setting, cell.task, cell.metric, cell.variant, "-".join(cell.languages), cell.language)


def _mono_of(cell: paper.Cell) -> paper.Cell | None:
    """The same score of mono, in the set of the pair, which the paper has."""
    if cell.variant == "mono" or cell.setting == "zero_shot":
        return None
    return replace(cell, variant="mono", languages=_pair(cell))


def _joint_of(cell: paper.Cell, number: int) -> paper.Cell | None:
    """The same score of joint; in Table 4, which has nothing else, of three languages beside two."""
    if number == 4:
        return replace(cell, languages=_pair(cell)) if len(cell.languages) > 2 else None
    return None if cell.variant in ("joint", "mono") else replace(cell, variant="joint")


def _pair(cell: paper.Cell) -> tuple[str, ...]:
    return cell.languages if cell.language == cell.languages[0] else (cell.languages[0], cell.language)


def _is_xlm(results: Results) -> bool:
    return _XLM in str((results.study.configuration.get("external") or {}).get("model"))


def _same_sign(ours: float, theirs: float) -> bool | None:
    if np.isnan(ours) or np.isnan(theirs) or ours == 0 or theirs == 0:
        return None
    return bool(np.sign(ours) == np.sign(theirs))


def _ranks(ours: pd.Series, theirs: pd.Series) -> tuple[int, float, float]:
    if len(ours) < _FEWEST_RANKED:
        return len(ours), float("nan"), float("nan")
    constant = ours.nunique() == 1 or theirs.nunique() == 1  # of which scipy warns
    nan = float("nan")
    kendall, spearman = (
        (nan, nan) if constant else (method(ours, theirs).statistic for method in (kendalltau, spearmanr))
    )
    return len(ours), float(kendall), float(spearman)


def _of(same: pd.Series, of: pd.Series) -> list[str]:
    return [f"{part} of {whole}" if whole else tables.MISSING for part, whole in zip(same, of, strict=True)]
