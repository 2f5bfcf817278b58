from __future__ import annotations

import doctest
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylab.data import sampling
from raylab.data.sampling import language_probabilities, sample_language
from raylab.errors import InputError

SIZES = st.dictionaries(st.sampled_from(["en", "fr", "ru", "ar", "hi", "sw", "te"]), st.integers(1, 10**9), min_size=1)
TEMPERATURES = st.floats(0.05, 1e6)


@given(sizes=SIZES, temperature=TEMPERATURES)
def test_sums_to_one(sizes: dict[str, int], temperature: float) -> None:
    probabilities = language_probabilities(sizes, temperature)
    assert list(probabilities) == list(sizes)
    assert math.isclose(math.fsum(probabilities.values()), 1.0, rel_tol=1e-12)
    assert all(0 <= probability <= 1 for probability in probabilities.values())


@given(sizes=SIZES)
def test_temperature_one_is_proportional(sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    assert language_probabilities(sizes, 1.0) == pytest.approx(
        {language: size / total for language, size in sizes.items()}
    )


@given(sizes=SIZES)
def test_infinite_temperature_is_uniform(sizes: dict[str, int]) -> None:
    uniform = dict.fromkeys(sizes, 1 / len(sizes))
    assert language_probabilities(sizes, math.inf) == pytest.approx(uniform)
    assert language_probabilities(sizes, 1e9) == pytest.approx(uniform, rel=1e-6)


@given(sizes=SIZES, temperature=st.floats(0.5, 100))
def test_follows_the_formula(sizes: dict[str, int], temperature: float) -> None:
    probabilities = language_probabilities(sizes, temperature)
    total = sum(sizes.values())
    weights = {language: (size / total) ** (1 / temperature) for language, size in sizes.items()}
    scale = sum(weights.values())
    assert probabilities == pytest.approx({language: weight / scale for language, weight in weights.items()})


@given(sizes=SIZES, temperatures=st.tuples(TEMPERATURES, TEMPERATURES))
def test_monotone_in_size_and_temperature(sizes: dict[str, int], temperatures: tuple[float, float]) -> None:
    colder, warmer = (language_probabilities(sizes, temperature) for temperature in sorted(temperatures))
    ordered = sorted(sizes, key=lambda language: sizes[language])
    for probabilities in (colder, warmer):
        assert all(probabilities[a] <= probabilities[b] * (1 + 1e-12) for a, b in pairwise(ordered))
    assert colder[ordered[0]] <= warmer[ordered[0]] * (1 + 1e-9)
    assert colder[ordered[-1]] >= warmer[ordered[-1]] * (1 - 1e-9)


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match=r"pretrain\.temperature"):
        language_probabilities({"en": 1}, temperature)


@pytest.mark.parametrize("size", [0, -5])
def test_a_size_that_is_not_positive_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"language 'fr' has size {size}"):
        language_probabilities({"en": 1, "fr": size}, 1.0)


def test_no_language_is_refused() -> None:
    with pytest.raises(InputError, match="no language"):
        language_probabilities({}, 1.0)


def test_samples_in_proportion() -> None:
    probabilities = {"en": 0.7, "fr": 0.3, "sw": 0.0}
    drawn = [sample_language(probabilities, 0, step) for step in range(2000)]
    assert 1318 < drawn.count("en") < 1482  # 4 standard deviations about 1400
    assert drawn.count("en") + drawn.count("fr") == 2000


def test_sampling_is_a_function_of_seed_and_step() -> None:
    probabilities = {"en": 0.5, "fr": 0.3, "ar": 0.2}
    forwards = [sample_language(probabilities, 1, step) for step in range(50)]
    turned = dict(reversed(probabilities.items()))
    assert [sample_language(turned, 1, step) for step in reversed(range(50))] == forwards[::-1]
    assert [sample_language(probabilities, 2, step) for step in range(50)] != forwards


def test_examples() -> None:
    assert doctest.testmod(sampling).failed == 0
    assert doctest.testmod(sampling).attempted > 0
