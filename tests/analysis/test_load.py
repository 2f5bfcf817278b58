"""Reading a study from MLflow: what becomes a row, and what bad input is told."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.scores import SCHEMA
from analysis.tracking import connect, find_experiment, read_pages, read_runs
from raylab.errors import InputError


def select(frame: pd.DataFrame, **values: object) -> pd.DataFrame:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def test_rows_of_a_run_on_the_source_language(results: analysis.Results) -> None:
    key = "finetune-joint-en-fr-joint-pos-en-1-16-0.001"
    rows = select(results.to_pandas(), key=key).set_index(["setting", "split", "metric"])
    # POS of joint on en and from en to fr, seed 1: 10 above NER's 78 and 51, accuracy 2 above F1, dev 1 below test.
    assert rows["value"].to_dict() == {
        ("within", "dev", "f1"): 87.0,
        ("within", "test", "f1"): 88.0,
        ("within", "dev", "accuracy"): 89.0,
        ("within", "test", "accuracy"): 90.0,
        ("zero_shot", "dev", "f1"): 60.0,
        ("zero_shot", "test", "f1"): 61.0,
        ("zero_shot", "dev", "accuracy"): 62.0,
        ("zero_shot", "test", "accuracy"): 63.0,
    }
    assert rows.loc["within", "eval_language"].unique() == ["en"]
    assert rows.loc["zero_shot", "eval_language"].unique() == ["fr"]
    common = rows.drop(columns=["value", "eval_language", "run_id"]).drop_duplicates()
    assert common.to_dict("records") == [
        {
            "key": key,
            "study": "toy",
            "variant": "joint",
            "languages": "en-fr",
            "source_language": "en",
            "task": "pos",
            "train_language": "en",
            "seed": 1,
            "selection": 87.0,
            "recipe": "joint",
            "checkpoint": "pretrain-joint-en-fr-joint-1",
            "batch_size": 16,
            "learning_rate": 1e-3,
            "head_learning_rate": 5e-3,
            "freeze": "none",
            "chosen_epoch": 3,
            "output": "/storage/joint",
        }
    ]


def test_rows_of_a_run_on_a_target_language_are_within_only(results: analysis.Results) -> None:
    rows = select(results.to_pandas(), variant="joint", languages="en-fr", train_language="fr", task="ner")
    assert set(rows["setting"]) == {"within"}
    assert set(rows["eval_language"]) == {"fr"}


def test_all_runs_are_read_whoever_reads_them(store: str) -> None:
    client = connect(store)
    experiment = find_experiment(client, "toy").experiment_id
    from_tables, in_one, in_many = (
        [(*run[:-1], sorted((name, repr(value)) for name, value in run.metrics.items())) for run in runs]
        for runs in (
            read_runs(client, experiment),
            read_pages(client, experiment),
            read_pages(client, experiment, runs_per_page=7),
        )
    )
    assert len(in_one) > 70
    assert in_many == in_one
    assert from_tables == in_one


def test_perplexities_are_the_last_ones(results: analysis.Results) -> None:
    rows = select(results.to_pandas(), task="mlm", variant="joint", languages="en-fr")
    assert rows.set_index("eval_language")["value"].to_dict() == {"en": 20.0, "fr": 21.0}
    assert set(rows["setting"]) == {"within"}
    assert set(rows["split"]) == {"valid"}
    assert set(rows["metric"]) == {"perplexity"}
    assert rows["train_language"].to_list() == rows["eval_language"].to_list()
    assert rows["checkpoint"].to_list() == rows["key"].to_list()
    assert rows["batch_size"].to_list() == [32, 32]
    assert rows[["selection", "chosen_epoch"]].isna().all(axis=None)


def test_table_has_every_score_of_finished_runs_once(results: analysis.Results) -> None:
    assert results.table.schema == SCHEMA
    frame = results.to_pandas()
    assert not frame.duplicated(["key", "setting", "eval_language", "split", "metric"]).any()
    # NER: of 3 mono, 2 joint and 2 x 1 adapter models, 2 seeds and 2 grid points; pairs score 3 times, on dev and test;
    # and the `partial` recipe's run and the one whose loss was NaN.
    assert len(select(frame, task="ner")) == (3 + 4 * 3) * 2 * 2 * 2 + 2 * 2
    # POS: of mono en and fr, joint en-fr, adapter en-fr twice, and en of joint en-hi; 2 metrics, one grid point.
    assert len(select(frame, task="pos")) == (2 + 3 * 3 + 1) * 2 * 2 * 2
    assert len(select(frame, task="mlm")) == 3 + 4 * 2


def test_a_newer_finished_run_replaces_an_older_one_of_its_key(results: analysis.Results) -> None:
    rows = select(results.to_pandas(), languages="fr", task="ner", seed=0, learning_rate=1e-3, split="test")
    assert rows["value"].to_list() == [70.0]


def test_study_outline_is_the_experiments_tag(results: analysis.Results) -> None:
    assert results.study.language_sets == (("en", "fr"), ("en", "hi"))
    assert results.study.variants == ("mono", "joint", "adapter")
    assert results.study.tasks == ("ner", "pos")


def test_without_a_tag_the_outline_is_what_was_scored(store: str) -> None:
    study = analysis.load("untagged", store).study
    assert (study.language_sets, study.variants, study.tasks) == ((("en", "fr", "de"),), ("mono", "joint"), ("ner",))


def test_settings_of_a_run_limit_its_rows(store: str) -> None:
    rows = analysis.load("untagged", store).to_pandas()
    assert set(select(rows, variant="joint")["setting"]) == {"zero_shot"}
    assert set(select(rows, variant="joint")["eval_language"]) == {"fr", "de"}


def test_zero_shot_is_from_the_source_language_alone(store: str) -> None:
    # A run on `de` was tested on en and fr too.
    rows = analysis.load("untagged", store).to_pandas()
    assert set(select(rows, variant="joint")["train_language"]) == {"en"}


def test_unknown_study_names_the_nearest(store: str) -> None:
    with pytest.raises(InputError, match=r"no study 'toi'.*the nearest are toy"):
        analysis.load("toi", store)
    with pytest.raises(InputError, match="there are broken, toy, untagged, waiting"):
        analysis.load("xxxxxxxxxxx", store)


def test_study_without_finished_finetuning(store: str) -> None:
    with pytest.raises(InputError, match="'waiting' has no finished finetuning run yet: 1 running"):
        analysis.load("waiting", store)


def test_run_without_its_tags_is_named(store: str) -> None:
    with pytest.raises(InputError, match=r"MLflow run \w{32} .* has no tag 'seed'"):
        analysis.load("broken", store)


def test_address_from_environment_and_default_file(
    store: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"runs/mlflow\.db is not in .*MLFLOW_TRACKING_URI.*--tracking-uri"):
        analysis.load("toy")
    (elsewhere / "runs").mkdir()
    (elsewhere / "runs" / "mlflow.db").symlink_to(store.removeprefix("sqlite:///"))
    assert analysis.load("toy").study.name == "toy"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///nowhere.db")
    Path("junk.db").write_text("nothing that a database begins with")
    with pytest.raises(InputError, match=r"junk\.db is no SQLite database"):
        analysis.load("toy", "sqlite:///junk.db")
    with pytest.raises(InputError, match=r"no results at sqlite:///nowhere\.db: there is no file"):
        analysis.load("toy")
    assert not (elsewhere / "nowhere.db").exists()


def test_server_that_does_not_answer_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=f"no MLflow server answers at {address}"):
        analysis.load("toy", address)


def test_address_that_is_none() -> None:
    with pytest.raises(InputError, match="nonsense://host cannot be used as an MLflow store"):
        analysis.load("toy", "nonsense://host")


def test_nan_selection_is_kept_in_the_table(results: analysis.Results) -> None:
    rows = select(results.to_pandas(), batch_size=4)
    assert len(rows) == 2
    assert all(math.isnan(value) for value in rows["selection"])
