"""The gradients that training computes anyway, compared between languages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from raylab.config import ConflictConfig, ModelConfig, PretrainConfig
from raylab.data.masking import mask_tokens, predicted
from raylab.model import Encoder
from raylab.train.engine import Engine
from raylab.train.gradients import WINDOWS_OF_PLACES
from raylab.train.masked_text import Batch

LANGUAGES = ("aa", "bb")
VOCAB_SIZE = 40
STILL = 1e-30  # a learning rate at which the weights stay as they are


def make_batch(language: str, number: int, rows: int = 6) -> Batch:
    random = torch.Generator().manual_seed(1000 * LANGUAGES.index(language) + number)
    low = 5 + 10 * LANGUAGES.index(language)
    tokens = torch.randint(low, low + 20, (rows, 12), generator=random)
    options: dict[str, Any] = {"mask_id": 4, "vocab_size": VOCAB_SIZE, "special_ids": range(5)}
    return Batch(language, *mask_tokens(tokens, probability=0.3, generator=random, **options))


def make_engine(
    variant: str = "joint", *, dtype: torch.dtype = torch.float64, surgery: str | None = None, **pretrain: Any
) -> Engine:
    torch.manual_seed(0)
    model = ModelConfig(num_layers=2, dim=16, num_heads=2, ffn_dim=32, dropout=0.0, max_length=12)
    encoder = Encoder(model, VOCAB_SIZE, LANGUAGES, variant).to(dtype)  # type: ignore[arg-type]
    config = PretrainConfig(**{"learning_rate": STILL, "warmup_steps": 1, "steps": 10, **pretrain})
    return Engine(encoder, config, surgery=surgery, conflict=ConflictConfig())


def gradient_of(encoder: Encoder, batch: Batch) -> Tensor:
    """Of the batch's mean loss in the shared parameters, as one vector, by PyTorch alone."""
    positions, targets = predicted(batch.labels)
    loss = encoder.mlm_loss(batch.inputs, positions, targets, batch.language) / len(targets)
    found = torch.autograd.grad(loss, list(encoder.shared_parameters().values()), materialize_grads=True)
    return torch.cat([tensor.flatten() for tensor in found])


def cosine_of(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return torch.cosine_similarity(torch.stack(list(first)).sum(0), torch.stack(list(second)).sum(0), dim=0).item()


@pytest.mark.parametrize("variant", ["joint", "ffn", "adapter"])
def test_a_window_compares_sums_of_every_second_batch(variant: str) -> None:
    engine = make_engine(variant, gradients_every=7)
    order = ["aa", "bb", "bb", "aa", "aa", "bb", "bb"]
    batches = [make_batch(language, number) for number, language in enumerate(order)]
    found = []
    for number, batch in enumerate(batches, start=1):
        engine.step(number, batch)
        found += engine.compared(number)
    of = {
        name: [gradient_of(engine.encoder, batch) for batch in batches if batch.language == name] for name in LANGUAGES
    }
    halves = {name: (gradients[::2], gradients[1::2]) for name, gradients in of.items()}
    between = [cosine_of(a, b) for a, b in product(halves["aa"], halves["bb"])]
    expected = {
        "gradient/cosine/aa-aa": cosine_of(*halves["aa"]),
        "gradient/cosine/aa-bb": sum(between) / 4,
        "gradient/cosine/bb-bb": cosine_of(*halves["bb"]),
    }
    assert {m.name: m.value for m in found} == pytest.approx(expected, abs=1e-9)
    assert {m.step for m in found} == {7}


def test_a_window_begins_anew() -> None:
    engine = make_engine(gradients_every=4)
    windows = []
    for number in range(1, 9):
        engine.step(number, make_batch(LANGUAGES[number % 2], (number - 1) % 4))
        if found := engine.compared(number):
            windows.append({m.name: m.value for m in found})
    assert len(windows) == 2
    assert windows[1] == pytest.approx(windows[0], abs=1e-9)  # of the same batches and, as good as, the same weights


def test_too_few_batches_are_not_compared() -> None:
    engine = make_engine(gradients_every=3)
    for number, language in enumerate(["aa", "bb", "aa"], start=1):
        engine.step(number, make_batch(language, number))
    assert {m.name for m in engine.compared(3)} == {"gradient/cosine/aa-aa", "gradient/cosine/aa-bb"}


def test_layers_and_modules_are_means_of_windows() -> None:
    engine = make_engine(gradients_every=2)
    steps: dict[str, list[int]] = {}
    for number in range(1, 4 * WINDOWS_OF_PLACES + 1):
        engine.step(number, make_batch(LANGUAGES[number % 2], number))
        for measurement in engine.compared(number):
            steps.setdefault(measurement.name, []).append(measurement.step)
    assert steps["gradient/cosine/aa-bb"] == list(range(2, 4 * WINDOWS_OF_PLACES + 1, 2))
    for place in ("layer.0", "layer.1", "attention", "ffn", "norm", "embeddings", "layer.1.attention"):
        assert steps[f"gradient/cosine/aa-bb/{place}"] == [2 * WINDOWS_OF_PLACES, 4 * WINDOWS_OF_PLACES]


@pytest.mark.parametrize("changes", [{"precision": "fp16"}, {"clip_norm": 1e-3}])
def test_neither_the_loss_scale_nor_clipping_counts(changes: dict[str, Any]) -> None:
    values = []
    for options in ({}, changes):
        engine = make_engine(gradients_every=4, **options)
        for number in range(1, 5):
            engine.step(number, make_batch(LANGUAGES[number % 2], number))
        values.append({m.name: m.value for m in engine.compared(4)})
    assert len(values[0]) == 3
    assert values[1] == pytest.approx(values[0], abs=1e-3)


def test_a_window_in_which_float16_overflows_gives_nothing() -> None:
    engine = make_engine(dtype=torch.float32, gradients_every=2, precision="fp16")
    state = engine.precision.state()
    engine.precision.load_state({**state, "scaler": {**state["scaler"], "scale": 2.0**40}})
    found = []
    for number in range(1, 61):
        engine.step(number, make_batch(LANGUAGES[number % 2], number))
        found.append(engine.compared(number))
    assert found[1] == []
    assert found[-1]


def test_surgery_is_watched_before_it_mends() -> None:
    engine = make_engine(surgery="pcgrad", gradients_every=2)
    batches = [[make_batch(language, number) for language in LANGUAGES] for number in (1, 2)]
    for number, of_step in enumerate(batches, start=1):
        engine.surgery_step(number, of_step, [0.5, 0.5])
    found = {m.name: m.value for m in engine.compared(2)}
    of = [[gradient_of(engine.encoder, batch) for batch in of_language] for of_language in zip(*batches, strict=True)]
    assert found["gradient/cosine/aa-aa"] == pytest.approx(cosine_of(of[0][:1], of[0][1:]), abs=1e-9)
    between = [cosine_of([a], [b]) for a, b in product(*of)]
    assert found["gradient/cosine/aa-bb"] == pytest.approx(sum(between) / 4, abs=1e-9)


def test_watching_changes_no_weight() -> None:
    models = []
    for every in (0, 2):
        engine = make_engine(gradients_every=every, learning_rate=1e-2)
        for number in range(1, 6):
            engine.step(number, make_batch(LANGUAGES[number % 2], number))
            engine.compared(number)
        models.append(engine.encoder.state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
