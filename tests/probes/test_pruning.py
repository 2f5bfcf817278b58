from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from probed import LANGUAGES, Pretrained
from torch import nn

from raylab.config import ModelConfig
from raylab.errors import InputError
from raylab.model import Encoder
from raylab.model.places import Place
from raylab.probes.masks import Masks
from raylab.probes.pruning import HardConcrete
from raylab.probes.run import ProbeRun
from raylab.probes.similarity import language_specific
from raylab.seeding import generator
from raylab.train.gradients import Vector

UNTIMED = 1e9  # seconds
SAMPLES = 20_000


def gates_at(log_alpha: float, **options: object) -> HardConcrete:
    gates = HardConcrete(SAMPLES, **options)  # type: ignore[arg-type]
    nn.init.constant_(gates.log_alpha, log_alpha)
    return gates


@settings(max_examples=40, deadline=None)
@given(
    log_alpha=st.floats(-4, 4),
    temperature=st.floats(0.2, 2),
    low=st.floats(-1, -0.01),
    high=st.floats(1.01, 2),
    seed=st.integers(0, 1000),
)
def test_expected_l0_is_that_of_samples(
    log_alpha: float, temperature: float, low: float, high: float, seed: int
) -> None:
    gates = gates_at(log_alpha, temperature=temperature, stretch=(low, high))
    sample = gates.sample(generator(seed))
    assert sample.min() >= 0
    assert sample.max() <= 1
    share = gates.expected_l0().item() / SAMPLES
    deviation = math.sqrt(share * (1 - share) / SAMPLES)
    assert (sample != 0).double().mean().item() == pytest.approx(share, abs=5 * deviation + 1e-4)


def test_the_density_of_samples() -> None:
    """P(z <= x) for 0 < x < 1, from that of the binary concrete distribution, stretched."""
    gates = gates_at(0.7)
    sample = gates.sample(generator(0)).double()
    for x in (0.05, 0.3, 0.7, 0.95):
        unstretched = (x + 0.1) / 1.2
        logit = 2 / 3 * math.log(unstretched / (1 - unstretched)) - 0.7
        assert (sample <= x).double().mean().item() == pytest.approx(1 / (1 + math.exp(-logit)), abs=0.015)


def test_the_gradient_of_log_alpha() -> None:
    gates = HardConcrete(6).double()
    start = torch.linspace(-1.5, 1.5, 6, dtype=torch.float64)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)

    def objective(log_alpha: torch.Tensor) -> torch.Tensor:
        """Of one and the same draw; differentiable wherever no sample lies on an edge."""
        gates.log_alpha = nn.Parameter(torch.empty(0))
        del gates.log_alpha
        gates.log_alpha = log_alpha  # type: ignore[assignment]
        return (gates.sample(generator(4)) * weights).sum() + gates.expected_l0()

    point = start.clone().requires_grad_()
    assert 0 < objective(point).item() < weights.sum().item() + 6
    assert torch.autograd.gradcheck(objective, (point,))


def test_the_mask_without_noise() -> None:
    gates = HardConcrete(5)
    gates.log_alpha.data = torch.tensor([-9.0, math.log(1 / 11) - 1e-3, 0.0, math.log(11) + 1e-3, 9.0])
    torch.testing.assert_close(gates.mask(), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]), atol=1e-3, rtol=0)
    assert gates.mask()[[0, 1, 3, 4]].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("wrong", [{"num_groups": 0}, {"temperature": 0.0}, {"stretch": (0.0, 1.1)}])
def test_arguments_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected at least 1, over 0, and an interval that begins below 0"):
        HardConcrete(**{"num_groups": 3, **wrong})  # type: ignore[arg-type]


CONFIG = ModelConfig(num_layers=2, dim=16, num_heads=4, ffn_dim=24, max_length=16, dropout=0.0)


def encoder_of(config: ModelConfig = CONFIG, variant: str = "joint") -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(config, 50, LANGUAGES, variant)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases too
    return encoder.eval()


TOKENS = torch.arange(30).view(3, 10)


def masked(encoder: Encoder, removed: list[str], groups: str) -> torch.Tensor:
    masks = Masks(encoder, groups)
    mask = torch.tensor([float(name not in removed) for name in masks.names()])
    assert (mask == 0).sum() == len(removed)
    with torch.no_grad(), masks.applied(mask):
        return encoder(TOKENS, None, "aa")


def test_a_removed_feed_forward_row_might_as_well_not_be_there() -> None:
    encoder = encoder_of()
    smaller = encoder_of(CONFIG.model_copy(update={"ffn_dim": 23}))
    state = encoder.state_dict()
    kept = [number for number in range(24) if number != 5]
    for layer in (0, 1):
        inner, output = (f"layers.{layer}.feed_forward.{part}" for part in ("inner", "output"))
        for name in (f"{inner}.weight", f"{inner}.bias"):
            state[name] = state[name][kept]
        state[f"{output}.weight"] = state[f"{output}.weight"][:, kept]
    smaller.load_state_dict(state)
    found = masked(encoder, ["layer.0.ffn.inner.5", "layer.1.ffn.inner.5"], "rows")
    torch.testing.assert_close(found, smaller(TOKENS, None, "aa"))


def test_a_removed_head_might_as_well_not_be_there() -> None:
    encoder = encoder_of()
    smaller = encoder_of(CONFIG.model_copy(update={"num_heads": 3, "head_dim": 4}))
    state = encoder.state_dict()
    for layer, head in ((0, 1), (1, 3)):
        kept = [row for row in range(16) if row // 4 != head]
        into, output = (f"layers.{layer}.attention.{part}" for part in ("query_key_value", "output"))
        for name in (f"{into}.weight", f"{into}.bias"):
            state[name] = state[name][[16 * part + row for part in range(3) for row in kept]]
        state[f"{output}.weight"] = state[f"{output}.weight"][:, kept]
    smaller.load_state_dict(state)
    found = masked(encoder, ["layer.0.attention.head.1", "layer.1.attention.head.3"], "heads")
    torch.testing.assert_close(found, smaller(TOKENS, None, "aa"))


@pytest.mark.parametrize("part", ["query", "key", "value", "output"])
def test_a_row_of_attention_is_its_weights_and_bias(part: str) -> None:
    encoder, other = encoder_of(), encoder_of()
    name = "output" if part == "output" else "query_key_value"
    row = 7 if part == "output" else 16 * ("query", "key", "value").index(part) + 7
    projection = other.get_submodule(f"layers.1.attention.{name}")
    with torch.no_grad():
        projection.weight[row] = 0.0  # type: ignore[index]
        projection.bias[row] = 0.0  # type: ignore[index]
        expected = other(TOKENS, None, "aa")
    found = masked(encoder, [f"layer.1.attention.{part}.7"], "rows")
    torch.testing.assert_close(found, expected)
    assert not torch.equal(found, encoder(TOKENS, None, "aa"))


def test_only_what_is_shared_is_masked() -> None:
    joint, ffn = Masks(encoder_of()), Masks(encoder_of(variant="ffn"))
    assert {place.module for place in joint.places()} == {None, "attention", "ffn"}
    assert {place.module for place in ffn.places()} == {None, "attention"}
    shared = Masks(encoder_of(variant="shared_adapter"))
    assert "layer.1.adapter.feed_forward_down.3" in shared.names()
    assert len(set(shared.names())) == shared.count == len(shared.sizes)
    projections = encoder_of().layers.parameters()
    norms = 2 * 2 * 2 * 16
    assert int(joint.sizes.sum()) == sum(p.numel() for p in projections) - norms
    assert len(joint.places()[Place(0, "ffn")]) == 24 + 16
    heads = Masks(encoder_of(), "heads")
    assert len(heads.places()[Place(1, "attention")]) == 4
    biases = 2 * 16  # of the output projection, which no head has for itself
    assert int(heads.sizes.sum()) == int(joint.sizes.sum()) - biases


def test_the_most_language_specific_groups() -> None:
    log_alpha = {
        Vector("aa", 0): torch.tensor([2.0, 1.0, 3.0, -1.0, 4.0, 9.0]),
        Vector("aa", 1): torch.tensor([2.0, 1.0, 3.0, -1.0, 4.0, -1.0]),
        Vector("bb", 0): torch.tensor([-1.0, 2.0, -3.0, 1.0, -9.0, -9.0]),
        Vector("bb", 1): torch.tensor([-2.0, 2.0, -4.0, 1.0, 9.0, -9.0]),
    }
    found = language_specific(log_alpha, list("uvwxyz"), LANGUAGES, most=2)
    assert found == {"aa-bb": [{"group": "w", "aa": 3.0, "bb": -3.5}, {"group": "u", "aa": 2.0, "bb": -1.5}]}
    assert [row["group"] for row in language_specific(log_alpha, list("uvwxyz"), LANGUAGES, most=9)["aa-bb"]] == [
        "w",
        "u",
        "x",
    ]


def test_masks_of_a_model(joint: Pretrained, tmp_path: Path) -> None:
    run = joint.probe("pruning", steps=15)
    measured = {(m.name, m.step): m.value for m in run.advance(UNTIMED)}
    pairs = [f"pruning/cosine/{pair}" for pair in ("aa-aa", "aa-bb", "bb-bb")]
    assert all((name + place, 24) in measured for name in pairs for place in ("", "/layer.1", "/layer.0.ffn", "/ffn"))
    assert {name for name, step in measured if step == 15} == {
        f"pruning/{what}/{language}/{repeat}"
        for what in ("loss", "expected_sparsity")
        for language in LANGUAGES
        for repeat in (0, 1)
    }
    result = json.loads(json.dumps(run.finish(tmp_path)))
    assert result["mask_cosine"]["aa-bb/layer.0.ffn"] == measured["pruning/cosine/aa-bb/layer.0.ffn", 24]
    assert result["sparsity"]["bb"] == measured["pruning/sparsity/bb", 24]
    assert set(result["perplexity"]) == {"none", *LANGUAGES}
    groups = pq.read_table(tmp_path / "groups.parquet").to_pandas()
    assert len(groups) == 4 * result["groups"]
    table = groups.pivot_table(index="group", columns=["language", "repeat"], values="log_alpha", sort=False)
    rows = pq.read_table(tmp_path / "cosines.parquet").to_pandas()
    whole = rows[rows.layer.isna() & rows.module.isna() & (rows["first"] == "aa") & (rows["second"] == "aa")].iloc[0]
    a, b = (torch.tensor(table["aa", n].to_numpy()).double() for n in (0, 1))
    assert whole.cosine == pytest.approx((a @ b / (a.norm() * b.norm())).item())
    assert whole.opposed == pytest.approx(((a > 0) != (b > 0)).double().mean().item())
    assert whole.correlation == pytest.approx(torch.corrcoef(torch.stack([a, b]))[0, 1].item())
    removed = groups[(groups.language == "aa") & (groups["mask"] == 0)].parameters.sum()
    assert result["sparsity"]["aa"] == pytest.approx(removed / (2 * result["parameters"]))


def test_masks_learn_what_the_penalty_asks(joint: Pretrained, tmp_path: Path) -> None:
    results = {}
    for name, options in {
        "free": {"penalty": 0.0},
        "dear": {"penalty": 1e3},
        "half": {"target_sparsity": 0.5, "steps": 100, "learning_rate": 0.3},
    }.items():
        run = joint.probe("pruning", **{"steps": 25, "learning_rate": 1.0, "repeats": 1, **options})
        measured = {m.name: m.value for m in run.advance(UNTIMED)}
        results[name] = run.finish(tmp_path / name)
        results[name]["expected"] = measured["pruning/expected_sparsity/aa/0"]
    assert results["dear"]["sparsity"] == {"aa": 1.0, "bb": 1.0}
    assert results["free"]["sparsity"]["aa"] < 0.6
    assert results["half"]["expected"] == pytest.approx(0.5, abs=0.05)
    free, dear = (results[name]["perplexity"] for name in ("free", "dear"))
    assert free["aa"]["aa"] < dear["aa"]["aa"]
    assert "aa-aa" not in results["free"]["mask_cosine"]


def test_what_does_nothing_is_removed(joint: Pretrained, tmp_path: Path) -> None:
    """Feed-forward rows that nothing reads cost their share of the penalty, and no loss."""
    encoder = Encoder.from_pretrained(joint.folder / "model")
    nn.init.zeros_(encoder.get_parameter("layers.1.feed_forward.output.weight")[:, :20])
    encoder.save_pretrained(tmp_path / "model")
    run = joint._replace(folder=tmp_path).probe("pruning", steps=30, learning_rate=0.3, penalty=0.5, repeats=1)
    run.advance(UNTIMED)
    run.finish(tmp_path)
    groups = pq.read_table(tmp_path / "groups.parquet").to_pandas().set_index("group").log_alpha
    dead = groups[[f"layer.1.ffn.inner.{row}" for row in range(20)]]
    live = groups[[f"layer.1.ffn.inner.{row}" for row in range(20, 32)]]
    assert dead.max() < -2
    assert live.mean() > dead.mean() + 0.5


@pytest.mark.parametrize("options", [{}, {"target_sparsity": 0.3, "groups": "heads"}])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(
    options: dict[str, object], joint: Pretrained, tmp_path: Path
) -> None:
    def begin() -> ProbeRun:
        return joint.probe("pruning", steps=7, **options)

    whole = begin()
    expected = whole.advance(UNTIMED)
    run, measured, kept = begin(), [], []
    for number in range(200):
        measured += run.advance(0)
        if number % 3 == 1:
            torch.save(run.state(), tmp_path / "state.pt")
            kept = list(measured)
        if number % 5 == 4:
            run, measured = begin(), kept
            run.load_state(torch.load(tmp_path / "state.pt", weights_only=False))
        if run.finished:
            break
    assert run.progress == 1
    assert measured == expected
    first, second = whole.finish(tmp_path / "a"), run.finish(tmp_path / "b")
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    for name in ("cosines.parquet", "groups.parquet"):
        assert pq.read_table(tmp_path / "a" / name).equals(pq.read_table(tmp_path / "b" / name))


def test_a_state_does_not_change_as_the_run_goes_on(joint: Pretrained) -> None:
    run = joint.probe("pruning", steps=9)
    for _ in range(4):
        run.advance(0)
    state = run.state()
    next_one = [run.advance(0) for _ in range(9)]
    for _ in range(2):  # nor as another does that was given it
        other = joint.probe("pruning", steps=9)
        other.load_state(state)
        assert [other.advance(0) for _ in range(9)] == next_one


def test_a_model_without_the_language_is_bad_input(joint: Pretrained) -> None:
    job = joint.probe_job("pruning").model_copy(update={"languages": ("aa", "cc")})
    with pytest.raises(InputError, match="a model of aa, bb; one that knows cc is to be probed"):
        joint.run(job)
