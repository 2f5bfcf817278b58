"""A finished study with known numbers in a real MLflow store, made once for all tests of the analysis.

Sets en-fr and en-hi; mono, joint and adapter; seeds 0 and 1; for NER two finetuning grid points. Of en-hi no adapter
model has finished, that of en-fr has three pretraining recipes, and Hindi has no POS data. The scores of what dev
selects are in `CHOSEN`; all others are made from them so that choosing by any other score gives another number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import analysis

# Score by seed, by variant, model's languages, task, train language and eval language.
Cells = Mapping[tuple[str, str, str, str, str], Mapping[int, float]]

STUDY = {
    "study": "toy",
    "languages": [["en", "fr"], ["en", "hi"]],
    "variants": ["mono", "adapter", "joint"],
    "seeds": [0, 1],
    "finetune": {"tasks": ["ner", "pos"], "settings": ["within", "zero_shot"]},
}

# NER test F1 with seed 0 and with seed 1, by variant, model's languages, train language and eval language.
CHOSEN: dict[tuple[str, str, str, str], tuple[float, float]] = {
    ("mono", "en", "en", "en"): (80.0, 81.0),
    ("mono", "fr", "fr", "fr"): (70.0, 71.0),
    ("mono", "hi", "hi", "hi"): (60.0, 61.0),
    ("joint", "en-fr", "en", "en"): (78.0, 78.0),
    ("joint", "en-fr", "fr", "fr"): (69.0, 69.0),
    ("joint", "en-fr", "en", "fr"): (50.0, 51.0),
    ("joint", "en-hi", "en", "en"): (77.0, 78.0),
    ("joint", "en-hi", "hi", "hi"): (62.0, 63.0),
    ("joint", "en-hi", "en", "hi"): (40.0, 40.0),
    ("adapter", "en-fr", "en", "en"): (79.5, 81.5),
    ("adapter", "en-fr", "fr", "fr"): (71.0, 73.0),
    ("adapter", "en-fr", "en", "fr"): (52.0, 52.0),
}
POS_ABOVE_NER = 10.0
ACCURACY_ABOVE_F1 = 2.0
TEST_ABOVE_DEV = 1.0
GRID = ((16, 1e-3), (16, 1e-4))  # the first is the choice
NOT_CHOSEN = 5.0  # the other grid point: test and target's dev better by this, dev of the train language worse
OTHER_RECIPE = 7.0  # adapter's recipe `cold`: dev worse and test better by this


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tracking URI of the store."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    client = MlflowClient(uri)
    writer = Writer(client, "toy", STUDY)
    writer.finetune("mono", "fr", "ner", "fr", 0, GRID[0], "mono", {"fr": (99.0, 99.0)}, 99.0)  # to be replaced
    for variant, languages in dict.fromkeys((variant, languages) for variant, languages, _, _ in CHOSEN):
        write_model(writer, variant, languages)
    # What must change nothing: a recipe that did one easy job, a run that failed, one that a newer run replaces,
    # one whose loss was NaN, and runs that are no jobs.
    writer.finetune("adapter", "en-fr", "ner", "en", 0, GRID[0], "partial", {"en": (99.0, 99.0)}, 99.0)
    writer.finetune("joint", "en-fr", "ner", "en", 0, (8, 1e-3), "joint", {"en": (99.0, 99.0)}, 99.0, status="FAILED")
    writer.finetune("joint", "en-fr", "ner", "en", 0, (8, 1e-3), "joint", {"en": (98.0, 98.0)}, 98.0, status="RUNNING")
    nan = float("nan")
    writer.finetune("joint", "en-fr", "ner", "en", 0, (4, 1e-3), "joint", {"en": (99.0, 99.0)}, nan)
    writer.run("FINISHED", {"kind": "summary", "variant": "joint", "languages": "en-fr"}, {"within/mean": 1.0}, {})
    writer.run("FINISHED", {}, {"selection": 100.0}, {})
    writer.finetune("mono", "fr", "ner", "fr", 0, GRID[0], "mono", {"fr": (69.0, 70.0)}, 69.0)

    waiting = Writer(client, "waiting", STUDY)
    waiting.finetune("mono", "en", "ner", "en", 0, GRID[0], "mono", {"en": (1.0, 1.0)}, 1.0, status="RUNNING")
    untagged = Writer(client, "untagged", None)
    untagged.finetune("mono", "fr", "ner", "fr", 0, GRID[0], "mono", {"fr": (70.0, 70.0)}, 70.0)
    scores = {"en": (70.0, 80.0), "fr": (40.0, 50.0), "de": (40.0, 60.0)}
    untagged.finetune("joint", "en-fr-de", "ner", "en", 0, GRID[0], "joint", scores, 70.0, settings="zero_shot")
    untagged.finetune("joint", "en-fr-de", "ner", "de", 0, GRID[0], "joint", scores, 40.0, settings="zero_shot")
    Writer(client, "broken", None).run(
        "FINISHED",
        {
            "kind": "finetune",
            "key": "k",
            "study": "broken",
            "variant": "mono",
            "languages": "en",
            "train_language": "en",
            "setting": "within",
            "task": "ner",
        },
        {"test/f1/en": 1.0},
        {},
    )
    return uri


@pytest.fixture(scope="session")
def results(store: str) -> analysis.Results:
    """The study, loaded."""
    return analysis.load("toy", store)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no tracking address in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def write_model(writer: Writer, variant: str, languages: str) -> None:
    """Log a model's pretraining and finetuning, with all recipes, seeds, tasks and grid points."""
    source, *others = languages.split("-")
    for recipe in ("warm", "cold") if variant == "adapter" else (variant,):
        writer.pretrain(variant, languages, seed=0, recipe=recipe)
        for seed, task, train in product((0, 1), ("ner", "pos"), (source, *others)):
            tested = [source, *others] if train == source else [train]
            tests = {
                language: CHOSEN[variant, languages, train, language][seed] + (POS_ABOVE_NER if task == "pos" else 0.0)
                for language in tested
                if (task, language) != ("pos", "hi")
            }
            if train not in tests:
                continue
            better_test = OTHER_RECIPE if recipe == "cold" else 0.0
            for place, grid in enumerate(GRID if task == "ner" else GRID[:1]):
                better = NOT_CHOSEN * place
                scores = {
                    language: (test - TEST_ABOVE_DEV - better_test + better, test + better_test + better)
                    for language, test in tests.items()
                }
                scores[train] = (scores[train][0] - 2 * better, scores[train][1])
                writer.finetune(variant, languages, task, train, seed, grid, recipe, scores, scores[train][0])


class Writer:
    """Writes runs of a study as the sweep does."""

    def __init__(self, client: MlflowClient, study: str, configuration: dict | None) -> None:
        tags = {"raylab.study": json.dumps(configuration)} if configuration else {}
        self.client, self.study, self.experiment = client, study, client.create_experiment(study, tags=tags)
        self.clock = 1_000_000

    def finetune(
        self,
        variant: str,
        languages: str,
        task: str,
        train: str,
        seed: int,
        grid: tuple[int, float],
        recipe: str,
        scores: dict[str, tuple[float, float]],
        selection: float,
        status: str = "FINISHED",
        settings: str = "within,zero_shot",
    ) -> None:
        """Log one finetuning run; `scores` has dev and test F1 by language."""
        metrics = {"selection": selection, "chosen_epoch": 3.0}
        for language, by_split in scores.items():
            for split, value in zip(("dev", "test"), by_split, strict=True):
                metrics[f"{split}/f1/{language}"] = value
                if task == "pos":
                    metrics[f"{split}/accuracy/{language}"] = value + ACCURACY_ABOVE_F1
        batch_size, learning_rate = grid
        tags = self.tags("finetune", variant, languages, seed, recipe) | {
            "key": f"finetune-{variant}-{languages}-{recipe}-{task}-{train}-{seed}-{batch_size}-{learning_rate}",
            "task": task,
            "train_language": train,
            "eval_language": ",".join(scores),
            "setting": settings,
            "checkpoint": f"pretrain-{variant}-{languages}-{recipe}-{seed}",
        }
        parameters = {
            "finetune.batch_size": batch_size,
            "finetune.learning_rate": learning_rate,
            "finetune.head_learning_rate": 5e-3,
            "finetune.freeze": "none",
        }
        history = [Metric("epoch/dev/f1", 10.0 * epoch, epoch, epoch) for epoch in (1, 2, 3)]
        self.run(status, tags, metrics, parameters, history)

    def pretrain(self, variant: str, languages: str, seed: int, recipe: str) -> None:
        """Log one pretraining run; the last perplexity of the k-th language is 20 + k."""
        tags = self.tags("pretrain", variant, languages, seed, recipe)
        tags["key"] = f"pretrain-{variant}-{languages}-{recipe}-{seed}"
        parameters = {
            "pretrain.batch_size": 32,
            "pretrain.learning_rate": 5e-4,
            "pretrain.temperature": 5.0 if recipe == "warm" else 1.0,
            "model.dim": 64,
        }
        history = [
            Metric(f"valid/perplexity/{language}", value + place, step, step)
            for place, language in enumerate(languages.split("-"))
            for step, value in ((100, 30.0), (200, 20.0), (100, 31.0))  # step 100 is logged again: a job was resumed
        ]
        self.run("FINISHED", tags, {}, parameters, history)

    def tags(self, kind: str, variant: str, languages: str, seed: int, recipe: str) -> dict[str, str]:
        """Tags that both kinds of runs have."""
        return {
            "kind": kind,
            "study": self.study,
            "variant": variant,
            "languages": languages,
            "source_language": languages.partition("-")[0],
            "seed": str(seed),
            "recipe": recipe,
            "output": f"/storage/{variant}",
        }

    def run(
        self, status: str, tags: dict, metrics: dict, parameters: dict, history: list[Metric] | None = None
    ) -> None:
        """Log a run; each starts and ends later than the one before."""
        self.clock += 1000
        run_id = self.client.create_run(self.experiment, start_time=self.clock, tags=tags).info.run_id
        self.client.log_batch(
            run_id,
            metrics=[*(history or ()), *(Metric(name, value, self.clock, 0) for name, value in metrics.items())],
            params=[Param(name, str(value)) for name, value in parameters.items()],
        )
        if status != "RUNNING":
            self.client.set_terminated(run_id, status, self.clock + 500)


@pytest.fixture(scope="session")
def chosen_scores() -> Callable[[Cells], pd.DataFrame]:
    """Makes chosen test scores, as `Results.best` returns them, of studies that no store has."""

    def make(cells: Cells) -> pd.DataFrame:
        rows = [
            {
                "variant": variant,
                "languages": languages,
                "task": task,
                "metric": "f1",
                "setting": "within" if train == evaluated else "zero_shot",
                "train_language": train,
                "eval_language": evaluated,
                "seed": seed,
                "value": value,
            }
            for (variant, languages, task, train, evaluated), values in cells.items()
            for seed, value in values.items()
        ]
        return pd.DataFrame(rows)

    return make
