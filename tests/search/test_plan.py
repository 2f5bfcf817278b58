"""Keys: equal work has an equal key, other work another; and what a study resolves to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raylab.config import PretrainJob, StudyConfig
from raylab.data.source import Source
from raylab.errors import InputError
from raylab.search.plan import Plan, plan
from raylab.study import validate, with_values


def _study(**fields: object) -> StudyConfig:
    base = {
        "study": "s",
        "languages": [["aa", "bb"], ["aa", "cc"]],
        "variants": ["mono", "joint", "adapter", "meta_adapter"],
    }
    return validate({**base, **fields}, "test")


def _models(jobs: Plan) -> dict[tuple[str, str], str]:
    return {
        (job.labels["variant"], job.labels["languages"]): job.key
        for job in jobs.jobs.values()
        if job.kind == "pretrain"
    }


def test_a_mono_model_serves_every_pair(corpus_folder: Path) -> None:
    jobs = plan(_study(finetune=None), Source(corpus_folder))
    assert set(_models(jobs)) == {
        *(("mono", language) for language in ("aa", "bb", "cc")),
        *((variant, pair) for variant in ("joint", "adapter", "meta_adapter") for pair in ("aa-bb", "aa-cc")),
    }
    assert sum(job.kind == "prepare" for job in jobs.jobs.values()) == 5
    positions = {key: n for n, key in enumerate(jobs.jobs)}
    assert all(positions[key] < positions[job.key] for job in jobs.jobs.values() for key in job.inputs)


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        ("pretrain.temperature", 3.0, {"joint", "adapter", "meta_adapter"}),
        ("model.adapter_ratio", 0.5, {"adapter", "meta_adapter"}),
        ("meta.epsilon", 0.02, {"meta_adapter"}),
        ("pretrain.steps", 7, {"mono", "joint", "adapter", "meta_adapter"}),
        ("data.vocab_size", 500, {"mono", "joint", "adapter", "meta_adapter"}),
        ("finetune.epochs", 2, set()),
        ("scaling.checkpoint_seconds", 2.0, set()),
        ("scaling.num_workers", 2, set()),
        ("scaling.accumulation", 2, set()),
    ],
)
def test_a_field_changes_the_keys_of_the_models_that_it_matters_to(
    corpus_folder: Path, path: str, value: float, changed: set[str]
) -> None:
    study = _study()
    before = _models(plan(study, Source(corpus_folder)))
    after = _models(plan(with_values(study, {path: value}), Source(corpus_folder)))
    assert {variant for (variant, languages), key in before.items() if after[variant, languages] != key} == changed


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [("conflict.granularity", "layer", {"pcgrad", "gradvac"}), ("conflict.decay", 0.5, {"gradvac"})],
)
def test_gradient_surgery_is_of_its_own_variants(
    corpus_folder: Path, path: str, value: float | str, changed: set[str]
) -> None:
    study, source = _study(variants=["joint", "pcgrad", "gradvac"]), Source(corpus_folder)
    before, after = (_models(plan(each, source)) for each in (study, with_values(study, {path: value})))
    assert {variant for (variant, languages), key in before.items() if after[variant, languages] != key} == changed


def test_epsilon_does_not_matter_to_the_exact_method(corpus_folder: Path) -> None:
    study = _study(variants=["meta_adapter"], meta={"method": "exact"})
    source = Source(corpus_folder)
    assert _models(plan(study, source)) == _models(plan(with_values(study, {"meta.epsilon": 0.5}), source))


def test_keys_hold_contents_not_places(corpus_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus_folder, tmp_path / "copy")
    first, second = (
        set(plan(_study(study=name), Source(root)).jobs)
        for name, root in (("a", corpus_folder), ("b", tmp_path / "copy"))
    )
    assert first == second
    path = tmp_path / "copy" / "ner" / "bb" / "test.conll"
    path.write_text(path.read_text(encoding="utf-8").replace("X1", "X9"), encoding="utf-8")
    changed = plan(_study(), Source(tmp_path / "copy"))
    lost = [plan(_study(), Source(corpus_folder)).jobs[key] for key in first - set(changed.jobs)]
    assert lost
    assert all(
        job.kind == "finetune" and job.labels["task"] == "ner" and "bb" in job.labels["eval_language"] for job in lost
    )


def test_one_finetuning_serves_both_settings(corpus_folder: Path) -> None:
    study = _study(
        variants=["joint"], languages=[["aa", "bb"]], finetune={"grid": {"batch_size": [8], "learning_rate": [1e-3]}}
    )
    jobs = plan(study, Source(corpus_folder))
    found = {
        (job.labels["task"], job.labels["train_language"], job.labels["eval_language"], job.labels["setting"])
        for job in jobs.jobs.values()
        if job.kind == "finetune"
    }
    assert found == {
        ("ner", "aa", "aa,bb", "within,zero_shot"),
        ("ner", "bb", "bb", "within"),
        ("pos", "aa", "aa", "within"),
    }
    assert jobs.notes == ["pos: no labelled bb data with train, dev and test; left out"]


def test_zero_shot_alone_trains_on_the_source_only(corpus_folder: Path) -> None:
    study = _study(
        variants=["mono", "joint"],
        languages=[["aa", "bb"]],
        finetune={"settings": ["zero_shot"], "tasks": ["ner"], "grid": {"batch_size": [8], "learning_rate": [1e-3]}},
    )
    jobs = [job for job in plan(study, Source(corpus_folder)).jobs.values() if job.kind == "finetune"]
    assert [(job.labels["variant"], job.labels["train_language"], job.labels["eval_language"]) for job in jobs] == [
        ("joint", "aa", "bb")
    ]


def test_the_recipe_is_shared_by_seeds_only(corpus_folder: Path) -> None:
    study = _study(seeds=[0, 1], variants=["joint", "adapter"], finetune=None)
    models = [job for job in plan(study, Source(corpus_folder)).jobs.values() if job.kind == "pretrain"]
    recipes: dict[str, list[PretrainJob]] = {}
    for job in models:
        assert isinstance(job.config, PretrainJob)
        recipes.setdefault(job.labels["recipe"], []).append(job.config)
    assert all({config.seed for config in configs} == {0, 1} for configs in recipes.values())
    assert len(recipes) == 4


def test_an_unknown_language_is_refused(corpus_folder: Path) -> None:
    with pytest.raises(InputError, match=r"'xx'.*aa, bb, cc"):
        plan(_study(languages=[["aa", "xx"]]), Source(corpus_folder))


def test_a_target_without_a_dev_set_is_left_out_alone(corpus_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus_folder, tmp_path / "copy")
    (tmp_path / "copy" / "ner" / "bb" / "dev.conll").unlink()
    study = _study(variants=["joint"], languages=[["aa", "bb"]], finetune={"tasks": ["ner"]})
    jobs = plan(study, Source(tmp_path / "copy"))
    places = {
        (job.labels["train_language"], job.labels["eval_language"])
        for job in jobs.jobs.values()
        if job.kind == "finetune"
    }
    assert places == {("aa", "aa")}
    assert any("no zero-shot transfer" in note for note in jobs.notes)


def test_what_a_job_does_not_read_is_not_in_its_key(corpus_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus_folder, tmp_path / "copy")
    study = _study(variants=["joint"], languages=[["aa", "bb"]], finetune={"tasks": ["ner"]})
    before = plan(study, Source(corpus_folder)).jobs
    with (tmp_path / "copy" / "ner" / "bb" / "train.conll").open("a") as stream:
        stream.write("\n\nmore\tO\n")
    after = plan(study, Source(tmp_path / "copy")).jobs
    changed = {before[key].labels["train_language"] for key in set(before) - set(after)}
    assert changed == {"bb"}
