"""Keys: equal work has an equal key, other work another; and what a study resolves to."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from raylab.config import FinetuneJob, ImportJob, PretrainJob, StudyConfig
from raylab.config.probes import ProbeJob
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


def _finetune_configs(jobs: Plan, **labels: str) -> list[FinetuneJob]:
    chosen = [job for job in jobs.jobs.values() if labels.items() <= job.labels.items()]
    return [job.config for job in chosen if isinstance(job.config, FinetuneJob)]


def test_a_task_has_a_protocol_of_its_own(corpus_folder: Path) -> None:
    own = {
        "epochs": 7,
        "max_length": 16,
        "grid": {"batch_size": [4], "learning_rate": [1e-6, 2e-6], "head_learning_rate": [1e-5, 2e-5, 3e-5]},
    }
    study = _study(variants=["joint"], finetune={"epochs": 3, "stride": 9, "checkpoints": "all", "pos": own})
    jobs = plan(study, Source(corpus_folder))
    pos = _finetune_configs(jobs, task="pos", train_language="aa", languages="aa-bb")
    assert {(job.epochs, job.max_length, job.batch_size) for job in pos} == {(7, 16, 4)}
    assert sorted((job.learning_rate, job.head_learning_rate or 0) for job in pos) == [
        (rate, head) for rate in (1e-6, 2e-6) for head in (1e-5, 2e-5, 3e-5)
    ]
    ner = _finetune_configs(jobs, task="ner", train_language="aa", languages="aa-bb")
    assert {(job.epochs, job.max_length, job.head_learning_rate) for job in ner} == {(3, 128, None)}
    assert {job.checkpoints for job in (*ner, *pos)} == {"all"}
    assert {job.stride for job in (*ner, *pos)} == {0}  # windows are of QA alone
    assert len({key for key, job in jobs.jobs.items() if job.kind == "finetune"}) == len(_finetune_configs(jobs))


def test_only_models_with_language_specific_parts_are_finetuned_without_them(corpus_folder: Path) -> None:
    grid = {"batch_size": [4], "learning_rate": [1e-3], "freeze": ["none", "language_specific"]}
    study = _study(variants=["mono", "joint", "adapter", "shared_adapter"], finetune={"tasks": ["ner"], "grid": grid})
    jobs = plan(study, Source(corpus_folder))
    frozen = {
        job.labels["variant"]
        for job in jobs.jobs.values()
        if isinstance(job.config, FinetuneJob) and job.config.freeze == "language_specific"
    }
    assert frozen == {"adapter"}


def _external_model(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_an_external_model_serves_all_sets_of_a_source_language(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _external_model(tmp_path / "models" / "one", b"weights")
    monkeypatch.chdir(tmp_path)
    languages = [["aa", "bb"], ["aa", "cc"], ["bb", "aa"]]
    study = _study(languages=languages, variants=["external"], external={"model": "models/one"}, seeds=[0, 1])
    jobs = plan(study, Source(corpus_folder))
    (imported,) = (job for job in jobs.jobs.values() if job.kind == "import")
    assert isinstance(imported.config, ImportJob)
    assert imported.config.model == str(folder)  # as workers elsewhere find it
    assert {job.kind for job in jobs.jobs.values()} == {"import", "finetune"}
    assert {job.labels["languages"] for job in jobs.jobs.values() if job.kind == "finetune"} == {"aa-bb-cc", "bb-aa"}
    assert all(job.inputs == (imported.key,) for job in jobs.jobs.values() if job.kind == "finetune")
    ner = _finetune_configs(jobs, task="ner", languages="aa-bb-cc", train_language="aa", seed="1")
    assert {job.eval_languages for job in ner} == {("aa", "bb")}

    _external_model(tmp_path / "models" / "same", b"weights")
    _external_model(tmp_path / "models" / "other", b"other weights")
    same, other = (
        plan(with_values(study, {"external.model": f"models/{name}"}), Source(corpus_folder))
        for name in ("same", "other")
    )
    assert set(same.jobs) == set(jobs.jobs)
    assert not set(other.jobs) & set(jobs.jobs)


def test_a_language_without_training_data_is_tested_by_transfer_alone(corpus_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "labelled"
    shutil.copytree(corpus_folder / "ner", root / "ner")
    (root / "ner" / "bb" / "train.conll").unlink()
    study = _study(languages=[["aa", "bb"]], variants=["joint"], finetune={"tasks": ["ner"]})
    jobs = plan(study, Source(corpus_folder, labelled_root=root))
    assert {(job.train_language, job.eval_languages) for job in _finetune_configs(jobs)} == {("aa", ("aa", "bb"))}
    assert jobs.notes == ["ner: no labelled bb data to train on; zero-shot transfer to it alone"]


def test_changes_on_the_way_cut_a_pretraining_into_a_chain_of_jobs_that_share_their_past(corpus_folder: Path) -> None:
    study, source = _study(finetune=None, variants=["mono", "joint"], languages=[["aa", "bb"]]), Source(corpus_folder)
    early = {"step": 100, "learning_rate": 1e-3, "temperature": 3.0}
    one = plan(with_values(study, {"pretrain.changes": [early, {"step": 200, "temperature": 2.0}]}), source)
    other = plan(with_values(study, {"pretrain.changes": [early, {"step": 200, "temperature": 5.0}]}), source)
    whole = plan(with_values(study, {"pretrain.changes": [early]}), source)

    def chain(jobs: Plan, variant: str) -> list[tuple[str, int | None, int]]:
        found = [job for job in jobs.jobs.values() if job.kind == "pretrain" and job.labels["variant"] == variant]
        for before, job in itertools.pairwise(job for job in found if job.labels["languages"] == "aa-bb"):
            assert job.inputs == (before.inputs[0], before.key)
        return [
            (job.key, job.config.pretrain.until, len(job.config.pretrain.changes))
            for job in found
            if isinstance(job.config, PretrainJob)
        ]

    assert [(until, changes) for _, until, changes in chain(one, "joint")] == [(100, 0), (200, 1), (None, 2)]
    assert chain(one, "joint")[:2] == chain(other, "joint")[:2]
    assert chain(one, "joint")[2] != chain(other, "joint")[2]
    assert chain(one, "joint")[0] == chain(whole, "joint")[0]
    # A model of one language knows no temperature: its chain is that of the learning rate alone.
    assert [(until, changes) for _, until, changes in chain(one, "mono")] == [(100, 0), (None, 1)] * 2
    assert chain(one, "mono") == chain(whole, "mono")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"pretrain.changes": [{"step": 9}, {"step": 9}]}, "must rise"),
        ({"pretrain.changes": [{"step": 300}]}, "too late"),
        ({"pretrain.changes": [{"step": 100}], "pretrain.until": 100}, "too late"),
        ({"pretrain.until": 301}, "beyond the last step"),
    ],
)
def test_changes_that_cannot_be_are_refused(values: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        with_values(_study(), values)


def test_models_whose_languages_share_parameters_are_probed(corpus_folder: Path) -> None:
    study = _study(
        languages=[["aa", "bb"]],
        finetune=None,
        variants=["mono", "joint"],
        pretrain={"snapshot_every": 100},
        probes={"gradients": {}, "pruning": {"steps": 9}},
    )
    jobs, source = plan(study, Source(corpus_folder)).jobs, Source(corpus_folder)
    probes = [job for job in jobs.values() if job.kind == "probe"]
    joint = _models(plan(study, source))["joint", "aa-bb"]
    assert [job.labels["probe"] for job in probes] == ["gradients", "pruning"]
    assert all(job.inputs[0] == joint and jobs[job.inputs[1]].kind == "prepare" for job in probes)
    # A probe is of the model: another number of mask steps leaves the model, and the other probe, as they are.
    other = plan(with_values(study, {"probes.pruning.steps": 10}), source).jobs
    assert [key for key in jobs if key not in other] == [probes[1].key]
    assert joint not in plan(with_values(study, {"pretrain.snapshot_every": 0}), source).jobs


def test_gradients_are_compared_where_there_are_two_languages(corpus_folder: Path) -> None:
    study = _study(languages=[["aa", "bb"]], finetune=None, variants=["mono", "joint"])
    source = Source(corpus_folder)
    without, compared = (
        _models(plan(with_values(study, {"pretrain.gradients_every": every}), source)) for every in (0, 10)
    )
    same = {model for model in without if without[model] == compared[model]}
    assert same == {("mono", "aa"), ("mono", "bb")}


def test_snapshots_of_every_part_of_a_chain_are_probed(corpus_folder: Path) -> None:
    study = _study(
        languages=[["aa", "bb"]],
        finetune=None,
        variants=["joint"],
        pretrain={"snapshot_every": 60, "changes": [{"step": 100, "learning_rate": 1e-3}]},
        probes={"gradients": {}, "pruning": {}},
    )
    jobs = [job.config for job in plan(study, Source(corpus_folder)).jobs.values()]
    steps = [config.steps for config in jobs if isinstance(config, ProbeJob) and config.probe == "gradients"]
    assert steps == [(60, 100), (120, 180, 240, 300)]
    assert sum(isinstance(config, ProbeJob) and config.probe == "pruning" for config in jobs) == 1
