"""What each model made of each test example: read from the predictions that finetuning jobs leave in their folders.

A job's folder holds `predictions.parquet` (`raylab.train.finetune`). From it come, for every metric of a task, a
numerator and a denominator of each example, whose sums give the score (see `analysis.resampling`). A score that comes
out otherwise than MLflow has it is of another run, or of another metric of that name, and is not used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from analysis.chunks import TagRules, count_chunks
from raylab.tasks.scoring import answers_scored

PREDICTIONS_FILE = "predictions.parquet"
_COLUMNS = ["language", "split", "gold", "predicted"]
_AS_CODES = ["gold.list.element", "predicted.list.element"]
_EQUAL = 1e-6  # percentage points between a score and the same score
_READERS = 8
_FILES_AT_ONCE = 64  # so that no more tables are in memory


class Outcomes(NamedTuple):
    """One model's outcomes on the examples of a test set, in one metric.

    Attributes:
        numerators: Each example's part of the score's numerator. [examples]
        denominators: Likewise. [examples]
        score: 100 times the ratio of their sums, to the last digit what the task's own metric gives, percent.
        test_set: Equal for two models if they were tested on the same examples in the same order.
    """

    numerators: np.ndarray
    denominators: np.ndarray
    score: float
    test_set: tuple[str, str, int]


class Examples:
    """The outcomes of chosen finetuning jobs, by job, language and metric, as far as their folders are within reach.

    Args:
        outcomes: By key of the job, test language and metric.
        reasons: Why there are none, by the same, or by key alone.
    """

    def __init__(
        self,
        outcomes: Mapping[tuple[str, str, str], Outcomes] | None = None,
        reasons: Mapping[tuple[str, ...], str] | None = None,
    ) -> None:
        self._outcomes = dict(outcomes or {})
        self._reasons = dict(reasons or {})

    def __len__(self) -> int:
        return len(self._outcomes)

    def get(self, key: str, language: str, metric: str) -> Outcomes | None:
        """The outcomes of a job on the test set of a language; None if they are not known."""
        return self._outcomes.get((key, language, metric))

    def all(self) -> Iterator[Outcomes]:
        """All outcomes, those of a job one after another."""
        return iter(self._outcomes.values())

    def reason(self, key: str, language: str, metric: str) -> str:
        """Why `get` gives None."""
        where = (key, language, metric)
        return self._reasons.get(where) or self._reasons.get((key,)) or "predictions were not read"


def load_examples(best: pd.DataFrame) -> Examples:
    """Read the predictions of chosen finetuning jobs.

    A folder out of reach, or a file that is missing, broken or of another run, is no error: `Examples.reason` says it.

    Args:
        best: Chosen test scores, as `analysis.selection.best_scores` returns them, with columns key, output (path or
            fsspec URI), task, eval_language, metric and value.
    """
    outcomes: dict[tuple[str, str, str], Outcomes] = {}
    reasons: dict[tuple[str, ...], str] = {}
    wanted: dict[str, list[tuple[str, str, str, float]]] = {}
    folders: dict[str, str | None] = {}
    columns = ["key", "output", "task", "eval_language", "metric", "value"]
    for key, output, task, language, metric, value in best[columns].itertuples(index=False):
        wanted.setdefault(key, []).append((task, language, metric, value))
        folders[key] = output if isinstance(output, str) else None
    for key, table in _read_all(folders):
        if isinstance(table, str):
            reasons[key,] = table
            continue
        for task, language, metric, value in dict.fromkeys(wanted[key]):
            found = _outcomes(table, task, language)
            if isinstance(found, dict) and metric in found:
                one = found[metric]
                if abs(one.score - value) <= _EQUAL:
                    outcomes[key, language, metric] = one
                    continue
                found = f"the predictions in {folders[key]} give {one.score:.4f} {metric}, MLflow has {value:.4f}"
            elif isinstance(found, dict):
                found = f"metric {metric!r} of {task} is not known by example; known: {', '.join(found)}"
            reasons[key, language, metric] = found
        table.parsed.clear()
    return Examples(outcomes, reasons)


class _Predictions(NamedTuple):
    table: pa.Table
    parsed: dict[tuple[str, str], dict[str, Outcomes] | str]  # by task and language, while the file is looked at


def _outcomes(predictions: _Predictions, task: str, language: str) -> dict[str, Outcomes] | str:
    """The outcomes on a language's test set by metric, or why there are none."""
    if (task, language) not in predictions.parsed:
        predictions.parsed[task, language] = _parse(predictions.table, task, language)
    return predictions.parsed[task, language]


def _parse(table: pa.Table, task: str, language: str) -> dict[str, Outcomes] | str:
    if task not in _TASKS:
        return f"outcomes of task {task!r} are not known by example; known: {', '.join(_TASKS)}"
    rows = table.filter(pc.and_(pc.equal(table["split"], "test"), pc.equal(table["language"], language)))
    if not len(rows):
        return f"no predictions on the test set of {language}"
    gold, predicted = (rows[name].combine_chunks() for name in ("gold", "predicted"))
    try:
        identity, by_metric = _TASKS[task](gold, predicted)
    except (pa.ArrowException, ValueError, TypeError, AttributeError) as error:
        return f"predictions of {task} are not of the known form ({error})"
    return {
        metric: Outcomes(numerators, denominators, score, (task, language, identity))
        for metric, (numerators, denominators, score) in by_metric.items()
    }


_ByMetric = dict[str, tuple[np.ndarray, np.ndarray, float]]


def _tagged(gold: pa.Array, predicted: pa.Array) -> tuple[int, _ByMetric]:
    """Of sentences: chunks, whose F1 is seqeval's, and words."""
    lengths = gold.value_lengths().to_numpy()
    if not np.array_equal(lengths, predicted.value_lengths().to_numpy()):
        raise ValueError("sentences have other numbers of gold and of predicted tags")
    sides = [_codes(side.flatten()) for side in (gold, predicted)]
    rules = _rules(tuple(_TAG_CODES))
    right, given, there = count_chunks(sides[0], sides[1], lengths, rules)
    sentences = np.repeat(np.arange(len(lengths)), lengths)
    correct = np.bincount(sentences[sides[0] == sides[1]], minlength=len(lengths))
    identity = xxhash.xxh3_64_intdigest(sides[0].tobytes() + lengths.tobytes())
    return identity, {
        "f1": (2.0 * right, (given + there).astype(float), _f1(int(right.sum()), int(given.sum()), int(there.sum()))),
        "accuracy": (correct.astype(float), lengths.astype(float), 100.0 * (int(correct.sum()) / int(lengths.sum()))),
    }


_TAG_CODES: dict[str, int] = {"O": 0}
"""Codes of the tags met so far, the same in all files, so that equal sentences have equal codes."""


@lru_cache(maxsize=64)
def _rules(tags: tuple[str, ...]) -> TagRules:
    return TagRules(tags)


def _codes(tags: pa.Array) -> np.ndarray:
    encoded = tags if pa.types.is_dictionary(tags.type) else tags.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = np.array([_TAG_CODES.setdefault(name, len(_TAG_CODES)) for name in names], dtype=np.int64)
    return codes[encoded.indices.to_numpy()]


def _f1(right: int, given: int, there: int) -> float:
    """In percent, step by step as seqeval computes it: 2 * right / (given + there) may differ in the last digit."""
    precision = right / given if given else 0.0
    recall = right / there if there else 0.0
    return 100.0 * (2.0 * precision * recall / (precision + recall or 1.0))


def _answered(gold: pa.Array, predicted: pa.Array) -> tuple[int, _ByMetric]:
    """Of questions: F1 and exact match of each."""
    answers = gold.to_pylist()
    f1, exact = answers_scored(answers, predicted.to_pylist())
    ones = np.ones(len(answers))
    text = "\n".join("\t".join(texts) for texts in answers)
    # The last of the sums from left to right: what the metric divides.
    return xxhash.xxh3_64_intdigest(text.encode()), {
        name: (np.array(values), ones, 100.0 * float(np.cumsum(values)[-1]) / len(values))
        for name, values in (("f1", f1), ("em", exact))
    }


def _labelled(gold: pa.Array, predicted: pa.Array) -> tuple[int, _ByMetric]:
    """Of pairs of sentences: right or wrong."""
    right = pc.equal(gold, predicted).to_numpy(zero_copy_only=False).astype(float)
    identity = xxhash.xxh3_64_intdigest("\t".join(gold.to_pylist()).encode())
    return identity, {"accuracy": (right, np.ones(len(right)), 100.0 * (int(right.sum()) / len(right)))}


_TASKS: dict[str, Callable[[pa.Array, pa.Array], tuple[int, _ByMetric]]] = {
    "ner": _tagged,
    "pos": _tagged,
    "qa": _answered,
    "nli": _labelled,
}


def _read_all(folders: Mapping[str, str | None]) -> Iterator[tuple[str, _Predictions | str]]:
    """The predictions in each folder, or why there are none; of a root that is away, one folder is tried."""
    away: dict[str, str] = {}
    tried: set[str] = set()
    later: list[tuple[str, str]] = []
    for key, folder in folders.items():
        if folder is None:
            yield key, "MLflow does not say where the job's folder is"
            continue
        root = folder.rstrip("/").rpartition("/")[0]
        if root in away:
            yield key, away[root]
        elif root in tried:
            later.append((key, folder))
        else:
            tried.add(root)
            found = _read(folder)
            if isinstance(found, str) and not _is_reached(root):
                found = away[root] = f"{root} is out of reach"
            yield key, found
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(later), _FILES_AT_ONCE):
            some = later[start : start + _FILES_AT_ONCE]
            yield from zip((key for key, _ in some), pool.map(_read, (folder for _, folder in some)), strict=True)


def _read(folder: str) -> _Predictions | str:
    """Only what is needed of the file: strings of tags stay codes."""
    path = f"{folder.rstrip('/')}/{PREDICTIONS_FILE}"
    try:
        source = BytesIO(_remote_bytes(path)) if _is_remote(path) else path.removeprefix("file://")
        return _Predictions(pq.read_table(source, columns=_COLUMNS, read_dictionary=_AS_CODES), {})
    except FileNotFoundError:
        return f"{folder} has no {PREDICTIONS_FILE}"
    except Exception as error:  # whatever a cloud's package raises; the analysis goes on without
        reason = str(error).partition("\n")[0] or type(error).__name__
        return f"{path} cannot be read: {reason}"


def _is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def _is_reached(root: str) -> bool:
    if not _is_remote(root):
        return os.path.isdir(root.removeprefix("file://"))  # noqa: PTH112  # text, as the tag has it
    try:
        filesystem, path = _filesystem(root)
        return bool(filesystem.exists(path))
    except Exception:  # as above
        return False


def _remote_bytes(path: str) -> bytes:
    filesystem, name = _filesystem(path)
    return bytes(filesystem.cat_file(name))


def _filesystem(path: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # its packages take a while, and most storages are folders

    found: tuple[Any, str] = url_to_fs(path)
    return found
