"""A study that never ran, of any size, in an MLflow store: what the analysis is timed on, and looked at with.

    python -m benchmarks.synthetic_study sqlite:///synthetic.db --finetune-runs 5000

Its scores are made up, of effects of language, variant and seed that the report should find again: they say nothing
about languages.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import RunTag

from raylab.mlflow_database import MlflowDatabase, Value, WholeRun

LANGUAGES = ("ar", "fr", "ru", "hi", "sw", "te")
VARIANTS = ("mono", "joint", "ffn", "attn", "adapter", "shared_adapter", "meta_adapter")
TASKS = ("ner", "pos", "qa")
_METRICS = {"ner": ("f1",), "pos": ("f1", "accuracy"), "qa": ("f1", "em"), "nli": ("accuracy",)}

# What a variant loses to mono within language, as a share of what the language loses in a joint model, and how it
# transfers, in points against the joint model.
_LOSS = {
    "mono": 0.0,
    "joint": 1.0,
    "ffn": 0.35,
    "attn": 0.7,
    "adapter": 0.8,
    "shared_adapter": 0.95,
    "meta_adapter": 0.2,
}
_TRANSFER = {"joint": 0.0, "ffn": -7.0, "attn": -3.5, "adapter": 0.3, "shared_adapter": 0.6, "meta_adapter": 2.2}
_LOST = {"en": 1.0, "ar": 3.0, "fr": 1.6, "ru": 2.2, "hi": 2.6, "sw": -0.8, "te": 4.2}
_LEVEL = {"en": 83.0, "ar": 78.0, "fr": 81.0, "ru": 79.0, "hi": 74.0, "sw": 70.0, "te": 66.0}
_SECONDS = {"mono": 900.0, "joint": 1000.0, "meta_adapter": 3100.0}
_STARTED = 1_767_225_600_000  # 1 January 2026


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of a study to make up.

    Attributes:
        languages: Each makes a pair with English.
        variants: The variants.
        seeds: How many.
        tasks: The tasks.
        grid: Points of the finetuning grid.
        trials: Of a search over the meta-adapters' recipe.
        histories: Values on the way of each pretraining metric; 0: last values alone.
        probes: Whether the joint models are probed.
        failed: Finetuning jobs that failed, beside the finished ones.
    """

    languages: Sequence[str] = LANGUAGES
    variants: Sequence[str] = VARIANTS
    seeds: int = 3
    tasks: Sequence[str] = TASKS
    grid: int = 2
    trials: int = 24
    histories: int = 40
    probes: bool = True
    failed: int = 3


def write_study(uri: str, name: str = "synthetic", size: Size | None = None, *, seed: int = 0) -> int:
    """Write a study with all of its kinds of runs; returns how many runs.

    Args:
        uri: MLflow's tracking URI, of a database.
        name: Name of the study; the store must not have it.
        size: How much.
        seed: Of what is random.
    """
    return _Maker(uri, name, size or Size(), seed).write()


def write_finetune_runs(uri: str, count: int, name: str = "synthetic", *, seed: int = 0) -> int:
    """Write a study with about `count` finetuning runs, as a large grid gives; returns how many runs of all kinds."""
    size = Size()
    per_point = (
        size.seeds * len(size.tasks) * (len(size.languages) + 1 + 2 * (len(size.variants) - 1) * len(size.languages))
    )
    whole = Size(grid=max(1, round(count / per_point)))
    return write_study(uri, name, whole, seed=seed)


@dataclass
class _Maker:
    uri: str
    name: str
    size: Size
    seed: int
    clock: int = field(default=_STARTED, init=False)

    def write(self) -> int:
        client = MlflowClient(self.uri)
        database = MlflowDatabase.of(client)
        assert database is not None, f"{self.uri} is no database"
        tags = {"raylab.study": json.dumps(self._configuration())}
        # Beside a file, as a sweep has it, and not in the working folder.
        file = Path(self.uri.removeprefix("sqlite:///")).absolute()
        place = (file.parent / "artifacts" / self.name).as_uri() if self.uri.startswith("sqlite:///") else None
        experiment = client.create_experiment(self.name, artifact_location=place, tags=tags)
        self.random = np.random.default_rng(self.seed)
        runs = [*self._prepared(), *self._models(), *self._trials()]
        for first in range(0, len(runs), 1000):
            database.write(experiment, runs[first : first + 1000])
        for number in range(self.size.failed):
            run = self._finetune("joint", ("en", "te"), 0, TASKS[0], "te", (64, 1e-2 * (number + 1)), _recipe("joint"))
            tags = {**run.tags, "error": "InputError: loss is not finite at step 12; lower finetune.learning_rate"}
            made = client.create_run(experiment, run_name=run.name, start_time=run.started, tags=tags)
            client.log_batch(made.info.run_id, tags=[RunTag("attempts", "3")])
            client.set_terminated(made.info.run_id, "FAILED", run.ended)
        return len(runs) + self.size.failed

    def _configuration(self) -> dict[str, object]:
        size = self.size
        return {
            "study": self.name,
            "description": "Made-up scores, to look at the report with.",
            "data": {"source": "none", "vocab_size": 4000},
            "languages": [["en", language] for language in size.languages],
            "variants": list(size.variants),
            "seeds": list(range(size.seeds)),
            "model": {"num_layers": 3, "dim": 128, "num_heads": 4, "ffn_dim": 512, "adapter_ratio": 0.25},
            "pretrain": {"steps": 2500, "batch_size": 32, "sequence_length": 64, "temperature": 2.0},
            "finetune": {"tasks": list(size.tasks), "settings": ["within", "zero_shot"], "epochs": 3},
            "search": {
                "num_samples": size.trials,
                "objective": {"within/mean": "max", "zero_shot/mean": "max"},
                "variants": ["meta_adapter"],
                "space": {
                    "pretrain.temperature": {"uniform": [1, 5]},
                    "model.adapter_ratio": {"choice": [0.0625, 0.125, 0.25, 0.5]},
                    "meta.epsilon": {"loguniform": [1e-4, 1]},
                },
            }
            if size.trials
            else None,
            "scaling": {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
        }

    def _run(self, name: str, kind: str, seconds: float, tags: dict, params: dict, metrics: list[Value]) -> WholeRun:
        started, self.clock = self.clock, self.clock + int(seconds * 250)
        ended = started + int(seconds * 1000)
        values = [*metrics, ("seconds", seconds, 0, ended)]
        all_tags = {"kind": kind, "study": self.name, **tags}
        return WholeRun(name, started, ended, all_tags, {k: str(v) for k, v in params.items()}, values)

    def _prepared(self) -> Iterator[WholeRun]:
        for languages in [("en",), *((known,) for known in self.size.languages), *self._pairs()]:
            known = "-".join(languages)
            metrics = [
                (f"{language}/tokens/train", 4e5 - 3e4 * place, 0, 0) for place, language in enumerate(languages)
            ]
            tags = {"languages": known, "key": f"prepare-{known}", "output": f"/nowhere/prepare-{known}"}
            yield self._run(f"prepare {known}", "prepare", 5.0, tags, {"vocab_size": 4000}, metrics)

    def _pairs(self) -> list[tuple[str, ...]]:
        return [("en", language) for language in self.size.languages]

    def _models(self) -> Iterator[WholeRun]:
        grid = list(itertools.islice(_grid(), self.size.grid))
        for seed in range(self.size.seeds):
            for variant in self.size.variants:
                alone = [(language,) for language in ("en", *self.size.languages)]
                for languages in alone if variant == "mono" else self._pairs():
                    yield self._pretrain(variant, languages, seed, _recipe(variant))
                    if variant == "joint" and self.size.probes:
                        yield from self._probes(languages, seed)
                    for task, language, point in itertools.product(self.size.tasks, languages, grid):
                        yield self._finetune(variant, languages, seed, task, language, point, _recipe(variant))

    def _labels(self, variant: str, languages: Sequence[str], seed: int, recipe: str) -> dict[str, str]:
        return {
            "variant": variant,
            "languages": "-".join(languages),
            "source_language": languages[0],
            "seed": str(seed),
            "recipe": recipe,
        }

    def _pretrain(self, variant: str, languages: Sequence[str], seed: int, recipe: str) -> WholeRun:
        seconds = _SECONDS.get(variant, 1100.0) * self.random.uniform(0.95, 1.05)
        values: list[Value] = []
        steps = np.linspace(0, 2500, self.size.histories + 1).astype(int)[1:] if self.size.histories else [2500]
        for step in map(int, steps):
            time = self.clock + int(seconds * 1000 * step / 2500)
            rate = 1 - math.exp(-step / 600)
            values.append(("train/loss", 8.2 - 4.8 * rate + 0.05 * self.random.normal(), step, time))
            for language in languages:
                floor = 30 + 4 * _LOST[language] * (1 + _LOSS[variant]) + seed
                values.append((f"valid/perplexity/{language}", floor + 400 * (1 - rate) ** 2, step, time))
        values += [(name, value, 0, 0) for name, value in (("train_tokens", 2500.0 * 32 * 64), ("parameters", 1.2e6))]
        known = "-".join(languages)
        key = f"pretrain-{variant}-{known}-{seed}"
        tags = {**self._labels(variant, languages, seed, recipe), "key": key, "output": f"/nowhere/{key}"}
        params = {
            "variant": variant,
            "pretrain.steps": 2500,
            "pretrain.batch_size": 32,
            "pretrain.learning_rate": 5e-4,
            "pretrain.temperature": 2.0,
            "model.dim": 128,
            "model.num_layers": 3,
            "model.adapter_ratio": 0.25,
        }
        return self._run(f"pretrain {variant} {known} seed={seed}", "pretrain", seconds, tags, params, values)

    def _finetune(
        self,
        variant: str,
        languages: Sequence[str],
        seed: int,
        task: str,
        train: str,
        point: tuple[int, float],
        recipe: str,
    ) -> WholeRun:
        batch_size, learning_rate = point
        tested = list(languages) if train == languages[0] else [train]
        off_grid = 1.5 * abs(math.log10(learning_rate / 3e-5)) + 0.3 * (batch_size != 32)
        values: list[Value] = []
        dev_of_train = 0.0
        for language in tested:
            test = self._score(variant, languages, task, train, language, seed) - off_grid
            dev = test + 1.0 + 0.3 * self.random.normal()
            if language == train:
                dev_of_train = dev
            for place, metric in enumerate(_METRICS[task]):
                other = {"accuracy": 2.0, "em": -9.0}.get(metric, 0.0) if place else 0.0
                values += [
                    (f"{split}/{metric}/{language}", value + other, 0, 0)
                    for split, value in (("dev", dev), ("test", test))
                ]
        history = [(f"epoch/dev/{_METRICS[task][0]}", dev_of_train - 4.0 / epoch, epoch, 0) for epoch in (1, 2, 3)]
        values += [
            *history,
            ("selection", dev_of_train, 0, 0),
            ("chosen_epoch", 3.0, 0, 0),
            ("train/loss", 0.1, 300, 0),
        ]
        known = "-".join(languages)
        key = f"finetune-{variant}-{known}-{task}-{train}-{seed}-{batch_size}-{learning_rate:g}"
        tags = {
            **self._labels(variant, languages, seed, recipe),
            "key": key,
            "task": task,
            "train_language": train,
            "eval_language": ",".join(tested),
            "setting": "within,zero_shot",
            "checkpoint": f"pretrain-{variant}-{known}-{seed}",
            "output": f"/nowhere/{key}",
        }
        params = {
            "finetune.task": task,
            "finetune.train_language": train,
            "finetune.seed": seed,
            "finetune.epochs": 3,
            "finetune.batch_size": batch_size,
            "finetune.learning_rate": learning_rate,
        }
        name = f"finetune {task} {train} {variant} {known} lr={learning_rate:g} bs={batch_size} seed={seed}"
        return self._run(name, "finetune", 40.0, tags, params, values)

    def _score(self, variant: str, languages: Sequence[str], task: str, train: str, language: str, seed: int) -> float:
        level = _LEVEL[language] + {"ner": 0.0, "pos": 9.0, "qa": -14.0}.get(task, 0.0)
        shared = 0.4 * math.sin(7 * seed + len(task))  # what a seed has in common over the models of a language
        lost = _LOST[language] * {"ner": 1.0, "pos": 0.5, "qa": 1.3}.get(task, 1.0)
        score = level - _LOSS[variant] * lost + shared + 0.35 * self.random.normal()
        if train != language:
            score += -18.0 + _TRANSFER[variant] + _LOSS[variant] * lost
        return score

    def _probes(self, languages: Sequence[str], seed: int) -> Iterator[WholeRun]:
        known = "-".join(languages)
        values: list[Value] = []
        pairs = list(itertools.combinations_with_replacement(languages, 2))
        for step, (first, second) in itertools.product(range(250, 2501, 250), pairs):
            level = (0.5 if first == second else 0.12 - 0.02 * _LOST[second]) * (1.2 - step / 5000)
            name = f"gradient/cosine/{first}-{second}"
            values.append((name, level + 0.02 * self.random.normal(), step, 0))
            for layer, module in itertools.product(range(3), ("attention", "ffn")):
                place = f"{name}/layer.{layer}.{module}"
                values.append((place, level + 0.05 * (1 - layer) + 0.02 * self.random.normal(), step, 0))
        tags = {
            **self._labels("joint", languages, seed, _recipe("joint")),
            "checkpoint": f"pretrain-joint-{known}-{seed}",
        }
        names = {probe: f"probe {probe} joint {known} seed={seed}" for probe in ("gradients", "pruning")}
        key = {probe: f"probe-{probe}-{known}-{seed}" for probe in names}
        output = {probe: {"probe": probe, "key": key[probe], "output": f"/nowhere/{key[probe]}"} for probe in names}
        yield self._run(names["gradients"], "probe", 160.0, tags | output["gradients"], {}, values)
        masks: list[Value] = [(f"pruning/sparsity/{language}", 0.5, 2500, 0) for language in languages]
        for first, second in pairs:
            alike = 0.9 if first == second else 0.62
            masks.append((f"pruning/cosine/{first}-{second}", alike, 2500, 0))
            for layer, (module, lower) in itertools.product(range(3), (("attention", 0.03), ("ffn", -0.04))):
                value = alike + lower + (0.0 if first == second else 0.12 * (1 - layer)) + 0.01 * self.random.normal()
                masks.append((f"pruning/cosine/{first}-{second}/layer.{layer}.{module}", value, 2500, 0))
        yield self._run(names["pruning"], "probe", 240.0, tags | output["pruning"], {}, masks)

    def _trials(self) -> Iterator[WholeRun]:
        for number in range(self.size.trials):
            temperature, ratio = self.random.uniform(1, 5), float(self.random.choice([0.0625, 0.125, 0.25, 0.5]))
            epsilon = float(10 ** self.random.uniform(-4, 0))
            within = 74 - 0.7 * (temperature - 2.5) ** 2 + 3 * ratio + 0.2 * self.random.normal()
            zero_shot = 55 + 0.5 * temperature - 4 * (math.log10(epsilon) + 1) ** 2 / 4 + 0.2 * self.random.normal()
            values: list[Value] = [("within/mean", within, 0, 0), ("zero_shot/mean", zero_shot, 0, 0)]
            params = {"pretrain.temperature": temperature, "model.adapter_ratio": ratio, "meta.epsilon": epsilon}
            yield self._run(f"trial {number}", "trial", 1.0, {"trial": str(number)}, params, values)


def _grid() -> Iterator[tuple[int, float]]:
    """Points of a grid that has no end, the usual ones first."""
    for power in itertools.count():
        for batch_size, factor in itertools.product((32, 16), (3.0, 2.0, 5.0)):
            yield batch_size, factor * 10.0 ** (-5 + (power + 1) // 2 * (-1) ** power)


def _recipe(variant: str) -> str:
    return f"recipe-{variant}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthetic_study", description=__doc__)
    parser.add_argument("uri", help="MLflow store, such as sqlite:///synthetic.db")
    parser.add_argument("--name", default="synthetic", help="of the study")
    parser.add_argument("--finetune-runs", type=int, metavar="N", help="about so many (default: 1386)")
    options = parser.parse_args()
    if options.finetune_runs:
        written = write_finetune_runs(options.uri, options.finetune_runs, options.name)
    else:
        written = write_study(options.uri, options.name)
    print(f"{written} runs of study {options.name} in {options.uri}")


if __name__ == "__main__":
    main()
