from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from measured_store import (
    LOSS_STEPS,
    STEPS,
    WARMUP,
    gradient_cosine,
    log_alpha,
    loss,
    mask_cosine,
    perplexity,
    write_curves,
)

import analysis
from analysis import measurements
from raylab.errors import InputError
from raylab.model.places import Place


@pytest.fixture(scope="session")
def measured_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("curves")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    write_curves(uri, folder / "jobs")
    return uri


@pytest.fixture(scope="session")
def measured(measured_store: str) -> analysis.Results:
    return analysis.load("curves", measured_store)


def test_perplexities(measured: analysis.Results) -> None:
    frame = measurements.perplexities(measured)
    assert set(frame["variant"]) == {"mono", "joint"}
    assert len(frame) == (3 + 2 * 2) * 2 * len(STEPS)  # English, Hindi and Swahili alone, and two pairs; two seeds
    row = frame[(frame["languages"] == "en-sw") & (frame["language"] == "sw") & (frame["seed"] == 1)]
    assert row["value"].to_list() == [perplexity("joint", "sw", step, 1) for step in STEPS]


def test_training_losses(measured: analysis.Results) -> None:
    frame = measurements.training_losses(measured)
    assert set(frame["warmup_steps"]) == {WARMUP}
    own = frame[(frame["variant"] == "adapter") & (frame["languages"] == "en-hi") & (frame["seed"] == 0)]
    assert own.set_index("step")["value"].to_dict() == {step: loss("adapter", step, 0) for step in LOSS_STEPS}


@pytest.mark.parametrize(
    ("by", "places"),
    [
        (None, {Place(None, None)}),
        ("layer", {Place(None, None), Place(0, None), Place(1, None)}),
        ("module", {Place(None, None), Place(None, "attention"), Place(None, "ffn")}),
    ],
)
def test_gradient_cosines(measured: analysis.Results, by: str | None, places: set[Place]) -> None:
    frame = measurements.gradient_cosines(measured, by)
    columns = ["layer", "module", "first", "second", "seed", "step", "value"]
    found = set()
    for layer, module, first, second, seed, step, value in frame[columns].itertuples(index=False):
        place = Place(None if pd.isna(layer) else layer, None if pd.isna(module) else module)
        found.add(place)
        assert value == gradient_cosine(first, second, place, step, seed)
    assert found == places
    assert len(frame) == len(places) * 2 * 3 * 2 * len(STEPS)


@pytest.mark.parametrize("by", [None, "layer", "module"])
def test_gradient_cosines_of_training_where_nothing_was_probed(by: str | None, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    options: dict[str, Any] = {"variants": ("mono", "joint"), "finetune": False}
    write_curves(uri, tmp_path / "jobs", study="watched", probes=(), watched=True, **options)
    write_curves(uri, tmp_path / "jobs", study="probed", **options)
    watched, probed = (measurements.gradient_cosines(analysis.load(name, uri), by) for name in ("watched", "probed"))
    assert len(watched) == len(probed)
    columns = list(watched.columns)
    pd.testing.assert_frame_equal(*(f.sort_values(columns, ignore_index=True) for f in (watched, probed)))


def test_a_probe_goes_before_what_training_saw(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    sizes: dict[str, Any] = {"variants": ("joint",), "seeds": (0,), "sets": [("en", "hi")], "finetune": False}
    write_curves(uri, tmp_path / "jobs", probes=("gradients",), watched=True, **sizes)
    assert len(measurements.gradient_cosines(analysis.load("curves", uri))) == 3 * len(STEPS)


def test_gradient_cosines_by_something_else(measured: analysis.Results) -> None:
    with pytest.raises(ValueError, match="by layer or by module; found 'head'"):
        measurements.gradient_cosines(measured, "head")


def test_mask_cosines(measured: analysis.Results) -> None:
    frame = measurements.mask_cosines(measured)
    assert len(frame) == 2 * 2 * 3 * 9
    row = frame[(frame["languages"] == "en-sw") & (frame["first"] == "en") & (frame["second"] == "sw")]
    row = row[(row["layer"] == 1) & (row["module"] == "ffn") & (row["seed"] == 1)]
    assert row["value"].item() == mask_cosine("en", "sw", Place(1, "ffn"), 1)


def test_mask_groups(measured: analysis.Results) -> None:
    groups = measurements.mask_groups(measured, "en-hi")
    assert len(groups) == 2 * 2 * 8
    mean = (log_alpha(3, "hi", 0) + log_alpha(3, "hi", 1)) / 2
    assert groups.loc["layer.1.ffn.inner.3", "hi"] == pytest.approx(2 * mean)
    # Row 0 alone is kept for English by both masks, and pruned for Hindi by both.
    assert set(groups.index[groups["specific"]]) == {
        f"layer.{layer}.{module}.inner.0" for layer in (0, 1) for module in ("attention", "ffn")
    }


def test_groups_that_cannot_be_reached(measured: analysis.Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="study 'curves' has no finished pruning probe of joint en-ru"):
        measurements.mask_groups(measured, "en-ru")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_curves(uri, tmp_path / "jobs", sets=[("en", "hi")], variants=("joint",), seeds=(0,), probes=("pruning",))
    (tmp_path / "jobs" / "pruning-en-hi-0" / "groups.parquet").unlink()
    with pytest.raises(InputError, match=r"pruning-en-hi-0/groups.parquet: the groups .* cannot be read from here"):
        measurements.mask_groups(analysis.load("curves", uri), "en-hi")


def test_over_seeds() -> None:
    frame = pd.DataFrame({"variant": "a", "seed": [0, 1, 0], "step": [2, 2, 1], "value": [1.0, 3.0, 5.0]})
    assert measurements.over_seeds(frame).to_dict("list") == {
        "variant": ["a", "a"],
        "step": [1, 2],
        "value": [5.0, 2.0],
        "low": [5.0, 1.0],
        "high": [5.0, 3.0],
    }


def test_smoothing_keeps_a_constant_and_the_mean_of_a_bin() -> None:
    frame = pd.DataFrame(
        {"variant": ["a"] * 100 + ["b"] * 100, "step": [*range(1, 101)] * 2, "value": [2.0] * 100 + [*range(100)]}
    )
    few = measurements.smoothed(frame, points=1).set_index("variant")
    assert few["value"].to_dict() == {"a": 2.0, "b": 49.5}
    assert set(few["step"]) == {50.5}
    more = measurements.smoothed(frame, points=10)
    assert (more.groupby("variant").size() <= 10).all()
    assert more.loc[more["variant"] == "b", "value"].is_monotonic_increasing
    assert more.loc[more["variant"] == "a", "step"].to_list() == more.loc[more["variant"] == "b", "step"].to_list()


def test_nothing_was_measured(results: analysis.Results) -> None:
    assert measurements.gradient_cosines(results).empty
    assert measurements.mask_cosines(results).empty
    assert measurements.training_losses(results).empty
    assert measurements.smoothed(measurements.training_losses(results)).empty


def test_of_several_recipes_the_chosen_one_is_drawn(results: analysis.Results) -> None:
    # The adapter model of en-fr has the recipes warm and cold; warm is better on dev.
    jobs = [job for job in measurements.jobs(results, "pretrain") if job.variant == "adapter"]
    assert {job.tags["recipe"] for job in jobs} == {"warm"}
