from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.examples import PREDICTIONS_FILE, load_examples
from raylab.tasks import TASKS
from raylab.tasks.pairs import LABELS
from raylab.tasks.pos import UNIVERSAL_TAGS

ENTITY_TAGS = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
ANSWERS = ["The cat", "a  cat sat", "cat!", "dog", "the dog sat on a mat", ""]
COUNT = 60
Answers = tuple[list[Any], list[Any]]


def tagged(tags: list[str], random: np.random.Generator, count: int = COUNT) -> Answers:
    gold = [random.choice(tags, random.integers(1, 9)).tolist() for _ in range(count)]
    return gold, [[tag if random.random() < 0.6 else random.choice(tags) for tag in sentence] for sentence in gold]


def answered(random: np.random.Generator, count: int = COUNT) -> Answers:
    gold = [tuple(random.choice(ANSWERS[:5], random.integers(1, 4)).tolist()) for _ in range(count)]
    return gold, random.choice(ANSWERS, count).tolist()


def labelled(random: np.random.Generator, count: int = COUNT) -> Answers:
    return random.choice(LABELS, count).tolist(), random.choice(LABELS, count).tolist()


MAKE: dict[str, Callable[[np.random.Generator], Answers]] = {
    "ner": lambda random: tagged(ENTITY_TAGS, random),
    "pos": lambda random: tagged(sorted(UNIVERSAL_TAGS), random),
    "qa": answered,
    "nli": labelled,
}


def write(folder: Path | str, answers: dict[tuple[str, str], Answers]) -> None:
    """Write predictions as `FinetuneRun.finish` does; `answers` by language and split."""
    columns: dict[str, list[Any]] = {}
    for (language, split), (gold, predicted) in answers.items():
        there = {
            "language": [language] * len(gold),
            "split": [split] * len(gold),
            "example": range(len(gold)),
            "gold": gold,
            "predicted": predicted,
        }
        for name, values in there.items():
            columns.setdefault(name, []).extend(values)
    with fsspec.open(f"{folder}/{PREDICTIONS_FILE}", "wb", auto_mkdir=True) as stream:
        pq.write_table(pa.table(columns), stream, compression="zstd")


def chosen(folder: Path | str, task: str, scores: dict[tuple[str, str], float], key: str = "k") -> pd.DataFrame:
    """Rows of chosen scores of one job, by language and metric."""
    rows = [(key, str(folder), task, language, metric, value) for (language, metric), value in scores.items()]
    return pd.DataFrame(rows, columns=["key", "output", "task", "eval_language", "metric", "value"])


@pytest.mark.parametrize("task", list(MAKE))
@pytest.mark.parametrize("where", ["folder", "URI"])
def test_outcomes_add_up_to_the_score_to_the_last_digit(task: str, where: str, tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "k" if where == "folder" else f"memory://{tmp_path.name}/jobs/k"
    random = np.random.default_rng(7)
    answers = {(language, split): MAKE[task](random) for split in ("dev", "test") for language in ("en", "fr")}
    write(folder, answers)
    scores = {
        (language, metric): value
        for language in ("en", "fr")
        for metric, value in TASKS[task].score(*answers[language, "test"], language).items()
    }
    examples = load_examples(chosen(folder, task, scores))
    assert len(examples) == len(scores) == 2 * len(TASKS[task].metrics)
    for (language, metric), value in scores.items():
        outcomes = examples.get("k", language, metric)
        assert outcomes is not None
        assert outcomes.score == value
        assert len(outcomes.numerators) == len(outcomes.denominators) == COUNT
        again = 100.0 * outcomes.numerators.sum() / outcomes.denominators.sum()
        assert again == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("task", list(MAKE))
def test_test_set_tells_whether_examples_are_the_same(task: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    gold, predicted = MAKE[task](random)
    other_gold, _ = MAKE[task](random)
    test_sets = []
    for name, one in (("a", gold), ("b", gold), ("c", gold[::-1]), ("d", other_gold)):
        right = [answers[0] for answers in one] if task == "qa" else one
        given = predicted if name == "a" else right
        write(tmp_path / name, {("en", "test"): (one, given)})
        metric = TASKS[task].metrics[0]
        value = TASKS[task].score(one, given, "en")[metric]
        outcomes = load_examples(chosen(tmp_path / name, task, {("en", metric): value})).get("k", "en", metric)
        assert outcomes is not None
        test_sets.append(outcomes.test_set)
    assert test_sets[0] == test_sets[1]
    assert len(set(test_sets)) == 3


def reason(best: pd.DataFrame, language: str = "en", metric: str = "f1") -> str:
    examples = load_examples(best)
    assert examples.get("k", language, metric) is None
    assert len(examples) == 0
    return examples.reason("k", language, metric)


def test_folder_out_of_reach() -> None:
    assert reason(chosen("/nowhere/jobs/k", "ner", {("en", "f1"): 1.0})) == "/nowhere/jobs is out of reach"
    assert reason(chosen("memory://nowhere/jobs/k", "ner", {("en", "f1"): 1.0})).endswith(
        "nowhere/jobs is out of reach"
    )
    assert "is out of reach" in reason(chosen("unheard://of/jobs/k", "ner", {("en", "f1"): 1.0}))


def test_one_folder_of_a_root_that_is_away_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr("analysis.examples._remote_bytes", lambda path: tried.append(path) or 1 / 0)
    best = pd.concat([chosen(f"s3://away/jobs/{n}", "ner", {("en", "f1"): 1.0}, key=str(n)) for n in range(50)])
    monkeypatch.setattr("analysis.examples._is_reached", lambda root: False)
    examples = load_examples(best)
    assert len(tried) == 1
    assert {examples.reason(str(n), "en", "f1") for n in range(50)} == {"s3://away/jobs is out of reach"}


def test_folder_without_predictions(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    assert reason(chosen(tmp_path / "k", "ner", {("en", "f1"): 1.0})) == f"{tmp_path}/k has no predictions.parquet"


def test_folder_that_nobody_noted() -> None:
    best = chosen("", "ner", {("en", "f1"): 1.0}).assign(output=None)
    assert reason(best) == "MLflow does not say where the job's folder is"


def test_file_that_is_broken_or_of_another_form(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    file = tmp_path / "k" / PREDICTIONS_FILE
    file.write_bytes(b"no parquet")
    best = chosen(tmp_path / "k", "ner", {("en", "f1"): 1.0})
    assert "cannot be read: " in reason(best)
    pq.write_table(pa.table({"language": ["en"]}), file)
    assert "cannot be read: " in reason(best)
    write(tmp_path / "k", {("en", "test"): (["a"], ["b"])})
    assert "predictions of ner are not of the known form" in reason(best)
    write(tmp_path / "k", {("en", "test"): ([["O", "O"]], [["O"]])})
    assert "other numbers of gold and of predicted tags" in reason(best)


def test_score_that_is_not_mlflows(tmp_path: Path) -> None:
    write(tmp_path / "k", {("en", "test"): ([["B-A"], ["B-A"]], [["B-A"], ["O"]])})
    found = reason(chosen(tmp_path / "k", "ner", {("en", "f1"): 70.0}))
    assert found == f"the predictions in {tmp_path}/k give 66.6667 f1, MLflow has 70.0000"


def test_language_metric_and_task_that_are_not_known(tmp_path: Path) -> None:
    write(tmp_path / "k", {("en", "test"): ([["B-A"]], [["B-A"]]), ("fr", "dev"): ([["B-A"]], [["B-A"]])})
    assert reason(chosen(tmp_path / "k", "ner", {("fr", "f1"): 100.0}), "fr") == "no predictions on the test set of fr"
    renamed = reason(chosen(tmp_path / "k", "ner", {("en", "span_f1"): 100.0}), metric="span_f1")
    assert renamed == "metric 'span_f1' of ner is not known by example; known: f1, accuracy"
    assert reason(chosen(tmp_path / "k", "chess", {("en", "f1"): 1.0})).startswith(
        "outcomes of task 'chess' are not known"
    )


def test_many_jobs_are_each_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = []
    for number in range(70):
        answers = labelled(random, 20)
        write(tmp_path / str(number), {("en", "test"): answers})
        frames.append(
            chosen(
                tmp_path / str(number),
                "nli",
                {("en", "accuracy"): TASKS["nli"].score(*answers, "en")["accuracy"]},
                str(number),
            )
        )
    examples = load_examples(pd.concat(frames))
    assert len(examples) == 70
    assert all(examples.get(str(number), "en", "accuracy") is not None for number in range(70))
