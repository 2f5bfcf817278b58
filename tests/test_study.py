"""A study file is read as it is meant, or refused with one line that says where and what."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylab.errors import InputError
from raylab.study import known_studies, load_study, value_at, with_values


@pytest.fixture
def write(tmp_path: Path):
    def write_study(text: str) -> str:
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_study


def test_every_study_that_comes_with_raylab_is_valid() -> None:
    assert "demo" in known_studies()
    for name in known_studies():
        assert load_study(name).study == name


@pytest.mark.parametrize("name", ["variants", "corpus_size", "language_similarity", "meta_adapter"])
def test_the_studies_of_the_paper_have_its_size_and_one_for_a_laptop(name: str) -> None:
    paper, pocket = load_study(name), load_study(name, sizing="pocket")
    sizes = (paper.model.num_layers, paper.model.dim, paper.model.num_heads, paper.model.ffn_dim)
    assert sizes == (8, 512, 12, 2048)
    assert (paper.pretrain.batch_size, paper.pretrain.steps, paper.data.vocab_size) == (512, 500_000, 32_000)
    assert pocket.study == f"{name}-pocket"
    assert pocket.model.dim < paper.model.dim
    assert pocket.scaling.num_workers == 1
    assert pocket.variants == paper.variants


def test_a_study_is_written_on_top_of_its_base_and_a_sizing_on_top_of_both(write, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text(
        "model: {dim: 32, num_heads: 4}\nseeds: [1, 2]\nsizings:\n  small: {model: {dim: 16}, seeds: [3]}\n"
    )
    path = write(
        "base: below/base.yaml\nstudy: s\nlanguages: [[en, fr]]\nmodel: {num_heads: 2}\n"
        "sizings:\n  small: {languages: [[en, hi]]}\n"
    )
    study, small = load_study(path), load_study(path, ["model.num_heads=8"], sizing="small")
    assert (study.study, study.model.dim, study.model.num_heads, study.seeds) == ("s", 32, 2, (1, 2))
    assert (small.study, small.model.dim, small.model.num_heads, small.seeds) == ("s-small", 16, 8, (3,))
    assert small.languages == (("en", "hi"),)


@pytest.mark.parametrize(
    ("text", "sizing", "parts"),
    [
        ("study: s\nlanguages: [[en, fr]]\n", "small", ["--sizing small", "it has none"]),
        ("study: s\nlanguages: [[en, fr]]\nsizings: {tiny: {}}\n", "small", ["--sizing small", "it has tiny"]),
        ("study: s\nlanguages: [[en, fr]]\nsizings: [tiny]\n", None, ["sizings: found ['tiny']"]),
        ("base: nowhere.yaml\nstudy: s\n", None, ["base: found 'nowhere.yaml'"]),
        ("base: study.yaml\nstudy: s\n", None, ["base: leads back"]),
    ],
)
def test_a_wrong_base_or_sizing_is_one_line(write, text: str, sizing: str | None, parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        load_study(write(text), sizing=sizing)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_study_needs_only_a_name_and_languages(write) -> None:
    study = load_study(write("study: s\nlanguages: [[en, fr]]\n"))
    assert study.variants == ("mono", "joint")
    assert study.pretrain.temperature == 1.0


def test_overrides_are_yaml_and_make_sections(write) -> None:
    path = write("study: s\nlanguages: [[en, fr]]\npretrain:\n")
    study = load_study(path, ["pretrain.learning_rate=1e-3", "model.dim=32", "seeds=[1, 2]"])
    assert (study.pretrain.learning_rate, study.model.dim, study.seeds) == (1e-3, 32, (1, 2))


def test_scalars_are_yaml_1_2(write) -> None:
    study = load_study(
        write("study: s\nlanguages: [[no, en]]\npretrain: {learning_rate: 5e-4}\nmeta: {relative: false}\n")
    )
    assert study.languages == (("no", "en"),)
    assert study.pretrain.learning_rate == 5e-4
    assert study.meta.relative is False


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("study: s\nlanguages: [[en, fr]]\nvariant: [mono]\n", ["variant: unknown field", "did you mean variants?"]),
        ("study: s\nlanguages: [[en, fr]]\nvariants: [mono, jiont]\n", ["variants.1", "'jiont'", "'joint'"]),
        ("study: s\nlanguages: [[en, fr]]\nfinetune: {tasks: [nerr]}\n", ["finetune.tasks.0", "'nerr'", "'ner'"]),
        (
            "study: s\nlanguages: [[en, fr]]\nmodel: {dim: 64, num_heads: 5}\n",
            ["model", "5 does not divide dim 64", "4, 8"],
        ),
        ("study: s\nlanguages: [[en, en]]\n", ["languages.0", "['en', 'en']"]),
        ("study: s\nlanguages: []\n", ["languages", "[en, fr]"]),
        ("study: s\n", ["languages: missing"]),
        ("study: s\nstudy: t\nlanguages: [[en, fr]]\n", [":2:", "'study' stands twice"]),
        ("study: [s\n", ["not valid YAML"]),
        ("- a\n- b\n", ["found list at the top"]),
        ("study: s\nlanguages: [[en, fr]]\ndata: {subsample: {de: 5}}\n", ["data.subsample.de", "['en', 'fr']"]),
        (
            "study: s\nlanguages: [[en, fr]]\npretrain: {sequence_length: 600}\n",
            ["pretrain.sequence_length", "600", "512"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nfinetune: {grid: {batch_size: [16]}}\n",
            ["finetune.grid.learning_rate: missing"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nfinetune: {grid: {batch_size: [1.5], learning_rate: [1]}}\n",
            ["finetune.grid.batch_size.0: found 1.5", "integer"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nfinetune: {grid: {batch_size: [], learning_rate: [1]}}\n",
            ["finetune.grid.batch_size: found []", "at least 1"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nfinetune: {nli: {epoch: 3}}\n",
            ["finetune.nli.epoch: unknown field", "did you mean epochs?"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nfinetune: {tasks: [qa], qa: {max_length: 600}}\n",
            ["finetune.qa.max_length: found 600", "at most model.max_length, 512"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nfinetune: {tasks: [qa], qa: {max_length: 64}, stride: 64}\n",
            ["finetune.stride: found 64", "windows of max_length 64"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nvariants: [joint, external]\n",
            ["variants: found external", "the section external, with a model, is needed"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nvariants: [joint]\nexternal: {model: xlm}\n",
            ["external: found a model", "the variant external is needed"],
        ),
        ("study: s\nlanguages: [[en, fr]]\nmeta: {inner_lr: soon}\n", ["meta.inner_lr", "'soon'"]),
        (
            "study: s\nlanguages: [[en, fr]]\nvariants: [meta_adapter]\ndata: {meta_fraction: 0}\n",
            ["data.meta_fraction: found 0", "`meta` split"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nscaling: {num_workers: 5}\n",
            ["pretrain.batch_size: found 32", "scaling.num_workers (5)", "30 or 35 would do"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nscaling: {num_workers: 4, accumulation: 16}\n",
            [
                "pretrain.batch_size: found 32",
                "scaling.num_workers (4) x scaling.accumulation (16) = 64",
                "64 would do",
            ],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nvariants: [meta_adapter]\nmeta: {batch_size: 6}\n"
            "scaling: {num_workers: 4}\n",
            ["meta.batch_size: found 6", "scaling.num_workers (4)", "4 or 8 would do"],
        ),
        (
            "study: s\nlanguages: [[en, fr], [en, fr, ru]]\nvariants: [joint, gradvac]\n",
            ["pretrain.batch_size: found 32", "gradvac", "the number of languages.1 (3)", "30 or 33 would do"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nvariants: [pcgrad]\npretrain: {batch_size: 6}\n"
            "scaling: {num_workers: 2}\n",
            ["pretrain.batch_size: found 6", "pcgrad", "(2) x scaling.num_workers (2) = 4", "4 or 8 would do"],
        ),
        (
            "study: s\nlanguages: [[en, fr], [en]]\nvariants: [meta_adapter]\nmeta: {validate_on: others}\n",
            ["meta.validate_on: found others", "languages.1, ['en']"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\npretrain: {precision: tf32}\n",
            ["pretrain.precision: found tf32", "scaling.use_gpu"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nscaling: {num_workers: 2}\n"
            "search: {space: {pretrain.batch_size: {int: [16, 32]}}}\n",
            ["search.space.pretrain.batch_size", "17 is not a value", "scaling.num_workers (2)", "16 or 18 would do"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nsearch: {space: {pretrain.temperatur: {uniform: [1, 2]}}}\n",
            ["search.space.pretrain.temperatur", "did you mean pretrain.temperature?"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nsearch: {space: {finetune.epochs: {int: [1, 2]}}}\n",
            ["search.space.finetune.epochs", "not a field to search"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nsearch: {space: {pretrain.temperature: {uniform: [0, 2]}}}\n",
            ["search.space.pretrain.temperature", "0 is not a value"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nsearch: {space: {pretrain.temperature: {normal: [0, 2]}}}\n",
            ["search.space.pretrain.temperature", "uniform, loguniform, int, choice"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nsearch: {space: {pretrain.temperature: {uniform: [2, 1]}}}\n",
            ["pretrain.temperature.uniform", "low < high"],
        ),
        ("study: s\nlanguages: [[en, fr]]\nsearch: {space: {}}\n", ["search.space: empty"]),
        (
            "study: s\nlanguages: [[en, fr]]\nsearch: {space: {data.demo_seed: {int: [0, 2]}}}\n",
            ["search.space.data.demo_seed", "not a field to search"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nsearch: {space: {model.num_layers: {uniform: [1, 4]}}}\n",
            ["search.space.model.num_layers", "2.242 is not a value"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nsearch: {space: {model.dim: {int: [64, 128]}}}\n",
            ["search.space.model.dim", "65 is not a value", "num_heads 4 does not divide dim 65"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\n"
            "search: {variants: [ffn], space: {pretrain.temperature: {uniform: [1, 2]}}}\n",
            ["search.variants", "'ffn'", "['mono', 'joint']"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\n"
            "search: {space: {pretrain.temperature: {uniform: [1, 2]}}, objective: {within/qa: max}}\n",
            ["search.objective.within/qa", "within/ner"],
        ),
        (
            "study: s\nlanguages: [[en, fr]]\nvariants: [mono]\n"
            "search: {space: {pretrain.temperature: {uniform: [1, 2]}}}\n",
            ["search.variants", "other than mono"],
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(write, text: str, parts: list[str]) -> None:
    path = write(text)
    with pytest.raises(InputError) as caught:
        load_study(path)
    message = str(caught.value)
    assert message.startswith(path)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    "text",
    [
        "pretrain: {batch_size: 24}\nscaling: {num_workers: 4, accumulation: 6}\n",
        "variants: [pcgrad]\npretrain: {batch_size: 24}\nscaling: {num_workers: 4, accumulation: 3}\n",
        "meta: {batch_size: 3, validate_on: others}\nscaling: {num_workers: 2}\n",  # of no variant here
        "pretrain: {precision: tf32}\nscaling: {use_gpu: true}\n",
        "scaling: {num_workers: 2}\nsearch: {space: {pretrain.batch_size: {choice: [8, 12]}}}\n",
        "variants: [gradvac]\nsearch: {space: {conflict.decay: {uniform: [0.001, 1]}}}\n",
    ],
)
def test_what_divides_is_taken(write, text: str) -> None:
    assert load_study(write(f"study: s\nlanguages: [[en, fr]]\n{text}")).study == "s"


def test_a_missing_study_names_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean demo"):
        load_study("dmeo")
    with pytest.raises(InputError, match="no such study file"):
        load_study("nowhere/study.yaml")


@pytest.mark.parametrize("assignment", ["pretrain.steps", "=3", "study.a=1", "pretrain.steps=[1"])
def test_a_malformed_assignment_is_refused(assignment: str) -> None:
    with pytest.raises(InputError, match="--set"):
        load_study("demo", [assignment])


def test_values_are_set_by_dotted_path_and_checked() -> None:
    study = load_study("demo")
    changed = with_values(study, {"pretrain.temperature": 3.0, "model.adapter_ratio": 0.5})
    assert value_at(changed, "pretrain.temperature") == 3.0
    assert value_at(study, "pretrain.temperature") != 3.0
    with pytest.raises(InputError, match=r"model\.adapter_ratio"):
        with_values(study, {"model.adapter_ratio": -1})
