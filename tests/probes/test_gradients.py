from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probed import LANGUAGES, Pretrained
from torch.nn import functional as F

from raylab.config.probes import ProbeJob
from raylab.data.prepare import Prepared
from raylab.errors import InputError
from raylab.model import Encoder
from raylab.model.places import Place
from raylab.probes.gradients import cosine
from raylab.probes.objective import open_text
from raylab.probes.run import ProbeRun
from raylab.seeding import seed_of
from raylab.train.gradients import inner_products
from raylab.train.run import Measurement

UNTIMED = 1e9  # seconds


def values(measurements: list[Measurement], step: int = 24) -> dict[str, float]:
    return {m.name.removeprefix("gradient/cosine/"): m.value for m in measurements if m.step == step}


numbers = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8), st.integers(0, 8))
def test_cosine_is_that_of_the_joined_vectors(elements: list[tuple[float, float]], cut: int) -> None:
    rows = torch.tensor(elements, dtype=torch.float32).T  # [2, n]
    sides = [{"u": row[:cut], "v": row[cut:].view(1, -1)} for row in rows]
    exact = [row.double() for row in rows]
    norms = exact[0].norm() * exact[1].norm()
    expected = (exact[0] @ exact[1] / norms).item() if norms > 0 else 0.0
    assert cosine(*sides) == pytest.approx(expected, abs=1e-12)
    assert cosine(*sides) == cosine(*reversed(sides))
    assert -1 <= cosine(*sides) <= 1


def test_no_cosine_is_over_1() -> None:
    torch.manual_seed(0)
    vectors = [{"w": torch.randn(7)} for _ in range(200)]
    assert all(1 - 1e-12 <= cosine(vector, vector) <= 1 for vector in vectors)


def test_cosine_sums_in_float64() -> None:
    """Of a vector with a large part and many small ones that float32 would lose."""
    a = torch.cat([torch.full((1,), 1e4), torch.full((1 << 20,), 1e-1)])
    b = torch.cat([torch.zeros(1), torch.full((1 << 20,), 1e-1)])
    expected = math.sqrt((1 << 20) * 1e-2 / (1e8 + (1 << 20) * 1e-2))
    assert cosine({"w": a}, {"w": b}) == pytest.approx(expected, rel=1e-7)


def test_a_missing_tensor_counts_as_zeros() -> None:
    a, b = {"w": torch.tensor([3.0]), "v": torch.tensor([4.0])}, {"w": torch.tensor([1.0])}
    assert cosine(a, b) == cosine(b, a) == pytest.approx(0.6)
    assert cosine(a, {"w": torch.zeros(1)}) == cosine({}, {}) == 0.0


def test_inner_products_of_the_parts_add_up(joint: Pretrained) -> None:
    encoder = Encoder.from_pretrained(joint.folder / "model")
    gradients = [{name: torch.randn_like(p) for name, p in encoder.named_parameters()} for _ in range(3)]
    products = inner_products(gradients)
    for gradient, squared in zip(gradients, products[Place(None, None)].diagonal(), strict=True):
        assert squared.item() == pytest.approx(sum(t.double().square().sum().item() for t in gradient.values()))
    modules = ("embeddings", "attention", "ffn", "norm")
    torch.testing.assert_close(sum(products[Place(None, name)] for name in modules), products[Place(None, None)])
    for layer in (0, 1):
        parts = sum(products[Place(layer, name)] for name in modules[1:])
        torch.testing.assert_close(parts, products[Place(layer, None)])


def direct_gradient(pretrained: Pretrained, job: ProbeJob, language: str, repeat: int) -> dict[str, torch.Tensor]:
    """Of the last model's mean loss over the whole effective batch at once, in float64."""
    assert job.gradients is not None
    assert job.gradients.batch_size is not None
    encoder = Encoder.from_pretrained(pretrained.folder / "model").double()
    text = open_text(
        job,
        Prepared(pretrained.prepared),
        "train",
        language,
        batch_size=job.gradients.batch_size,
        seed=seed_of(job.seed, "gradient probe"),
    )
    passes = range(-(-job.gradients.effective_batch // job.gradients.batch_size))  # type: ignore[operator]
    batches = [text.batch(repeat * len(passes) + number) for number in passes]
    inputs, labels = (
        torch.cat([getattr(batch, name) for batch in batches])[: job.gradients.effective_batch]
        for name in ("inputs", "labels")
    )
    logits = encoder.mlm_logits(encoder(inputs, None, language))
    names, parameters = zip(*encoder.named_parameters(), strict=True)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def test_cosines_are_those_of_float64_autograd_over_the_whole_batch(joint: Pretrained) -> None:
    job = joint.probe_job("gradients", effective_batch=11, batch_size=3, dropout=False)
    job = job.model_copy(update={"snapshot_every": 0})
    found = values(joint.run(job).advance(UNTIMED))
    gradients = {(name, n): direct_gradient(joint, job, name, n) for name in LANGUAGES for n in (0, 1)}

    def expected(first: str, second: str, part: str = "") -> float:
        sides = [(0, 1)] if first == second else [(0, 0), (0, 1), (1, 0), (1, 1)]
        cosines = []
        for i, j in sides:
            a, b = (
                torch.cat([t.flatten() for name, t in gradients[vector].items() if name.startswith(part)])
                for vector in ((first, i), (second, j))
            )
            cosines.append((a @ b / (a.norm() * b.norm())).item())
        return sum(cosines) / len(cosines)

    for pair in (("aa", "bb"), ("aa", "aa"), ("bb", "bb")):
        assert found["-".join(pair)] == pytest.approx(expected(*pair), abs=1e-5)
        assert found["-".join(pair) + "/layer.1"] == pytest.approx(expected(*pair, "layers.1."), abs=1e-5)
        assert found["-".join(pair) + "/layer.0.attention"] == pytest.approx(
            expected(*pair, "layers.0.attention."), abs=1e-5
        )
        assert found["-".join(pair) + "/layer.1.ffn"] == pytest.approx(
            expected(*pair, "layers.1.feed_forward."), abs=1e-5
        )


def test_each_snapshot_and_the_last_model_are_measured(joint: Pretrained, tmp_path: Path) -> None:
    run = joint.probe("gradients", effective_batch=16)
    measurements = run.advance(UNTIMED)
    assert run.finished
    assert {m.step for m in measurements} == {8, 16, 24}
    names = set(values(measurements))
    places = ["", "/layer.0", "/layer.1.norm", "/embeddings", "/attention", "/ffn", "/norm"]
    assert names >= {f"{pair}{place}" for pair in ("aa-aa", "aa-bb", "bb-bb") for place in places}
    result = json.loads(json.dumps(run.finish(tmp_path)))
    assert result["steps"] == [8, 16, 24]
    assert result["gradient_cosine"] == values(measurements)
    table = pq.read_table(tmp_path / "cosines.parquet").to_pandas()
    whole = table[(table.step == 24) & table.layer.isna() & table.module.isna()]
    assert sorted(zip(whole["first"], whole["second"], strict=True)) == [
        ("aa", "aa"),
        *[("aa", "bb")] * 4,
        ("bb", "bb"),
    ]
    assert whole[whole["first"] != whole["second"]].cosine.mean() == pytest.approx(result["gradient_cosine"]["aa-bb"])
    assert (table.first_norm > 0).all()


def test_a_larger_effective_batch_agrees_better_with_itself(joint: Pretrained) -> None:
    """Sampling noise goes down; and one repeat gives no baseline."""
    small, large = (
        values(joint.probe("gradients", effective_batch=size, dropout=False).advance(UNTIMED)) for size in (2, 64)
    )
    assert large["aa-aa"] > small["aa-aa"] + 0.1
    assert large["bb-bb"] > small["bb-bb"] + 0.1
    alone = values(joint.probe("gradients", effective_batch=8, repeats=1).advance(UNTIMED))
    assert "aa-bb" in alone
    assert "aa-aa" not in alone


def test_gradients_of_training_have_dropout(joint: Pretrained) -> None:
    measured = [values(joint.probe("gradients", effective_batch=8, dropout=on).advance(UNTIMED)) for on in (1, 1, 0)]
    assert measured[0] == measured[1]
    assert measured[0]["aa-bb"] != measured[2]["aa-bb"]


def test_three_languages_give_all_pairs_of_what_they_share(pretrain: Callable[..., Pretrained]) -> None:
    measured = values(pretrain("ffn", ("aa", "bb", "cc")).probe("gradients", effective_batch=8).advance(UNTIMED))
    assert {name for name in measured if "/" not in name} == {"aa-aa", "aa-bb", "aa-cc", "bb-bb", "bb-cc", "cc-cc"}
    assert "aa-bb/layer.0.attention" in measured
    assert "aa-bb/layer.0.ffn" not in measured


def test_stopped_anywhere_it_goes_on_to_the_same_bits(joint: Pretrained, tmp_path: Path) -> None:
    def begin() -> ProbeRun:
        return joint.probe("gradients", effective_batch=16)

    whole = begin()
    expected = whole.advance(UNTIMED)
    run, measured = begin(), []
    for number in range(100):
        measured += run.advance(0)
        if number % 3 == 1:
            torch.save(run.state(), tmp_path / "state.pt")
            kept = list(measured)
        if number % 7 == 6:  # cut off, some units after a state
            run, measured = begin(), kept
            run.load_state(torch.load(tmp_path / "state.pt", weights_only=False))
        if run.finished:
            break
    assert run.progress == 1
    assert measured == expected
    results = [one.finish(tmp_path / name) for one, name in ((whole, "a"), (run, "b"))]
    assert results[0]["gradient_cosine"] == results[1]["gradient_cosine"]
    tables = [pq.read_table(tmp_path / name / "cosines.parquet") for name in "ab"]
    assert tables[0].equals(tables[1])


def test_a_state_does_not_change_as_the_run_goes_on(joint: Pretrained) -> None:
    run = joint.probe("gradients", effective_batch=24)
    for _ in range(10):
        run.advance(0)
    state = run.state()
    rest = run.advance(UNTIMED)
    for _ in range(2):  # nor as another does that was given it
        other = joint.probe("gradients", effective_batch=24)
        other.load_state(state)
        assert other.advance(UNTIMED) == rest


def test_a_missing_snapshot_or_language_is_bad_input(joint: Pretrained) -> None:
    job = joint.probe_job("gradients")
    with pytest.raises(InputError, match="no snapshot of step 5; pretraining with the same snapshot_every keeps it"):
        joint.run(job.model_copy(update={"snapshot_every": 5}))
    with pytest.raises(InputError, match="a model of aa, bb; one that knows cc is to be probed"):
        joint.run(job.model_copy(update={"languages": ("aa", "cc")})).advance(UNTIMED)


def test_a_model_that_diverged_is_an_error(joint: Pretrained, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(joint.folder / "model")
    torch.nn.init.constant_(encoder.output_bias, torch.nan)
    encoder.save_pretrained(tmp_path / "model")
    job = joint.probe_job("gradients").model_copy(update={"snapshot_every": 0})
    with pytest.raises(FloatingPointError, match="of the model of step 24 is infinite or not a number"):
        joint._replace(folder=tmp_path).run(job).advance(UNTIMED)
