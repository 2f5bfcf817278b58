"""An MLflow store of a study with curves and probes, written as the sweep does, with numbers that are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from raylab.model.places import Place
from raylab.probes.tables import GROUPS, write_table

MODULES = ("attention", "ffn")
STEPS = range(100, 1001, 100)
LOSS_STEPS = range(20, 1001, 20)
WARMUP = 200
ROWS = 8  # of each module and layer
_DISTANCES = {"ar": -1, "fr": 4, "ru": 1, "hi": -2, "sw": 3, "te": -3}
_SLOWNESS = {"mono": 0.0, "joint": 1.0, "ffn": 1.5, "attn": 1.4, "adapter": 2.0, "shared_adapter": 0.8}


def perplexity(variant: str, language: str, step: int, seed: int) -> float:
    """Of every model of the store."""
    floor = 20 + 2 * _DISTANCES.get(language, 0) + (4 if variant == "mono" else 9)
    return floor + 300 / (1 + step / 50) + seed


def gradient_cosine(first: str, second: str, place: Place, step: int, seed: int) -> float:
    """Of every joint model of the store."""
    base = 0.5 if first == second else 0.05
    base += 0.03 * _DISTANCES.get(second, 0)
    return round(base + 0.05 * (place.layer or 0) - 0.0002 * step + 0.02 * seed, 6)


def mask_cosine(first: str, second: str, place: Place, seed: int) -> float:
    """Of every joint model of the store."""
    base = 0.95 if first == second else 0.7 + 0.02 * _DISTANCES.get(second, 0)
    return round(base - 0.05 * (place.layer or 0) - (0.1 if place.module == "ffn" else 0.0) - 0.01 * seed, 6)


def loss(variant: str, step: int, seed: int) -> float:
    """Of every model of the store."""
    return 4 + _SLOWNESS.get(variant, 0.2) * 200 / step + 0.01 * seed


def log_alpha(row: int, language: str, repeat: int) -> float:
    """Row 0 is pruned for the first language that is not English, and kept for English; row 7 is kept for all."""
    value = (row - 1.5) / 2
    if row == 0 and language == "en":
        value = 0.5
    return value + 0.01 * repeat


def write_curves(
    uri: str,
    folder: Path,
    *,
    study: str = "curves",
    sets: Sequence[Sequence[str]] = (("en", "hi"), ("en", "sw")),
    variants: Sequence[str] = ("mono", "joint", "adapter", "meta_adapter"),
    seeds: Sequence[int] = (0, 1),
    layers: int = 2,
    probes: Sequence[str] = ("gradients", "pruning"),
    watched: bool = False,
    finetune: bool = True,
) -> None:
    """Write the store; groups of parameters are left in folders of jobs.

    With `watched`, joint models have compared the gradients of their training.
    """
    client = MlflowClient(uri)
    configuration = {
        "study": study,
        "languages": [list(languages) for languages in sets],
        "variants": list(variants),
        "finetune": {"tasks": ["ner"]} if finetune else None,
    }
    experiment = client.create_experiment(study, tags={"raylab.study": json.dumps(configuration)})
    models = {(variant, tuple(languages)): None for variant in variants for languages in sets if variant != "mono"}
    if "mono" in variants:
        models |= {("mono", (language,)): None for languages in sets for language in languages}
    for variant, languages in models:
        name = "-".join(languages)
        for seed in seeds:
            common = {"study": study, "variant": variant, "languages": name, "seed": str(seed), "recipe": f"r{variant}"}
            common["source_language"] = languages[0]
            metrics = [
                *(
                    Metric(f"valid/perplexity/{own}", perplexity(variant, own, s, seed), 0, s)
                    for own in languages
                    for s in STEPS
                ),
                *(Metric("train/loss", loss(variant, step, seed), 0, step) for step in LOSS_STEPS),
            ]
            if watched and variant == "joint":
                metrics += cosines("gradients", languages, layers, seed)
            params = {"pretrain.warmup_steps": WARMUP}
            write(
                client, experiment, {**common, "kind": "pretrain", "key": f"{variant}-{name}-{seed}"}, metrics, params
            )
            for probe in probes if variant == "joint" else ():
                key = f"{probe}-{name}-{seed}"
                tags = {**common, "kind": "probe", "probe": probe, "key": key, "output": str(folder / key)}
                write(client, experiment, tags, list(cosines(probe, languages, layers, seed)), {})
                if probe == "pruning":
                    write_groups(folder / key, languages, layers)
    tags = {
        **common,
        "kind": "finetune",
        "key": "f",
        "task": "ner",
        "setting": "within",
        "train_language": languages[0],
    }
    score = f"test/f1/{languages[0]}"
    write(client, experiment, {**tags, "eval_language": languages[0]}, [Metric(score, 50.0, 0, 0)], {})


def cosines(probe: str, languages: Sequence[str], layers: int, seed: int) -> Iterator[Metric]:
    """What a probe logs."""
    places = [Place(None, None), *(Place(None, module) for module in MODULES)]
    places += [Place(layer, module) for layer in range(layers) for module in (None, *MODULES)]
    for first, second in combinations_with_replacement(languages, 2):
        for place in places:
            if probe == "pruning":
                name = f"pruning/cosine/{first}-{second}{place.suffix}"
                yield Metric(name, mask_cosine(first, second, place, seed), 0, STEPS[-1])
                continue
            for step in STEPS:
                name = f"gradient/cosine/{first}-{second}{place.suffix}"
                yield Metric(name, gradient_cosine(first, second, place, step, seed), 0, step)


def write_groups(folder: Path, languages: Sequence[str], layers: int) -> None:
    """The file of groups, by the probe's own writer."""
    folder.mkdir(parents=True)
    rows = [
        {
            "group": f"layer.{layer}.{module}.inner.{row}",
            "layer": layer,
            "module": module,
            "language": language,
            "repeat": repeat,
            "log_alpha": log_alpha(row, language, repeat) * (1 + layer),
            "mask": 0.0,
            "parameters": 10,
        }
        for language in languages
        for repeat in (0, 1)
        for layer in range(layers)
        for module in MODULES
        for row in range(ROWS)
    ]
    write_table(folder / "groups.parquet", rows, GROUPS)


def write(client: MlflowClient, experiment: str, tags: dict, metrics: list[Metric], params: dict) -> None:
    """One finished run."""
    run_id = client.create_run(experiment, tags=tags).info.run_id
    for first in range(0, max(len(metrics), 1), 900):
        own = [Param(name, str(value)) for name, value in params.items()] if first == 0 else []
        client.log_batch(run_id, metrics=metrics[first : first + 900], params=own)
    client.set_terminated(run_id)
