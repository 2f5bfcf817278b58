"""Contrasts of models whose truth is known: scores are means over examples of a crossed model of seeds and examples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.examples import Examples, Outcomes
from analysis.uncertainty import Contrast, Scored, ScoreDraws, Uncertainty, average, measure

EXAMPLES = 150


def made_up(
    random: np.random.Generator,
    cells: int,
    seeds: int,
    *,
    of_seed: float = 0.0,
    of_example: float = 0.0,
    of_both: float = 1e-3,
    truth: float = 0.0,
    kind: str = "cell",
) -> tuple[list[Contrast], Examples]:
    """Contrasts of a true difference `truth`, in points, with deviations of each kind of chance, as shares of 1."""
    outcomes: dict[tuple[str, str, str], Outcomes] = {}
    contrasts = []
    for cell in range(cells):
        language = f"{kind}{cell}"
        shared = random.normal(truth / 100.0, of_example, EXAMPLES)
        differences, pairs = {}, {}
        for seed in range(seeds):
            first = random.normal(0.6, 0.2, EXAMPLES)
            second = first - shared - random.normal(0.0, of_seed) - random.normal(0.0, of_both, EXAMPLES)
            tested = [Scored(f"{name}-{seed}", language, "m") for name in ("first", "second")]
            for one, values in zip(tested, (first, second), strict=True):
                score = 100.0 * values.mean()
                outcomes[tuple(one)] = Outcomes(values, np.ones(EXAMPLES), score, ("task", language, 0))
            differences[seed] = 100.0 * float(first.mean() - second.mean())
            pairs[seed] = [(tested[0], tested[1])]
        contrasts.append(Contrast(differences, pairs))
    return contrasts, Examples(outcomes)


def told(measured: list[Uncertainty], field: str = "p") -> float:
    return float(np.mean([getattr(one, field) <= 0.05 for one in measured]))


CHANCE = [
    {"of_seed": 0.03},
    {"of_example": 0.3},
    {"of_seed": 0.02, "of_example": 0.2, "of_both": 0.2},
]


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("chance", CHANCE)
def test_nothing_is_told_from_zero_oftener_than_promised(seeds: int, chance: dict[str, float]) -> None:
    if seeds == 1:
        chance = {**chance, "of_seed": 0.0}  # which one seed cannot know of
    contrasts, examples = made_up(np.random.default_rng(seeds), 300, seeds, **chance)
    measured = measure(contrasts, ScoreDraws(examples, 500))
    assert told(measured) == pytest.approx(0.05, abs=0.045)
    covered = np.mean([one.total_low <= 0.0 <= one.total_high for one in measured])
    assert covered == pytest.approx(0.95, abs=0.045)


def test_chance_that_only_examples_of_one_seed_have_is_not_counted_twice() -> None:
    contrasts, examples = made_up(np.random.default_rng(0), 300, 3, of_both=0.3)
    assert 0.005 < told(measure(contrasts, ScoreDraws(examples, 500))) < 0.07


def test_each_source_alone_misses_the_other() -> None:
    contrasts, examples = made_up(np.random.default_rng(0), 300, 3, of_seed=0.045, of_example=0.3)
    measured = measure(contrasts, ScoreDraws(examples, 500))
    assert told(measured, "examples_p") > 0.1
    assert told(measure(contrasts, ScoreDraws())) > 0.1
    assert told(measured) < 0.08


def test_real_differences_are_found() -> None:
    contrasts, examples = made_up(np.random.default_rng(0), 50, 3, of_seed=0.02, of_example=0.2, truth=8.0)
    measured = measure(contrasts, ScoreDraws(examples, 500))
    assert told(measured) > 0.8
    assert np.mean([one.total_low <= 8.0 <= one.total_high for one in measured]) > 0.85
    assert all(one.basis == "3 seeds and examples" and one.examples == EXAMPLES for one in measured)


def test_bootstrap_over_few_seeds_is_too_narrow_as_documented() -> None:
    contrasts, examples = made_up(np.random.default_rng(0), 300, 3, of_seed=0.03)
    measured = measure(contrasts, ScoreDraws(examples, 100))
    covered = np.mean([one.seeds_low <= 0.0 <= one.seeds_high for one in measured])
    assert covered == pytest.approx(0.75, abs=0.08)


def test_one_seed_is_told_by_examples_alone() -> None:
    contrasts, examples = made_up(np.random.default_rng(0), 1, 1, of_example=0.1, truth=5.0)
    (one,) = measure(contrasts, ScoreDraws(examples))
    assert one.basis == "examples alone (one seed)"
    assert (one.total_low, one.total_high, one.p) == (one.examples_low, one.examples_high, one.examples_p)
    assert one.total_low < 5.0 < one.total_high
    assert math.isnan(one.seeds_low)


def test_without_examples_seeds_alone_are_left() -> None:
    contrasts, _ = made_up(np.random.default_rng(0), 20, 3, of_seed=0.01, truth=2.0)
    measured = measure(contrasts, ScoreDraws())
    for contrast, one in zip(contrasts, measured, strict=True):
        assert one.basis == "3 seeds alone"
        assert one.reason == "predictions were not read"
        assert math.isnan(one.examples_p)
        assert one.total_low + one.total_high == pytest.approx(2 * contrast.mean)
        assert (one.p <= 0.05) == (one.total_low > 0.0 or one.total_high < 0.0)


def test_nothing_at_all_is_known_of_one_seed_without_examples() -> None:
    contrast = Contrast({0: 3.0}, {0: [(Scored("a", "en", "m"), Scored("b", "en", "m"))]})
    (one,) = measure([contrast], ScoreDraws())
    assert one.reason == "one seed, and predictions were not read"
    assert math.isnan(one.p)
    assert measure([Contrast({}, {})], ScoreDraws()) == [pytest.approx(Uncertainty(), nan_ok=True)]


def test_seeds_that_agree_to_the_last_digit_say_nothing_of_chance() -> None:
    pair = (Scored("a", "en", "m"), Scored("b", "en", "m"))
    (one,) = measure([Contrast({0: 3.0, 1: 3.0}, {0: [pair], 1: [pair]})], ScoreDraws())
    assert math.isnan(one.p)
    assert one.reason.startswith("all seeds give the very same difference")


def test_first_and_second_may_change_places() -> None:
    contrasts, examples = made_up(np.random.default_rng(3), 5, 2, of_seed=0.02, of_example=0.2, truth=3.0)
    turned = [
        Contrast(
            {seed: -value for seed, value in contrast.differences.items()},
            {seed: [(pair[1], pair[0]) for pair in pairs] for seed, pairs in contrast.pairs.items()},
        )
        for contrast in contrasts
    ]
    for one, other in zip(measure(contrasts, ScoreDraws(examples)), measure(turned, ScoreDraws(examples)), strict=True):
        assert one.examples_low == pytest.approx(-other.examples_high, abs=1e-3)
        assert one.examples_p == pytest.approx(other.examples_p, abs=1e-9)
        assert one.p == pytest.approx(other.p, rel=1e-3)
        width = one.total_high - one.total_low
        assert one.total_low == pytest.approx(-other.total_high, abs=0.05 * width)  # other draws of the same tails


def test_same_seed_gives_the_same_and_another_seed_hardly_another() -> None:
    contrasts, examples = made_up(np.random.default_rng(0), 3, 2, of_seed=0.02, of_example=0.2)
    once, again, other = (measure(contrasts, ScoreDraws(examples, seed=seed)) for seed in (1, 1, 2))
    assert once == again
    assert once != other
    for one, another in zip(once, other, strict=True):
        assert one.examples_low == pytest.approx(another.examples_low, abs=0.1 * (one.examples_high - one.examples_low))


def test_models_of_other_examples_are_not_paired() -> None:
    ones = np.ones(4)
    outcomes = {
        (key, "en", "m"): Outcomes(ones, ones, 100.0, ("task", "en", place)) for place, key in enumerate(("a", "b"))
    }
    contrast = Contrast({0: 0.0}, {0: [(Scored("a", "en", "m"), Scored("b", "en", "m"))]})
    (one,) = measure([contrast], ScoreDraws(Examples(outcomes)))
    assert "tested on different examples of en" in one.reason


def test_average_is_over_the_seeds_of_all_and_surer_than_its_parts() -> None:
    contrasts, examples = made_up(np.random.default_rng(0), 6, 3, of_seed=0.02, of_example=0.2, truth=4.0)
    mean = average(contrasts)
    assert mean.mean == pytest.approx(np.mean([contrast.mean for contrast in contrasts]))
    draws = ScoreDraws(examples)
    (whole,), parts = measure([mean], draws), measure(contrasts, draws)
    assert whole.examples == 6 * EXAMPLES
    width = np.mean([part.examples_high - part.examples_low for part in parts])
    assert whole.examples_high - whole.examples_low == pytest.approx(width / math.sqrt(6), rel=0.15)
    assert whole.examples_p < min(part.examples_p for part in parts) + 1e-3
    fewer = Contrast({0: 1.0}, {0: contrasts[0].pairs[0]})
    assert average([*contrasts, fewer]).differences.keys() == {0}


def test_average_over_a_test_set_that_cells_share_is_no_surer() -> None:
    contrasts, examples = made_up(np.random.default_rng(0), 1, 1, of_example=0.2)
    draws = ScoreDraws(examples)
    (one,), (whole,) = measure(contrasts, draws), measure([average(contrasts * 4)], draws)
    assert whole.examples == EXAMPLES
    assert (whole.examples_low, whole.examples_high) == pytest.approx((one.examples_low, one.examples_high), abs=1e-4)
