"""Pretraining in segments, each a job of its own: a chain of them equals one run through all steps, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from raylab.config import ConflictConfig, MetaConfig, ModelConfig, PrepareJob, PretrainConfig, PretrainJob
from raylab.data.prepare import prepare
from raylab.data.source import Source
from raylab.model import Encoder
from raylab.train.distributed import Workers
from raylab.train.pretrain import PretrainRun
from raylab.train.run import Measurement

LANGUAGES = ("aa", "bb")
UNTIMED = 1e9  # seconds
STEPS = 30
CHANGES = (
    {"step": 7, "learning_rate": 9e-3, "temperature": 100.0},
    {"step": 13},  # a segment ends, and nothing changes
    {"step": 20, "temperature": 0.2},
)


@pytest.fixture(scope="module")
def prepared(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    job = PrepareJob(languages=LANGUAGES, vocab_size=120, subsample={"bb": 100}, meta_fraction=0.1, invalid_utf8="stop")
    prepare(job, Source(corpus_folder), folder)
    return folder


def make_job(variant: str = "joint", **pretrain: Any) -> PretrainJob:
    fields = {
        "steps": STEPS,
        "batch_size": 8,
        "sequence_length": 16,
        "warmup_steps": 10,
        "learning_rate": 3e-3,
        "valid_every": 6,
        "valid_batches": 2,
        **pretrain,
    }
    return PretrainJob(
        languages=("aa",) if variant == "mono" else LANGUAGES,
        variant=variant,  # type: ignore[arg-type]
        seed=3,
        model=ModelConfig(num_layers=1, dim=16, num_heads=2, ffn_dim=32, max_length=16),
        pretrain=PretrainConfig.model_validate(fields),
        meta=MetaConfig(inner_lr=0.1, fidelity_every=4) if variant == "meta_adapter" else None,
        conflict=ConflictConfig() if variant in ("pcgrad", "gradvac") else None,
    )


def segment(prepared: Path, root: Path, number: int, variant: str = "joint", **pretrain: Any) -> PretrainRun:
    """The run of a segment, from 0, in a chain of CHANGES; the one before has ended."""
    until = CHANGES[number]["step"] if number < len(CHANGES) else None
    job = make_job(variant, changes=CHANGES[:number], until=until, **pretrain)
    before = root / str(number - 1) if number else None
    return PretrainRun(job, prepared_folder=prepared, folder=root / str(number), before=before)


def finish(run: PretrainRun, root: Path, number: int) -> dict[str, Any]:
    folder = root / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    return run.finish(folder)


def timeless(measurements: list[Measurement]) -> list[Measurement]:
    return [m for m in measurements if m.name != "train/tokens_per_second"]


def assert_equal(a: Any, b: Any) -> None:
    """Of states: their tensors to the bit, all else but seconds too."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key != "seconds":
                assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("variant", ["mono", "joint", "meta_adapter", "pcgrad", "gradvac"])
@pytest.mark.parametrize(("schedule", "precision"), [("inverse_sqrt", "fp32"), ("cosine", "fp16")])
def test_a_chain_of_segments_is_one_run_to_the_bit(
    variant: str, schedule: str, precision: str, prepared: Path, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"schedule": schedule, "precision": precision}
    whole = PretrainRun(make_job(variant, changes=CHANGES, **fields), prepared_folder=prepared)
    expected = timeless(whole.advance(UNTIMED))

    measurements: list[Measurement] = []
    for number in range(len(CHANGES) + 1):
        run = segment(prepared, tmp_path, number, variant, **fields)
        torch.manual_seed(number)  # whatever else the process draws must not matter
        measurements += timeless(run.advance(UNTIMED))
        assert run.finished
        result = finish(run, tmp_path, number)

    state, reference = run.state(), whole.state()
    for of in (state, reference):
        of["pending"] = [step[:-1] for step in of["pending"]]  # the last is seconds
    assert_equal(state, reference)
    assert {**result, "seconds": 0.0} == {**finish(whole, tmp_path, 99), "seconds": 0.0}
    ends = {change["step"] for change in CHANGES}
    assert [m for m in measurements if m.step not in ends] == [m for m in expected if m.step not in ends]
    assert [m for m in measurements if m in expected] == expected


def test_what_a_segment_is_handed_has_its_unmeasured_steps_and_its_seconds(prepared: Path, tmp_path: Path) -> None:
    first = segment(prepared, tmp_path, 0)
    first.load_state({**first.state(), "seconds": 1000.0})
    losses = [m for m in first.advance(UNTIMED) if m.name == "train/loss"]
    assert [m.step for m in losses] == [7]  # its own end, which no other run would measure
    result = finish(first, tmp_path, 0)
    second = segment(prepared, tmp_path, 1)
    (loss,) = [m for m in second.advance(UNTIMED) if m.name == "train/loss"]
    whole = PretrainRun(make_job(until=13, changes=CHANGES[:1]), prepared_folder=prepared)
    (reference,) = [m for m in whole.advance(UNTIMED) if m.name == "train/loss"]
    assert loss == reference  # a mean over all 13 steps
    after = finish(second, tmp_path, 1)
    assert after["seconds"] > 1000
    assert (after["steps"], after["train_tokens"]) == (13, 13 * 8 * 16)
    assert result.keys() == after.keys()


def test_a_change_is_felt_after_its_step_and_not_before(prepared: Path) -> None:
    changes = ({"step": 10, "learning_rate": 0.1, "temperature": 1e9},)
    runs = [
        PretrainRun(make_job(changes=changes, **fields), prepared_folder=prepared)
        for fields in ({}, {"schedule": "linear"})
    ]
    for run, ratio in zip(runs, ((10 / 20) ** 0.5, (STEPS + 1 - 20) / (STEPS + 1 - 10)), strict=True):
        rates = {m.step: m.value for m in run.advance(UNTIMED) if m.name == "train/learning_rate"}
        assert rates[20] == pytest.approx(0.1 * ratio)  # the shape goes on, from another peak

    plain = PretrainRun(make_job(), prepared_folder=prepared)
    changed = PretrainRun(make_job(changes=({"step": 3, "temperature": 1e-3},)), prepared_folder=prepared)
    drawn = []
    for _ in range(10):
        plain.advance(0.0)
        changed.advance(0.0)
        drawn.append([run.state()["drawn"] for run in (plain, changed)])
    assert all(a == b for a, b in drawn[:3])
    assert drawn[9][1]["train/aa"] - drawn[2][1]["train/aa"] == 7  # so cold, it draws the larger language alone
    assert drawn[9][0] != drawn[9][1]


def test_a_segment_resumes_to_the_bit_at_any_step_its_last_included(prepared: Path, tmp_path: Path) -> None:
    first = segment(prepared, tmp_path, 0)
    first.advance(UNTIMED)
    finish(first, tmp_path, 0)
    whole = segment(prepared, tmp_path, 1)
    expected = timeless(whole.advance(UNTIMED))
    finish(whole, tmp_path, 1)
    handed_on = torch.load(tmp_path / "1" / "state.pt", weights_only=True)
    for stop in (8, 12, 13):
        cut = segment(prepared, tmp_path, 1)
        measurements = []
        while cut.step < stop:
            measurements += cut.advance(0.0)
        torch.save(cut.state(), tmp_path / "checkpoint.pt")
        again = segment(prepared, tmp_path, 1)
        again.load_state(torch.load(tmp_path / "checkpoint.pt", weights_only=False))
        assert again.progress == pytest.approx((stop - 7) / 6)
        measurements += again.advance(UNTIMED)
        finish(again, tmp_path, 100 + stop)
        assert timeless(measurements) == expected
        state = torch.load(tmp_path / str(100 + stop) / "state.pt", weights_only=True)
        for of in (state, handed_on):
            of["pending"] = [step[:5] for step in of["pending"]]
        assert_equal(state, handed_on)


def test_a_job_goes_on_only_where_the_one_before_ended(prepared: Path, tmp_path: Path) -> None:
    first = segment(prepared, tmp_path, 0)
    first.advance(UNTIMED)
    finish(first, tmp_path, 0)
    for changes in ((), ({"step": 9, "temperature": 2.0},)):
        with pytest.raises(ValueError, match="ended with step 7"):
            PretrainRun(make_job(changes=changes), prepared_folder=prepared, before=tmp_path / "0")
    assert not list((tmp_path / "0").glob("snapshots"))


def test_snapshots_are_models_of_their_steps(prepared: Path, tmp_path: Path) -> None:
    run = PretrainRun(make_job("joint", snapshot_every=10), prepared_folder=prepared, folder=tmp_path / "job")
    run.advance(UNTIMED)
    finish(run, tmp_path, 0)
    snapshots = tmp_path / "job" / "snapshots"
    assert sorted(path.name for path in snapshots.iterdir()) == ["10", "20", "30"]
    early = PretrainRun(make_job("joint", until=10), prepared_folder=prepared)
    early.advance(UNTIMED)
    for name, parameter in Encoder.from_pretrained(snapshots / "10").named_parameters():
        assert torch.equal(parameter, early.encoder.get_parameter(name))
    for path in (tmp_path / "0" / "model").iterdir():  # as the model is kept, with its tokenizer
        assert (snapshots / "30" / path.name).read_bytes() == path.read_bytes()
    AutoTokenizer.from_pretrained(snapshots / "10")
    with pytest.raises(ValueError, match="needs a folder"):
        PretrainRun(make_job(snapshot_every=10), prepared_folder=prepared)


@pytest.mark.parametrize("checkpoint", [4, 5, 9, 10, 12])
def test_a_run_that_resumes_has_each_snapshot_once(checkpoint: int, prepared: Path, tmp_path: Path) -> None:
    """A process dies after step 12, with a model half written, and the next one goes on from an earlier checkpoint."""
    job = make_job(steps=16, snapshot_every=5)
    cut = PretrainRun(job, prepared_folder=prepared, folder=tmp_path)
    while cut.step < 12:
        cut.advance(0.0)
        if cut.step == checkpoint:
            state = cut.state()
    (tmp_path / "snapshots" / f".15.{'0' * 32}").mkdir()
    again = PretrainRun(job, prepared_folder=prepared, folder=tmp_path)
    again.load_state(state)
    again.advance(UNTIMED)
    again.finish(tmp_path)
    whole = PretrainRun(job, prepared_folder=prepared, folder=tmp_path / "whole")
    whole.advance(UNTIMED)
    found, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "snapshots", tmp_path / "whole" / "snapshots")
    )
    assert found == expected
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == ["10", "15", "5"]


def test_the_first_worker_alone_keeps_snapshots(prepared: Path, tmp_path: Path) -> None:
    for rank in (1, 0):
        run = PretrainRun(
            make_job(steps=2, snapshot_every=1), prepared_folder=prepared, folder=tmp_path, workers=_Silent(rank, 2)
        )
        run.advance(UNTIMED)
        assert (tmp_path / "snapshots").is_dir() == (rank == 0)


class _Silent(Workers):
    """A worker that hears nothing of the other one."""

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        pass
