from __future__ import annotations

import pytest

from analysis.reference import AVERAGE, CELL, paper_languages, paper_scores

MISPRINT = (7, "within", "qa", "em", "meta_adapter")


def test_every_number_of_the_paper_is_there() -> None:
    scores = paper_scores()
    # Rows times columns: 15 x 13, 15 x 5, 4 x 4, (2 + 1) x 8 and as many x 2 x 2 metrics, 7 x 6, 15 x 5 x 2 metrics.
    assert scores.groupby("table").size().to_dict() == {2: 195, 3: 75, 4: 16, 5: 36, 6: 42, 7: 150}
    assert not scores.duplicated(["table", *CELL]).any()
    assert scores["value"].between(0, 100).all()


@pytest.mark.parametrize(
    ("table", "cell", "value"),
    [
        (2, ("within", "ner", "f1", "mono", "en-ar", "ar"), 89.2),
        (2, ("zero_shot", "pos", "f1", "external", "en-te", "te"), 76.9),
        (4, ("zero_shot", "ner", "f1", "joint", "en-te-kn", "te"), 47.6),
        (5, ("within", "qa", "em", "joint", "en-ru_l", "en"), 50.2),
        (6, ("zero_shot", "nli", "accuracy", "ffn", "en-sw", "sw"), 34.8),
        (7, ("zero_shot", "qa", "em", "meta_adapter", "en-te", "te"), 17.7),
    ],
)
def test_numbers_stand_where_they_are_printed(table: int, cell: tuple[str, ...], value: float) -> None:
    scores = paper_scores()
    assert scores[scores["table"] == table].set_index(CELL)["value"][cell] == value


def test_printed_averages_are_those_of_their_rows_but_for_the_misprint() -> None:
    row = ["table", "setting", "task", "metric", "variant"]
    scores = paper_scores().query("table in (2, 3, 6, 7)")
    is_average = scores["language"] == AVERAGE
    printed = scores[is_average].set_index(row)["value"]
    computed = scores[~is_average].groupby(row)["value"].mean()
    assert len(printed) == len(computed) == 15 * 2 + 15 + 7 + 15 * 2
    off = (printed - computed).abs() > 0.05 + 1e-9
    assert printed.index[off.reindex(printed.index)].to_list() == [MISPRINT]
    assert (printed[MISPRINT], computed[MISPRINT]) == (36.4, pytest.approx(46.9))


def test_tables_that_print_the_same_score_agree() -> None:
    scores = paper_scores()
    scores = scores[scores["language"] != AVERAGE]
    assert (scores.groupby(CELL)["value"].nunique() == 1).all()


def test_languages_of_the_tasks() -> None:
    assert ("pos", "sw") not in paper_languages(("ner", "pos"))
    assert {language for _, language in paper_languages(("nli",))} == {"ar", "fr", "ru", "hi", "sw"}


def test_what_is_returned_may_be_changed() -> None:
    scores = paper_scores()
    scores["value"] = 0.0
    assert paper_scores()["value"].max() > 90
