"""What a sweep says before its first job: costs, what studies share, and what changed since it last ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from raylab.config import StudyConfig
from raylab.data.source import Source
from raylab.dry_run import print_dry_run
from raylab.preflight import changes_since_last_run, note_run
from raylab.search.plan import plan
from raylab.search.storage import Storage
from raylab.study import validate, with_values
from raylab.sweep import dry_run as dry_run_of_sweep

Print = Callable[..., str]


def _study(**fields: object) -> StudyConfig:
    return validate({"study": "s", "languages": [["aa", "bb"]], "data": {"source": "x"}, **fields}, "test")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "runs"))


@pytest.fixture
def dry_run(corpus_folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str]) -> Print:
    """What a dry run prints, with 1,000 labelled examples for each task and language."""

    def print_study(study: StudyConfig, tflops: float, others: tuple[StudyConfig, ...] = ()) -> str:
        jobs = plan(study, Source(corpus_folder))
        sizes = {(task, language): 1000 for task in ("ner", "pos") for language in ("aa", "bb", "cc")}
        console = Console(width=200, soft_wrap=True)
        print_dry_run(study, jobs, (), storage, sizes, console, others=others, tflops=tflops)
        return capsys.readouterr().out

    return print_study


def _hours(output: str, kind: str) -> float:
    (line,) = (line for line in output.splitlines() if line.startswith(f"{kind} ") and len(line.split()) == 4)
    return float(line.split()[-1].replace(",", ""))


def test_cost_falls_with_the_given_speed_and_grows_with_the_workers_of_a_slot(dry_run: Print) -> None:
    large = {"num_layers": 8, "dim": 512, "num_heads": 8, "ffn_dim": 2048}
    study = _study(model=large, pretrain={"steps": 500_000, "batch_size": 512})
    slow, fast = dry_run(study, 1.0), dry_run(study, 10.0)
    assert "1 TFLOP/s a worker, as given" in slow
    assert _hours(slow, "pretrain") > 5 * _hours(fast, "pretrain") > 0
    assert "core-hours" in fast
    assert "GPU-hours" in dry_run(with_values(study, {"scaling.use_gpu": True}), 1.0)
    two_cores = dry_run(with_values(study, {"scaling.cpus_per_worker": 2}), 10.0)
    assert _hours(two_cores, "pretrain") == pytest.approx(2 * _hours(fast, "pretrain"), rel=0.01)


def test_two_workers_cost_no_less_than_one(dry_run: Print) -> None:
    study = _study(pretrain={"steps": 500_000, "batch_size": 512})
    one, two = (dry_run(with_values(study, {"scaling.num_workers": n}), 1e-3) for n in (1, 2))
    assert _hours(two, "pretrain") >= _hours(one, "pretrain")


def test_finished_jobs_cost_nothing(dry_run: Print, corpus_folder: Path, storage: Storage) -> None:
    study = _study()
    jobs = [job for job in plan(study, Source(corpus_folder)).jobs.values() if job.kind == "pretrain"]
    before = dry_run(study, 1e-3)
    for job in jobs[:-1]:
        storage.folder(job.key).mkdir(parents=True)
        storage.write_record(job.key, {"key": job.key})
    after = dry_run(study, 1e-3)
    assert 0 < _hours(after, "pretrain") < _hours(before, "pretrain")
    assert f"{jobs[0].key}      done" in after


def test_a_search_costs_what_its_trials_do_that_have_not_ended(
    corpus_folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    def of(**search: object) -> tuple[float, int]:
        study = _study(
            data={"source": str(corpus_folder)},
            variants=["joint"],
            finetune={"tasks": ["ner"], "epochs": 1},
            pretrain={"steps": 100_000, "batch_size": 512},
            search={"space": {"pretrain.temperature": {"uniform": [1, 5]}}, **search},
        )
        dry_run_of_sweep(study, storage, Console(width=200, soft_wrap=True), tflops=1.0)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("search: "))
        return float(line.split(" core-hours")[0].split()[-1].replace(",", "")), int(
            line.split(" ended")[0].split()[-1]
        )

    one, _ = of(num_samples=1)
    assert of(num_samples=4) == (pytest.approx(4 * one, abs=0.02), 0)
    # Four members, whose generations are parts of one training.
    assert of(population={"size": 4, "generations": 3}) == (pytest.approx(4 * one, abs=0.02), 0)
    assert not (storage.root / "studies").exists()


def test_a_trial_over_variants_is_as_large_as_the_largest_of_them(
    corpus_folder: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    def jobs_of_a_trial(space: dict[str, object], variants: list[str]) -> int:
        study = _study(
            data={"source": str(corpus_folder)},
            variants=variants,
            search={"space": space, "num_samples": 3, "objective": {"within/mean": "max"}},
        )
        dry_run_of_sweep(study, storage, Console(width=200, soft_wrap=True), tflops=1.0)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("search: 3 trials"))
        return int(line.split(" of up to ")[1].split()[0])

    temperature: dict[str, object] = {"pretrain.temperature": {"uniform": [1, 5]}}
    both = jobs_of_a_trial(temperature, ["ffn", "adapter"])
    assert jobs_of_a_trial({**temperature, "variant": {"choice": ["ffn", "adapter"]}}, ["ffn", "adapter"]) == both / 2


def test_a_dry_run_names_what_other_studies_share(dry_run: Print, corpus_folder: Path) -> None:
    data = {"source": str(corpus_folder)}
    wide = _study(study="wide", data=data, languages=[["aa", "bb"], ["aa", "cc"]])
    apart = _study(study="apart", data={**data, "vocab_size": 77})
    lacking = _study(study="lacking", data=data, languages=[["aa", "zz"]])
    output = dry_run(_study(data=data), 1.0, (wide, apart, lacking))
    assert "shared with wide: 3 prepare, 3 pretrain" in output
    assert "apart" not in output
    assert "lacking" not in output


def test_a_sweep_says_what_changed_since_the_last_and_which_jobs_stay_valid(
    storage: Storage, corpus_folder: Path
) -> None:
    source = Source(corpus_folder)

    def look(study: StudyConfig, search: str | None = None, runs: bool = True) -> list[str]:
        jobs = plan(study, source).jobs
        lines = changes_since_last_run(study, jobs, search, storage)
        if runs:
            note_run(study, jobs, search, storage)
        return lines

    study = _study(finetune=None, variants=["mono", "joint"])
    assert look(study) == []
    assert look(study) == []
    assert look(with_values(study, {"pretrain.temperature": 3.0}), runs=False)  # a start that was refused is none
    lines = look(with_values(study, {"pretrain.temperature": 3.0}))
    assert "pretrain.temperature 1.0 -> 3.0" in lines[0]
    assert "5 of 6 jobs are the same as then and stay valid (3 prepare, 2 pretrain); 1 are no longer part" in lines[1]
    lines = look(with_values(study, {"pretrain.temperature": 3.0, "description": "another"}), "search of before")
    assert lines == []
    lines = look(with_values(study, {"seeds": [0, 1], "pretrain.temperature": 3.0}), "search of now")
    assert "seeds [0] -> [0, 1]" in lines[0]
    assert "6 of 9 jobs are the same as then and stay valid" in lines[1]
    assert "begins anew" in lines[2]


def test_data_that_changed_is_a_change(storage: Storage, corpus_folder: Path) -> None:
    study = _study(finetune=None, variants=["mono"])
    jobs = plan(study, Source(corpus_folder)).jobs
    note_run(study, jobs, None, storage)
    *kept, last = jobs
    now = {**{key: jobs[key] for key in kept}, "other": jobs[last]}
    first, second = changes_since_last_run(study, now, None, storage)
    assert "changed since the last sweep: the data" in first
    assert f"{len(kept)} of {len(jobs)} jobs" in second
