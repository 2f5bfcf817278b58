"""Gradient surgery against its definitions, taken step by step on flat vectors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raylab.config import ConflictConfig
from raylab.train.conflict import SURGERY, GradVac, Granularity, PCGrad, Surgery

Parameters = dict[str, Tensor]
SHAPES = {"tokens.weight": (5, 3), "layers.0.inner.weight": (4, 2), "layers.0.norm.bias": (3,), "layers.10.bias": (6,)}
GROUPS = {
    "model": [list(SHAPES)],
    "layer": [["tokens.weight"], ["layers.0.inner.weight", "layers.0.norm.bias"], ["layers.10.bias"]],
}
seeds = st.integers(0, 2**32 - 1)
granularities = st.sampled_from(["model", "layer"])


def random_gradients(seed: int, languages: int) -> list[Parameters]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
        for _ in range(languages)
    ]


def flat(gradient: Parameters, names: list[str]) -> Tensor:
    return torch.cat([gradient[name].flatten() for name in names])


def cosine(a: Tensor, b: Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


def defined(
    gradients: list[Parameters],
    granularity: Granularity,
    generator: torch.Generator,
    change: Callable[[int, int, int, Tensor, Tensor], Tensor],
) -> list[list[Tensor]]:
    """For each group the changed vectors: one gradient after the other, in the order that the generator draws."""
    found = []
    for k, names in enumerate(GROUPS[granularity]):
        originals = [flat(gradient, names) for gradient in gradients]
        changed = []
        for i, vector in enumerate(originals):
            for j in torch.randperm(len(originals), generator=generator).tolist():
                if j != i:
                    vector = change(k, i, j, vector, originals[j])
            changed.append(vector)
        found.append(changed)
    return found


def project(k: int, i: int, j: int, vector: Tensor, other: Tensor) -> Tensor:
    inner = vector @ other
    return vector - inner / (other @ other) * other if inner < 0 else vector


def vaccinate(averages: dict[tuple[int, int, int], float], decay: float) -> Callable[..., Tensor]:
    def change(k: int, i: int, j: int, vector: Tensor, other: Tensor) -> Tensor:
        phi, target = cosine(vector, other), averages.get((k, i, j), 0.0)
        averages[k, i, j] = (1 - decay) * target + decay * phi
        if phi >= target:
            return vector
        numerator = vector.norm() * (target * math.sqrt(1 - phi**2) - phi * math.sqrt(1 - target**2))
        return vector + numerator / (other.norm() * math.sqrt(1 - target**2)) * other

    return change


def assert_equal(mended: list[Parameters], expected: list[list[Tensor]], granularity: str) -> None:
    for names, vectors in zip(GROUPS[granularity], expected, strict=True):
        for gradient, vector in zip(mended, vectors, strict=True):
            torch.testing.assert_close(flat(gradient, names), vector, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(seed=seeds, languages=st.integers(1, 4), granularity=granularities)
def test_pcgrad_is_its_definition(seed: int, languages: int, granularity: Granularity) -> None:
    gradients = random_gradients(seed, languages)
    mended = PCGrad(granularity).mend(gradients, torch.Generator().manual_seed(seed))
    expected = defined(gradients, granularity, torch.Generator().manual_seed(seed), project)
    assert_equal(mended.gradients, expected, granularity)


@settings(deadline=None)
@given(seed=seeds, languages=st.integers(1, 4), granularity=granularities, decay=st.floats(0.01, 0.9))
def test_gradvac_is_its_definition_over_steps(
    seed: int, languages: int, granularity: Granularity, decay: float
) -> None:
    surgery, change = GradVac(decay, granularity), vaccinate({}, decay)
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
    for step in range(4):
        gradients = random_gradients(seed + step, languages)
        mended = surgery.mend(gradients, generators[0])
        assert_equal(mended.gradients, defined(gradients, granularity, generators[1], change), granularity)


@settings(deadline=None)
@given(seed=seeds, granularity=granularities)
def test_two_gradients_do_not_conflict_after_pcgrad(seed: int, granularity: Granularity) -> None:
    gradients = random_gradients(seed, 2)
    mended = PCGrad(granularity).mend(gradients, torch.Generator())
    for names in GROUPS[granularity]:
        for i, j in ((0, 1), (1, 0)):
            assert cosine(flat(mended.gradients[i], names), flat(gradients[j], names)) > -1e-9
        assert cosine(flat(mended.gradients[0], names), flat(mended.gradients[1], names)) > -1e-9


@settings(deadline=None)
@given(seed=seeds, languages=st.integers(1, 4), variant=st.sampled_from(sorted(SURGERY)), granularity=granularities)
def test_without_conflict_nothing_changes(seed: int, languages: int, variant: str, granularity: Granularity) -> None:
    gradients = [{name: t.abs() for name, t in part.items()} for part in random_gradients(seed, languages)]
    surgery = SURGERY[variant](ConflictConfig(granularity=granularity))
    mended = surgery.mend(gradients, torch.Generator())
    assert all(mended.gradients[i][name] is tensor for i, part in enumerate(gradients) for name, tensor in part.items())
    assert mended.conflicts == 0.0


@settings(deadline=None)
@given(seed=seeds, granularity=granularities)
def test_gradvac_raises_the_cosine_to_its_moving_average(seed: int, granularity: Granularity) -> None:
    surgery = GradVac(0.5, granularity)
    aligned, generator = random_gradients(seed, 1), torch.Generator()
    close = [{name: tensor + 0.3 for name, tensor in aligned[0].items()}, aligned[0]]
    target = {
        k: 0.5 * cosine(flat(close[0], names), flat(close[1], names)) for k, names in enumerate(GROUPS[granularity])
    }
    surgery.mend(close, generator)
    gradients = random_gradients(seed + 1, 2)
    mended = surgery.mend(gradients, generator)
    for k, names in enumerate(GROUPS[granularity]):
        for i, j in ((0, 1), (1, 0)):
            before, after = (
                cosine(flat(g[i], names), flat(gradients[j], names)) for g in (gradients, mended.gradients)
            )
            assert after == pytest.approx(max(before, target[k]), abs=1e-9)


def test_cosines_and_share_of_conflicts() -> None:
    gradients = [
        {"layers.0.w": torch.tensor(a), "w": torch.tensor(b)} for a, b in (([1.0, 0.0], [2.0]), ([1.0, 1.0], [-3.0]))
    ]
    mended = PCGrad("layer").mend(gradients, torch.Generator())
    root = math.sqrt(0.5)
    expected = torch.tensor([[[1.0, root], [root, 1.0]], [[1.0, -1.0], [-1.0, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(mended.cosines, expected)
    assert mended.cosine == pytest.approx((root - 1) / 2)
    assert mended.conflicts == 0.5
    whole = PCGrad("model").mend(gradients, torch.Generator())
    assert whole.cosine == pytest.approx((1 - 6) / math.sqrt(5 * 11))
    assert whole.conflicts == 1.0


def test_one_language_has_nothing_to_mend() -> None:
    mended = PCGrad().mend([{"w": torch.ones(3)}], torch.Generator())
    assert (mended.cosine, mended.conflicts) == (0.0, 0.0)


def test_a_missing_gradient_counts_as_zeros() -> None:
    gradients = random_gradients(0, 3)
    filled = [dict(gradient) for gradient in gradients]
    del gradients[1]["layers.10.bias"]
    filled[1]["layers.10.bias"] = torch.zeros_like(filled[1]["layers.10.bias"])
    for variant in SURGERY:
        found, expected = (
            SURGERY[variant](ConflictConfig(granularity="layer")).mend(each, torch.Generator().manual_seed(0))
            for each in (gradients, filled)
        )
        torch.testing.assert_close(
            found.gradients, [{n: e[n] for n in f} for f, e in zip(found.gradients, expected.gradients, strict=True)]
        )
        assert all(gradient.keys() == SHAPES.keys() for gradient in found.gradients)
        assert torch.equal(found.cosines, expected.cosines)


@pytest.mark.parametrize("surgery", [PCGrad(), GradVac(1.0)])
def test_parallel_opposite_and_zero_gradients(surgery: Surgery) -> None:
    """With a decay of 1 the moving average of a gradient's cosine with itself is 1, which nothing else can reach."""
    vector = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    same, opposite, none, other = vector, -3 * vector, torch.zeros(1000), torch.ones(1000)
    for second in (same, opposite, same, none, same, other, other):
        mended = surgery.mend([{"w": vector}, {"w": second}], generator)
        assert all(gradient["w"].norm() < 1e4 * vector.norm() for gradient in mended.gradients)
    mended = PCGrad().mend([{"w": same}, {"w": opposite}], generator)
    for gradient, size in zip(mended.gradients, (1, 3), strict=True):
        assert gradient["w"].norm() <= 1e-6 * size * vector.norm()


@pytest.mark.parametrize("granularity", ["model", "layer"])
def test_going_on_from_a_state(granularity: Granularity) -> None:
    undisturbed = GradVac(0.5, granularity)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        undisturbed.mend(random_gradients(step, 3), generator)
    state, restored = undisturbed.state(), GradVac(0.5, granularity)
    restored.load_state(state)
    for step in range(3, 6):
        generators = [torch.Generator().manual_seed(step) for _ in range(2)]
        a, b = (s.mend(random_gradients(step, 3), g) for s, g in zip((undisturbed, restored), generators, strict=True))
        for left, right in zip(a.gradients, b.gradients, strict=True):
            assert all(torch.equal(left[name], right[name]) for name in SHAPES)
    again = GradVac(0.5, granularity)
    again.load_state(state)  # the state did not change meanwhile
    assert again.state() == state != undisturbed.state()


@pytest.mark.parametrize("granularity", ["model", "layer"])
@pytest.mark.parametrize("variant", SURGERY)
def test_a_gradient_that_overflowed_leaves_no_trace(variant: str, granularity: Granularity) -> None:
    """As in float16, where the step is then skipped: it must not get into the moving averages, of any group."""
    surgery = SURGERY[variant](ConflictConfig(granularity=granularity))
    before = surgery.state()
    gradients = [
        {"layers.0.w": torch.tensor([1.0, torch.inf]), "w": torch.tensor([1.0, 0.0])},
        {"layers.0.w": torch.tensor([1.0, -2.0]), "w": torch.tensor([1.0, -3.0])},
    ]
    mended = surgery.mend(gradients, torch.Generator())
    assert not mended.gradients[0]["layers.0.w"].isfinite().all()
    assert surgery.state() == before
