"""Parts of a study, one variant against another, and metrics in the course of training."""

from __future__ import annotations

import duckdb
import polars
import pytest

import analysis
from raylab.errors import InputError


def test_a_part_of_a_study_is_a_study(results: analysis.Results) -> None:
    part = results.filter(task="ner", languages="en-fr", variant=["mono", "joint"])
    assert part.study.language_sets == (("en", "fr"),)
    assert part.study.variants == ("mono", "joint")
    assert part.study.tasks == ("ner",)
    assert set(part.table["languages"].to_pylist()) == {"en", "fr", "en-fr"}
    whole = results.interference(examples=False)
    whole = whole[(whole["languages"] == "en-fr") & (whole["task"] == "ner") & (whole["variant"] == "joint")]
    found = part.interference(examples=False)
    assert found["difference"].to_list() == whole["difference"].to_list()
    assert len(found) == 2
    assert set(results.filter(seed=0).best()["seed"]) == {0}


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"tasks": "ner"}, r"no column 'tasks'; there are task"),
        ({"task": "qa"}, r"task 'qa' leaves nothing; the study has mlm, ner, pos"),
        ({"seed": 7}, r"seed 7 leaves nothing; the study has 0, 1"),
        ({"languages": "en-de"}, r"languages 'en-de' leaves nothing; the study has "),
        ({"seed": []}, r"seed \[\] leaves nothing"),
    ],
)
def test_a_part_that_is_none(results: analysis.Results, conditions: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        results.filter(**conditions)


def test_one_variant_against_another(results: analysis.Results) -> None:
    frame = results.compare("joint", "adapter", examples=False)
    row = frame[(frame["language"] == "fr") & (frame["task"] == "ner")].iloc[0]
    assert (row["joint"], row["adapter"], row["difference"]) == (69.0, 72.0, -3.0)
    opposite = results.compare("adapter", "joint", examples=False)
    key = ["languages", "task", "metric", "language"]
    both = frame.merge(opposite, on=key).dropna(subset="difference_x")
    assert len(both) == 6
    assert both["difference_x"].to_list() == (-both["difference_y"]).to_list()
    for first, second, message in (
        ("joint", "ffn", "no variant 'ffn'; it has mono, joint, adapter"),
        ("joint", "joint", "joint with itself"),
    ):
        with pytest.raises(InputError, match=message):
            results.compare(first, second)


def test_a_history_is_by_step_and_keeps_the_later_of_two_values(results: analysis.Results) -> None:
    history = results.history("valid/perplexity/fr", key="pretrain-joint-en-fr-joint-0")
    assert history[["step", "value"]].to_numpy().tolist() == [[100, 32.0], [200, 21.0]]
    assert history["time"].is_monotonic_increasing
    assert results.history("valid/perplexity/hi", key="pretrain-mono-h")["value"].iloc[-1] == 20.0


def test_histories_of_many_jobs(results: analysis.Results) -> None:
    history = results.history("valid/perplexity/fr", variant=["mono", "joint"])
    assert set(zip(history["variant"], history["languages"], strict=True)) == {("mono", "fr"), ("joint", "en-fr")}
    assert history.groupby("key").size().to_list() == [2, 2]
    assert len(results.history("epoch/dev/f1", task="ner", seed=0)["key"].unique()) > 5


@pytest.mark.parametrize(
    ("metric", "conditions", "message"),
    [
        ("valid/perplexity/en", {"key": "nothing"}, "no job has key 'nothing'"),
        ("valid/perplexity/en", {"variant": "ffn"}, "no job has variant 'ffn'"),
        ("train/los", {"key": "pretrain-mono-en"}, "such job has a metric 'train/los'; they have valid/perplexity/en"),
        ("valid/perplexity/de", {}, "no such job has a metric 'valid/perplexity/de'; they have valid/perplexity/"),
    ],
)
def test_a_history_of_what_is_not_there(
    results: analysis.Results, metric: str, conditions: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        results.history(metric, **conditions)


def test_other_libraries_take_the_tables(results: analysis.Results) -> None:
    scores, runs = results.table, results.runs
    expected = results.to_pandas().groupby("variant")["value"].mean().to_dict()
    by_duckdb = duckdb.sql("select variant, avg(value) from scores group by variant")
    assert dict(by_duckdb.fetchall()) == pytest.approx(expected)
    frame = polars.from_arrow(scores)
    assert isinstance(frame, polars.DataFrame)
    assert dict(frame.group_by("variant").agg(polars.col("value").mean()).iter_rows()) == pytest.approx(expected)
    ((count,),) = duckdb.sql("select count(*) from runs where tags['variant'] = 'joint'").fetchall()
    assert count > 10
    assert isinstance(polars.from_arrow(runs), polars.DataFrame)
