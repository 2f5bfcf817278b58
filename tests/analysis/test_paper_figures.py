from __future__ import annotations

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from measured_store import LOSS_STEPS, STEPS, WARMUP, gradient_cosine, loss, mask_cosine, perplexity, write_curves
from paper_study import STUDIES, paper_as_best

import analysis
from analysis.figures import PALETTE, save, variant_style
from analysis.paper_figures import figure_1
from raylab.errors import InputError
from raylab.model.places import Place


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> analysis.Results:
    folder = tmp_path_factory.mktemp("figures")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    write_curves(uri, folder / "jobs")
    return analysis.load("curves", uri)


def lines(panel: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """x and y of what has a label."""
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in panel.lines
        if not line.get_label().startswith("_")
    }


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_figure_1_draws_the_papers_bars() -> None:
    study = STUDIES["variants"]
    best = paper_as_best(study)
    figure = figure_1(SimpleNamespace(study=study, best=lambda: best))  # type: ignore[arg-type]
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ar", "fr", "ru", "hi", "sw", "te"]
    heights: dict[str, list[float]] = {}
    for bars in axes.containers:
        heights.setdefault(bars.get_label(), []).extend(bar.get_height() for bar in bars)
    assert heights == {
        "mono": [89.2, 88.0, 87.8, 89.1, 85.1, 82.1],
        "joint": [86.9, 86.5, 84.2, 88.3, 86.1, 76.2],
        "external": [89.4, 87.5, 85.5, 88.5, 86.3, 80.5],
    }
    assert axes.get_ylim()[0] == 0
    assert legend(figure) == ["mono", "joint", "external"]
    assert "87.8" in [text.get_text() for text in axes.texts]


def test_figure_1_has_whiskers_over_seeds(results: analysis.Results) -> None:
    (axes,) = results.figure_of_paper(1).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["fr", "hi"]
    mono_french = axes.containers[1] if axes.containers[0].get_label() == "_nolegend_" else axes.containers[0]
    assert mono_french.errorbar is not None


def test_figure_2_draws_mono_beside_joint(measured: analysis.Results) -> None:
    figure = measured.figure_of_paper(2)
    assert [panel.get_title() for panel in figure.axes] == ["hi", "sw"]
    for panel in figure.axes:
        language = panel.get_title()
        drawn = lines(panel)
        for variant in ("mono", "joint"):
            mean = [np.mean([perplexity(variant, language, step, seed) for seed in (0, 1)]) for step in STEPS]
            assert drawn[variant] == (list(STEPS), pytest.approx(mean))
        assert len(panel.collections) == 2  # bands over seeds
    assert legend(figure) == ["mono", "joint"]


def test_figure_2_of_the_source_has_a_line_for_each_model(measured: analysis.Results) -> None:
    (panel,) = measured.figure_of_paper(2, languages=["en"]).axes
    assert list(lines(panel)) == ["mono", "joint en-hi", "joint en-sw"]
    assert len({line.get_color() for line in panel.lines}) == 3


def test_figure_3_draws_pairs_and_the_baseline(measured: analysis.Results) -> None:
    figure = measured.figure_of_paper(3)
    (panel,) = figure.axes
    drawn = lines(panel)
    for language in ("hi", "sw"):
        mean = [
            np.mean([gradient_cosine("en", language, Place(None, None), s, seed) for seed in (0, 1)]) for s in STEPS
        ]
        assert drawn[f"en-{language}"] == (list(STEPS), pytest.approx(mean))
    dashed = [line for line in panel.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    baseline = [np.mean([gradient_cosine("en", "en", Place(None, None), s, seed) for seed in (0, 1)]) for s in STEPS]
    assert [list(line.get_ydata()) for line in dashed] == [pytest.approx(baseline)] * 2
    solid = {line.get_label(): line.get_color() for line in panel.lines}
    assert {line.get_color() for line in dashed} == {solid["en-hi"], solid["en-sw"]}
    assert legend(figure) == ["en-hi", "en-sw", "within en"]


def test_figure_3_by_layer(measured: analysis.Results) -> None:
    figure = measured.figure_of_paper(3, by="layer")
    assert [panel.get_title() for panel in figure.axes] == ["all shared parameters", "layer 0", "layer 1"]
    mean = [np.mean([gradient_cosine("en", "hi", Place(1, None), s, seed) for seed in (0, 1)]) for s in STEPS]
    assert lines(figure.axes[2])["en-hi"][1] == pytest.approx(mean)
    # The baseline is the mean over the model's languages here.
    dashed = next(line for line in figure.axes[2].lines if line.get_linestyle() == "--")
    within = [
        np.mean([gradient_cosine(own, own, Place(1, None), s, seed) for seed in (0, 1) for own in ("en", "hi")])
        for s in STEPS
    ]
    assert list(dashed.get_ydata()) == pytest.approx(within)


def test_figure_4_has_its_three_parts(measured: analysis.Results) -> None:
    figure = measured.figure_of_paper(4)
    attention, ffn, groups, losses = figure.axes
    for panel, module in ((attention, "attention"), (ffn, "ffn")):
        drawn = lines(panel)
        mean = [np.mean([mask_cosine("en", "sw", Place(layer, module), seed) for seed in (0, 1)]) for layer in (0, 1)]
        assert drawn["en-sw"] == ([0, 1], pytest.approx(mean))
        assert drawn["within a language (repeat)"][1] > drawn["en-sw"][1]
    names = [label.get_text() for label in groups.get_yticklabels()]
    assert len(names) == len(set(names)) <= 20
    bold = {label.get_text() for label in groups.get_yticklabels() if label.get_fontweight() == "bold"}
    assert bold == {f"{layer}.{module}.inner.0" for layer in (0, 1) for module in ("attention", "ffn")}
    target, source = (dots for dots in groups.collections if dots.get_label() in ("hi", "en"))
    assert np.abs(target.get_offsets()[:, 0]).max() == pytest.approx(1.0)
    assert (np.diff(target.get_offsets()[:, 0]) >= 0).all()
    assert source.get_offsets()[0, 0] > 0 > target.get_offsets()[0, 0]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["joint", "adapter", "meta_adapter"]


def test_training_loss_begins_after_the_warm_up(measured: analysis.Results) -> None:
    (panel,) = measured.figure_of_paper(4, parts="c").axes
    for variant in ("joint", "adapter"):
        steps, values = lines(panel)[variant]
        assert min(steps) > WARMUP
        after = [np.mean([loss(variant, step, seed) for seed in (0, 1)]) for step in LOSS_STEPS if step > WARMUP]
        assert values[0] == pytest.approx(after[0], abs=0.02)
        assert min(after) - 1e-9 <= min(values) < max(values) <= max(after) + 1e-9


def test_the_most_language_specific_groups(measured: analysis.Results) -> None:
    (panel,) = measured.figure_of_paper(4, parts="b", specific=True, languages="en-sw").axes
    names = {label.get_text() for label in panel.get_yticklabels()}
    assert names == {f"{layer}.{module}.inner.0" for layer in (0, 1) for module in ("attention", "ffn")}
    assert "joint en-sw" in panel.get_title()


def test_groups_out_of_reach_are_said_in_their_panel(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_curves(uri, tmp_path / "jobs", sets=[("en", "hi")], variants=("joint",), seeds=(0,), probes=("pruning",))
    (tmp_path / "jobs" / "pruning-en-hi-0" / "groups.parquet").unlink()
    figure = analysis.load("curves", uri).figure_of_paper(4)
    assert len(figure.axes) == 3  # no losses: joint alone
    assert "cannot be read from here" in figure.axes[2].texts[0].get_text()


def test_a_study_that_finetunes_nothing_has_figures(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_curves(uri, tmp_path / "jobs", variants=("joint",), seeds=(0,), finetune=False)
    results = analysis.load("curves", uri)
    assert list(dict.fromkeys(lines(results.figure_of_paper(3).axes[0]))) == ["en-hi", "en-sw", "within en"]
    assert len(results.figure_of_paper(4).axes) == 3
    with pytest.raises(InputError, match="table 2 of the paper is of NER or POS; study 'curves' has no task"):
        results.table_of_paper(2)


@pytest.mark.parametrize(
    ("number", "options", "message"),
    [
        (5, {}, "figure 5 of the paper is not drawn here; these are: 1, 2, 3, 4"),
        (1, {"task": "qa"}, "study 'toy' has no scores of either, python -m raylab.sweep variants"),
        (2, {"languages": ["de"]}, "study 'toy' has no curves of both in de, python -m raylab.sweep corpus_size"),
        (3, {}, "study 'toy' has none of joint that measured anything, python -m raylab.sweep gradient_conflict"),
        (4, {}, "study 'toy' has none for a, b, c: python -m raylab.sweep parameter_sharing"),
    ],
)
def test_a_study_without_the_data_is_told_which_has_it(
    results: analysis.Results, number: int, options: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        results.figure_of_paper(number, **options)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_figures_can_be_saved(measured: analysis.Results, tmp_path: Path, number: int) -> None:
    save(measured.figure_of_paper(number), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_colours_differ_in_more_than_hue() -> None:
    """What red-green blindness leaves, yellow and blue, tells the first six colours apart."""

    def coordinates(colour: str) -> np.ndarray:
        red, green, blue = (int(to_hex(colour)[place : place + 2], 16) / 255 for place in (1, 3, 5))
        return np.array([0.5 * (red + green), blue])

    assert variant_style("mono")[0] not in PALETTE
    for first, second in combinations(PALETTE[:6], 2):
        assert np.abs(coordinates(first) - coordinates(second)).max() > 0.1, (first, second)
