from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import analysis
from analysis import figures
from analysis.study import Study
from analysis.tradeoff import tradeoff
from raylab.config import VARIANTS


def test_heatmap_shows_the_differences(results: analysis.Results) -> None:
    figure = figures.interference_heatmap(results.interference(), results.study)
    ner, pos = figure.axes[:2]
    assert [ner.get_title(), pos.get_title()] == ["NER (F1)", "POS (F1)"]
    assert [label.get_text() for label in ner.get_xticklabels()] == ["joint", "adapter"]
    places = ["en  in  en-fr", "fr  in  en-fr", "en  in  en-hi", "hi  in  en-hi"]
    assert [label.get_text() for label in ner.get_yticklabels()] == places
    values = np.ma.filled(ner.images[0].get_array(), np.nan)
    np.testing.assert_allclose(values, [[2.5, 0.0], [1.5, -1.5], [3.0, np.nan], [-2.0, np.nan]])
    assert np.isnan(np.ma.filled(pos.images[0].get_array(), np.nan)[3]).all()
    printed = {text.get_position(): text.get_text() for text in ner.texts}
    # Half the interval with the moderated variance; Student's of this cell alone would be ±6.4.
    cell = results.interference().query("languages == 'en-fr' and language == 'en' and variant == 'joint'").iloc[0]
    assert printed[0, 0] == f"+2.5\n±{(cell['total_high'] - cell['total_low']) / 2:.1f}"
    assert printed[0, 3].startswith("−2.0\n±")
    assert printed[1, 3] == "–"


def test_interference_is_red_and_zero_is_white(results: analysis.Results) -> None:
    image = figures.interference_heatmap(results.interference(), results.study).axes[0].images[0]
    assert image.norm(0.0) == 0.5
    red, _, blue = to_rgb(image.cmap(image.norm(3.0)))
    assert red > blue
    red, _, blue = to_rgb(image.cmap(image.norm(-2.0)))
    assert red < blue


def test_scatter_shows_each_variant_and_mono_as_a_line(results: analysis.Results) -> None:
    figure = figures.tradeoff_scatter(tradeoff(results.best(), results.study), results.study)
    ner = figure.axes[0]
    points = {
        dots.get_label(): dots.get_offsets()[0].tolist() for dots in ner.collections if dots.get_label()[0] != "_"
    }
    assert points == {"joint": [69.0, 50.5], "adapter": [72.0, 52.0]}
    (line,) = [line for line in ner.lines if line.get_label() == "mono"]
    assert set(line.get_xdata()) == {70.5}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mono", "joint", "adapter"]
    assert ner.get_xlabel() == "within-language test F1 (%)"


def test_variants_have_styles_of_their_own() -> None:
    styles = list(figures._STYLES.values())
    assert len(styles) == len(VARIANTS) - 1  # mono is a line
    assert len({colour for colour, _ in styles}) == len({marker for _, marker in styles}) == len(styles)


@pytest.mark.parametrize("variants", [("mono", "joint"), ("mono", "joint", "external")])
def test_small_studies_are_drawn(results: analysis.Results, tmp_path: Path, variants: tuple[str, ...]) -> None:
    study = Study("a study with a rather long name", results.study.language_sets, variants, ("ner",))
    file = tmp_path / "figure.png"
    for figure in (
        figures.interference_heatmap(analysis.interference.interference(results.best(), study), study),
        figures.tradeoff_scatter(tradeoff(results.best(), study), study),
    ):
        figures.save(figure, file)
        pixels = matplotlib.image.imread(file)
        assert pixels.shape[1] >= 1000
        assert pixels[..., :3].std() > 0.01
