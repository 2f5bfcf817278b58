"""One step is the same step however many processes and passes it is cut into; and what each kind of step does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from raylab.config import ConflictConfig, MetaConfig, ModelConfig, PretrainConfig
from raylab.data.masking import mask_tokens
from raylab.model import Encoder
from raylab.train.distributed import ALONE, Workers
from raylab.train.engine import Engine
from raylab.train.masked_text import Batch

LANGUAGES = ("aa", "bb")
VOCAB_SIZE = 50
STEPS = 4
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"pretrain": {"clip_norm": 0.1, "weight_decay": 0.1}},
    "finite_difference": {"meta": {}},
    "forward_difference": {"meta": {"method": "forward_difference"}},
    "exact": {"meta": {"method": "exact"}},
    "adam": {"meta": {"inner_step": "adam", "inner_lr": 1e-2}},
    "fp16": {"meta": {}, "pretrain": {"precision": "fp16"}},
    "pcgrad": {"surgery": "pcgrad"},
    "gradvac": {"surgery": "gradvac"},
}


def make_batch(language: str, number: int, rows: int = 8, length: int = 12) -> Batch:
    random = torch.Generator().manual_seed(1000 * LANGUAGES.index(language) + number)
    tokens = torch.randint(5, VOCAB_SIZE, (rows, length), generator=random)
    arguments: dict[str, Any] = {"mask_id": 4, "vocab_size": VOCAB_SIZE, "special_ids": range(5)}
    inputs, labels = mask_tokens(tokens, probability=0.3, generator=random, **arguments)
    labels[0] = -100  # so that the sequences have unequal numbers of masked tokens
    return Batch(language, inputs, labels)


def make_engine(kind: str, dtype: torch.dtype = torch.float64, dropout: float = 0.0, **options: Any) -> Engine:
    settings = KINDS[kind]
    torch.manual_seed(0)
    model = ModelConfig(num_layers=2, dim=16, num_heads=2, ffn_dim=32, dropout=dropout, max_length=12)
    encoder = Encoder(model, VOCAB_SIZE, LANGUAGES, "meta_adapter" if "meta" in settings else "joint").to(dtype)
    defaults = {"learning_rate": 1e-2, "warmup_steps": 2, "steps": 10}
    return Engine(
        encoder,
        PretrainConfig(**{**defaults, **settings.get("pretrain", {})}),
        meta=MetaConfig(**{"inner_lr": 0.5, **settings["meta"]}) if "meta" in settings else None,
        surgery=settings.get("surgery"),
        conflict=ConflictConfig(granularity="layer"),
        **options,
    )


def train(engine: Engine, kind: str, first: int = 1, last: int = STEPS) -> dict[str, Any]:
    losses = []
    for number in range(first, last + 1):
        batches = [make_batch(language, number) for language in LANGUAGES]
        batch = batches[number % 2]
        if "surgery" in KINDS[kind]:
            losses.append(engine.surgery_step(number, batches, [0.7, 0.3]))
            continue
        if "meta" in KINDS[kind]:
            engine.meta_step(number, batch, [make_batch(language, number + 100, rows=4) for language in LANGUAGES])
        losses.append(engine.step(number, batch, shared_only="meta" in KINDS[kind]))
    return {"losses": torch.stack(losses), "model": dict(engine.encoder.state_dict())}


def train_all(workers: Workers = ALONE, accumulation: int = 1) -> dict[str, Any]:
    results = {}
    for kind in KINDS:
        for dtype in (torch.float64, torch.float32):
            engine = make_engine(kind, dtype, workers=workers, accumulation=accumulation)
            results[f"{kind} {dtype}"] = train(engine, kind)
            if kind == "plain":
                results[f"valid {dtype}"] = engine.evaluate([make_batch("aa", n) for n in range(3)])
    return results


def work(rank: int, folder: Path) -> None:
    """What each of two processes does; `spawn` finds it by its name."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    workers = Workers.current()
    assert (workers.rank, workers.size) == (rank, 2)
    results = {passes: train_all(workers, passes) for passes in (1, 2)}
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return train_all()


@pytest.fixture(scope="module")
def in_passes() -> dict[str, Any]:
    return train_all(accumulation=4)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, Any]]:
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Of all weights, relative to their norm."""
    norms = [torch.cat([tensor.flatten() for tensor in side]).norm() for side in ([a[n] - b[n] for n in a], a.values())]
    return float(norms[0] / norms[1])


def assert_same(found: dict[str, Any], expected: dict[str, Any], kind: str, dtype: torch.dtype) -> None:
    """Losses to 1e-5; the weights in float64, where Adam does not make much of rounding errors in gradients of zero."""
    name = f"{kind} {dtype}"
    tolerance = 1e-3 if kind == "fp16" else 1e-5 if dtype is torch.float32 else 1e-9
    torch.testing.assert_close(found[name]["losses"], expected[name]["losses"], rtol=tolerance, atol=0)
    if dtype is torch.float64 and kind != "fp16":
        assert distance(found[name]["model"], expected[name]["model"]) < tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("passes", [1, 2])
def test_two_processes_are_one(
    kind: str, dtype: torch.dtype, passes: int, alone: dict[str, Any], of_two: list[dict[int, Any]]
) -> None:
    for found in of_two:
        assert_same(found[passes], alone, kind, dtype)
    first, second = (found[passes][f"{kind} {dtype}"]["model"] for found in of_two)
    assert all(torch.equal(first[name], second[name]) for name in first)  # to the bit, or they would drift apart


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_is_the_large_batch(kind: str, alone: dict[str, Any], in_passes: dict[str, Any]) -> None:
    assert_same(in_passes, alone, kind, torch.float64)
    assert_same(in_passes, alone, kind, torch.float32)


def test_two_processes_share_the_validation(alone: dict[str, Any], of_two: list[dict[int, Any]]) -> None:
    assert of_two[0][1]["valid torch.float64"] == pytest.approx(alone["valid torch.float64"], rel=1e-12)


def test_the_kinds_of_step_differ(alone: dict[str, Any]) -> None:
    """Or the comparisons above would compare nothing."""
    models = [alone[f"{kind} torch.float64"]["model"] for kind in ("finite_difference", "forward_difference", "adam")]
    assert all(distance(models[0], other) > 1e-6 for other in models[1:])
    models = [alone[f"{kind} torch.float64"]["model"] for kind in ("plain", "clipped", "pcgrad", "gradvac")]
    assert all(distance(models[i], models[j]) > 1e-4 for i in range(4) for j in range(i))


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact_to_the_bit(kind: str, tmp_path: Path) -> None:
    whole = make_engine(kind, torch.float32, dropout=0.2)
    expected = train(whole, kind)
    first = make_engine(kind, torch.float32, dropout=0.2)
    train(first, kind, last=2)
    torch.save(first.state(), tmp_path / "state.pt")
    second = make_engine(kind, torch.float32, dropout=0.2)
    second.load_state(torch.load(tmp_path / "state.pt"))
    torch.manual_seed(7)
    found = train(second, kind, first=3)
    assert torch.equal(found["losses"], expected["losses"][2:])
    assert all(torch.equal(found["model"][name], expected["model"][name]) for name in expected["model"])
    assert second.measured() == whole.measured()


def test_float16_skips_the_steps_that_overflow() -> None:
    engine = make_engine("fp16", torch.float32)
    before = {name: tensor.clone() for name, tensor in engine.encoder.state_dict().items()}
    state = engine.precision.state()
    engine.precision.load_state({**state, "scaler": {**state["scaler"], "scale": 2.0**40}})
    train(engine, "fp16", last=1)
    assert engine.measured() == {"train/skipped_steps": 2, "train/loss_scale": 2.0**38}  # the meta step and the step
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.encoder.state_dict().items())
    train(engine, "fp16", first=2, last=30)
    measured = engine.measured()
    assert 2 < measured["train/skipped_steps"] < 40
    assert not torch.equal(engine.encoder.tokens.weight, before["tokens.weight"])


def test_float16_that_never_fits_is_an_error() -> None:
    engine = make_engine("fp16", torch.float32)
    with torch.no_grad():
        engine.encoder.output_bias[7] = torch.inf
    with pytest.raises(FloatingPointError, match="loss scale"):
        train(engine, "fp16", last=100)


def test_float16_meta_step_is_that_of_float32() -> None:
    """The scale is taken out of every pass: otherwise the inner step would be 65,536 times too long."""
    models = []
    for kind in ("finite_difference", "fp16"):
        engine = make_engine(kind, torch.float32)
        start = torch.cat([p.flatten() for p in engine.encoder.specific_parameters("bb").values()]).clone()
        train(engine, kind, last=1)
        models.append(torch.cat([p.flatten() for p in engine.encoder.specific_parameters("bb").values()]) - start)
    assert torch.cosine_similarity(models[0], models[1], dim=0) > 0.98


def test_sequences_that_do_not_divide_are_refused() -> None:
    engine = make_engine("plain", accumulation=3)
    with pytest.raises(ValueError, match="8 sequences do not divide over 1 workers in 3 passes"):
        train(engine, "plain")


def test_surgery_measures_conflict() -> None:
    engine = make_engine("pcgrad")
    train(engine, "pcgrad")
    measured = engine.measured()
    assert measured.keys() == {"conflict/cosine", "conflict/share"}
    assert -1 <= measured["conflict/cosine"] <= 1
    assert 0 <= measured["conflict/share"] <= 1
    assert engine.measured() == {}
