from __future__ import annotations

import io
import math
import shlex
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from paper_study import STUDIES, known, paper_as_best, paper_table

import analysis
from analysis.paper import layout, missing_jobs, printed, table, written
from analysis.study import Study
from raylab.errors import InputError
from raylab.study import load_study

WITHIN, ZERO_SHOT = "Within-language Monolingual", "Zero-shot Cross-lingual"
NER, POS = "NER (F1)", "POS (F1)"
Make = Callable[[dict], pd.DataFrame]


def test_table_2_of_the_known_study(results: analysis.Results) -> None:
    table = results.table_of_paper(2)
    models = ["JointPair", "+ ffn", "+ attn", "+ adpt", "+ share adpt", "+ meta adpt"]
    assert table.index.to_list() == [
        (WITHIN, "Mono"),
        *((WITHIN, m) for m in models),
        *((ZERO_SHOT, m) for m in models),
    ]
    # English is the source and has no column; Hindi has no POS.
    columns = [(NER, "fr"), (NER, "hi"), (NER, "avg"), (POS, "fr"), (POS, "avg")]
    assert table.columns.to_list() == columns
    assert table.loc[(WITHIN, "Mono")].to_list() == [70.5, 60.5, 65.5, 80.5, 80.5]
    assert table.loc[(WITHIN, "JointPair")].to_list() == [69.0, 62.5, 65.75, 79.0, 79.0]
    assert table.loc[(ZERO_SHOT, "JointPair")].to_list() == [50.5, 40.0, 45.25, 60.5, 60.5]
    # Without Hindi, no average that could be compared with the other rows'.
    assert table.loc[(WITHIN, "+ adpt")].to_list() == pytest.approx([72.0, math.nan, math.nan, 82.0, 82.0], nan_ok=True)
    assert table.loc[[(WITHIN, "+ ffn"), (ZERO_SHOT, "+ meta adpt")]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("number", "shape", "row", "values"),
    [
        (
            2,
            (15, 13),
            (WITHIN, "+ attn"),
            [87.3, 86.8, 84.1, 88.5, 84.9, 77.4, 84.8, 91.8, 75.4, 94.4, 95.3, 90.9, 89.6],
        ),
        (3, (15, 5), (ZERO_SHOT, "+ meta adpt"), [57.5, 45.8, 43.0, 23.1, 42.4]),
        (6, (7, 6), (ZERO_SHOT, "JointPair"), [67.1, 73.5, 69.2, 61.5, 62.3, 66.7]),
        # The average of exact match is computed; the paper misprints it as 36.4.
        (7, (15, 10), (WITHIN, "+ meta adpt"), [73.0, 61.8, 54.5, 56.2, 61.4, 61.4, 46.7, 40.0, 39.5, 46.9]),
    ],
)
def test_tables_of_variants_are_the_papers(
    number: int, shape: tuple[int, int], row: tuple[str, str], values: list[float]
) -> None:
    study = STUDIES["variants"]
    table = paper_table(number, paper_as_best(study), study)
    assert table.shape == shape
    assert table.notna().all(axis=None)
    assert table.loc[row].to_list() == pytest.approx(values, abs=0.0501)


def test_table_4_sets_trios_beside_pairs() -> None:
    study = STUDIES["language_similarity"]
    table = paper_table(4, paper_as_best(study), study)
    assert table.columns.to_list() == [(NER, "hi"), (NER, "te"), (POS, "hi"), (POS, "te")]
    assert {row: values.to_list() for row, values in table.iterrows()} == {
        (WITHIN, "JointPair"): [88.3, 76.2, 95.2, 88.7],
        (WITHIN, "JointTri"): [87.8, 76.4, 95.3, 88.7],
        (ZERO_SHOT, "JointPair"): [61.4, 45.2, 58.9, 72.8],
        (ZERO_SHOT, "JointTri"): [63.5, 47.6, 59.5, 74.4],
    }


def test_table_4_names_the_sets_where_a_language_has_several(chosen_scores: Make) -> None:
    sets = (("en", "hi"), ("en", "hi", "mr"), ("en", "hi", "te"), ("en", "te", "kn"))
    cells = {("joint", "-".join(languages), "ner", "hi", "hi"): {0: 1.0 * n} for n, languages in enumerate(sets[:3])}
    table = paper_table(4, chosen_scores(cells), Study("s", sets, ("joint",), ("ner",)))
    assert table.loc[WITHIN, (NER, "hi")].to_dict() == {
        "JointPair": 0.0,
        "JointTri en-hi-mr": 1,
        "JointTri en-hi-te": 2,
    }


def test_table_5_is_of_languages_with_less_text() -> None:
    study = STUDIES["corpus_size"]
    table = paper_table(5, paper_as_best(study), study)
    targets = ["fr", "fr_l", "ru", "ru_l"]
    of_targets, of_source = (f"Within-language Performance on {names}" for names in ("fr/ru", "en"))
    # Swahili and Telugu are in the study for Figure 2. Of French the paper has QA on English neither.
    assert [column for column in table if column[0] == NER] == [(NER, target) for target in targets]
    assert table.index.to_list() == [(of_targets, "Mono"), (of_targets, "JointPair"), (of_source, "JointPair")]
    assert table[NER].to_numpy().tolist() == [
        [88.0, 81.7, 87.8, 82.4],
        [86.5, 83.2, 84.2, 82.7],
        [78.6, 78.4, 75.8, 75.9],
    ]
    shown = printed(table)["QA (F1/EM)"][["ru", "ru_l"]].to_numpy().tolist()
    assert shown == [["63.1/49.2", "47.2/29.5"], ["58.2/43.1", "49.5/30.4"], ["61.7/49.8", "62.1/50.2"]]


def test_table_5_without_smaller_corpora_is_of_all_pairs() -> None:
    study = STUDIES["language_similarity"]
    table = paper_table(5, paper_as_best(study), study)
    assert table[NER].columns.to_list() == ["hi", "te", "fr", "ru"]
    english = table.loc["Within-language Performance on en", NER].iloc[0]
    assert english[["fr", "ru"]].to_list() == [78.6, 75.8]


def test_target_of_several_sets_has_a_column_for_each(chosen_scores: Make) -> None:
    # Table 4, NER within language.
    cells = {
        ("mono", "hi", "ner", "hi", "hi"): {0: 89.1},
        ("joint", "en-hi", "ner", "hi", "hi"): {0: 88.3},
        ("joint", "en-hi-mr", "ner", "hi", "hi"): {0: 87.8},
        ("joint", "en-hi-mr", "ner", "mr", "mr"): {0: 80.0},
    }
    study = Study("s", (("en", "hi"), ("en", "hi", "mr")), ("mono", "joint"), ("ner",))
    table = paper_table(2, chosen_scores(cells), study)[NER]
    assert table.columns.to_list() == ["hi", "hi (en-hi-mr)", "mr", "avg"]
    assert table.loc[(WITHIN, "Joint")].to_list()[:3] == [88.3, 87.8, 80.0]
    assert table.loc[(WITHIN, "Mono")].to_list()[:2] == [89.1, 89.1]


@pytest.mark.parametrize(
    ("sets", "label"),
    [
        ((("en", "hi"),), "JointPair"),
        ((("en", "hi", "mr"), ("en", "te", "kn")), "JointTri"),
        ((("a", "b", "c", "d"),), "Joint"),
    ],
)
def test_joint_row_is_named_by_the_size_of_the_sets(
    chosen_scores: Make, sets: tuple[tuple[str, ...], ...], label: str
) -> None:
    cells = {("joint", "-".join(sets[0]), "ner", sets[0][1], sets[0][1]): {0: 1.0}}
    table = paper_table(2, chosen_scores(cells), Study("s", sets, ("joint",), ("ner",)))
    assert (WITHIN, label) in table.index


def test_other_variants_stand_last(chosen_scores: Make) -> None:
    cells = {("external", "en-hi", "ner", "hi", "hi"): {0: 1.0, 1: 2.0}}
    table = paper_table(2, chosen_scores(cells), Study("s", (("en", "hi"),), ("external",), ("ner",)))
    assert table.loc[WITHIN].index[-1] == "External"
    assert table.loc[(WITHIN, "External"), (NER, "hi")] == 1.5


def test_a_language_that_was_not_run_yet_has_the_columns_that_the_paper_gives_it(chosen_scores: Make) -> None:
    cells = {("joint", "en-ar", task, "ar", "ar"): {0: 1.0} for task in ("ner", "pos")}
    study = Study("s", (("en", "ar"), ("en", "sw"), ("en", "te"), ("en", "de")), ("joint",), ("ner", "pos"))
    table = paper_table(2, chosen_scores(cells), study)
    assert table[NER].columns.to_list() == ["ar", "sw", "te", "de", "avg"]
    assert table[POS].columns.to_list() == ["ar", "te", "de", "avg"]  # no Swahili POS; German is not the paper's
    assert table[NER, "te"].isna().all()


@pytest.mark.parametrize(
    ("number", "study", "message"),
    [
        (1, "variants", "table 1 of the paper has no layout here; these have: 2, 3, 4, 5, 6, 7"),
        (4, "variants", "no such sets, the study language_similarity has them"),
        (4, "corpus_size", "no such sets, the study language_similarity has them"),
    ],
)
def test_what_a_study_does_not_have_is_told(number: int, study: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout(number, STUDIES[study], frozenset())


def test_tables_of_other_tasks_are_told(results: analysis.Results) -> None:
    with pytest.raises(InputError, match="table 7 of the paper is of QA; study 'toy' has ner, pos, the study variants"):
        results.table_of_paper(7)


def test_no_job_is_missing_of_the_whole_paper() -> None:
    study = replace(STUDIES["variants"])
    best = paper_as_best(study)
    for number in (2, 3, 6, 7):
        assert missing_jobs(layout(number, study, known(best)), best, study).empty


def test_missing_cells_have_the_job_that_would_fill_them() -> None:
    study = Study("variants", STUDIES["variants"].language_sets, ("mono", "joint", "meta_adapter"), ("ner", "qa"))
    best = paper_as_best(study)
    gone = (best["variant"] == "meta_adapter") & (best["languages"] == "en-ru") & (best["setting"] == "zero_shot")
    best = best[~gone]
    arranged = layout(7, study, known(best))
    jobs = missing_jobs(arranged, best, study)
    empty = printed(table(arranged, best, study)).drop(columns="avg", level=1) == "–"
    assert len(jobs) == empty.to_numpy().sum() == 4 * 4 * 2 + 1  # four variants not run, and one cell
    (own,) = jobs[jobs["variant"] == "meta_adapter"].to_dict("records")
    assert own == {
        "row": f"{ZERO_SHOT}, + meta adpt",
        "column": "QA (F1/EM), ru",
        "variant": "meta_adapter",
        "languages": "en-ru",
        "task": "qa",
        "setting": "zero_shot",
        "train_language": "en",
        "eval_language": "ru",
        "state": "not run",
        "command": "python -m raylab.sweep variants",
    }
    (longer,) = set(jobs.loc[jobs["variant"] != "meta_adapter", "command"])
    *words, assignment = shlex.split(longer)
    assert words == ["python", "-m", "raylab.sweep", "variants", "--set"]
    # All at once: one sweep after the other would mark the runs of the first as stale.
    names = ["mono", "joint", "ffn", "attn", "adapter", "shared_adapter", "meta_adapter"]
    assert load_study("variants", [assignment]).variants == tuple(names)


def test_a_mono_model_is_missing_in_its_own_language(chosen_scores: Make) -> None:
    cells = {("joint", "en-hi", "ner", "hi", "hi"): {0: 1.0}, ("joint", "en-hi", "ner", "en", "hi"): {0: 1.0}}
    study = Study("mine", (("en", "hi"),), ("mono", "joint"), ("ner",))
    best = chosen_scores(cells)
    job = missing_jobs(layout(2, study, known(best)), best, study).iloc[0]
    assert (job["variant"], job["languages"], job["train_language"]) == ("mono", "hi", "hi")
    assert job["command"] == "python -m raylab.sweep mine.yaml"


def test_the_command_repeats_what_was_set() -> None:
    assignments = ["data.source=../my data", "seeds=[0, 1]", "pretrain.steps=100", "data.subsample={fr: 10}"]
    run = load_study("variants", assignments, "pocket")
    study = Study(run.study, run.languages, run.variants, ("ner",), run.model_dump(mode="json"))
    best = pd.DataFrame(
        columns=["variant", "languages", "task", "metric", "train_language", "eval_language", "seed", "value"]
    )
    command = missing_jobs(layout(2, study, frozenset()), best, study)["command"].iloc[0]
    program, name, *options = command.split(maxsplit=4)[2:]
    assert (program, name) == ("raylab.sweep", "variants")
    words = shlex.split(*options)
    assert words[:2] == ["--sizing", "pocket"]
    assert load_study("variants", [word for word in words[2:] if word != "--set"], "pocket") == run


def test_states_of_missing_jobs(results: analysis.Results) -> None:
    jobs = results.missing_jobs(2)
    assert set(jobs["state"]) == {"not run"}
    assert set(jobs.loc[jobs["variant"] == "adapter", "eval_language"]) == {"hi"}


@pytest.mark.parametrize("number", [2, 3, 6, 7])
def test_every_form_of_a_table(number: int) -> None:
    study = STUDIES["variants"]
    frame = paper_table(number, paper_as_best(study), study)
    forms = written(number, frame)
    back = pd.read_csv(io.StringIO(forms["csv"]))
    assert back.iloc[:, 2:].to_numpy().tolist() == frame.to_numpy().tolist()
    for form in ("txt", "md", "tex"):
        assert forms[form].count("+ meta adpt") == frame.index.get_level_values("model").to_list().count("+ meta adpt")
    assert max(map(len, forms["txt"].splitlines())) <= 100
    assert f"\\label{{tab:paper-{number}}}" in forms["tex"]


def test_a_table_as_text(chosen_scores: Make) -> None:
    cells = {("mono", "hi", "qa", "hi", "hi"): {0: 50.0}, ("joint", "en-hi", "qa", "en", "hi"): {0: 2.0, 1: 3.0}}
    study = Study("s", (("en", "hi"),), ("mono", "joint"), ("qa",))
    best = chosen_scores(cells)
    lines = written(7, paper_table(7, best, study))["txt"].splitlines()
    assert lines[:4] == [
        "                QA (F1/EM)",
        "model             hi     avg",
        "----------------------------",
        "Within-language Monolingual",
    ]
    assert lines[4].split() == ["Mono", "50.0/–", "50.0/–"]
    assert lines[13].split() == ["JointPair", "2.5/–", "2.5/–"]
