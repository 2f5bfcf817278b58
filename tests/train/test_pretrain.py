from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from raylab.config import ConflictConfig, MetaConfig, ModelConfig, PrepareJob, PretrainConfig, PretrainJob
from raylab.data.prepare import Prepared, prepare
from raylab.data.source import Source
from raylab.data.store import write_tokens
from raylab.errors import InputError
from raylab.model import Encoder
from raylab.model.modules import PER_LANGUAGE
from raylab.train.engine import Engine
from raylab.train.masked_text import MaskedText
from raylab.train.pretrain import PretrainRun
from raylab.train.run import Measurement

LANGUAGES = ("aa", "bb")
UNTIMED = 1e9  # seconds
TINY = {
    "batch_size": 8,
    "sequence_length": 16,
    "warmup_steps": 4,
    "learning_rate": 3e-3,
    "valid_every": 10,
    "valid_batches": 2,
}


@pytest.fixture(scope="module")
def prepared(corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    job = PrepareJob(languages=LANGUAGES, vocab_size=120, subsample={}, meta_fraction=0.1, invalid_utf8="stop")
    prepare(job, Source(corpus_folder), folder)
    return folder


def make_job(variant: str = "joint", *, meta: dict[str, Any] | None = None, **pretrain: Any) -> PretrainJob:
    return PretrainJob.model_validate(
        {
            "languages": ("aa",) if variant == "mono" else LANGUAGES,
            "variant": variant,
            "seed": 3,
            "model": ModelConfig(num_layers=1, dim=16, num_heads=2, ffn_dim=32, max_length=16),
            "pretrain": PretrainConfig(**{**TINY, "steps": 20, **pretrain}),
            "meta": MetaConfig(**{"inner_lr": 0.1, "fidelity_every": 0, **(meta or {})}),
            "conflict": ConflictConfig(),
        }
    )


def train(job: PretrainJob, prepared: Path) -> tuple[PretrainRun, list[Measurement]]:
    run = PretrainRun(job, prepared_folder=prepared)
    return run, run.advance(UNTIMED)


def by_name(measurements: list[Measurement]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for name, value, step in measurements:
        found[name][step] = value
    return found


def assert_same_weights(a: PretrainRun, b: PretrainRun) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a.encoder.parameters(), b.encoder.parameters(), strict=True))


def copies(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def changed(before: dict[str, torch.Tensor], encoder: Encoder) -> bool:
    return any(not torch.equal(tensor, encoder.get_parameter(name)) for name, tensor in before.items())


@pytest.mark.parametrize("variant", PER_LANGUAGE)
def test_training_reduces_the_loss(variant: str, prepared: Path) -> None:
    run, measurements = train(make_job(variant, steps=60, valid_every=20), prepared)
    losses = by_name(measurements)["train/loss"]
    assert list(losses) == [20, 40, 60]
    assert losses[20] == pytest.approx(math.log(120), rel=0.15)  # still near chance
    assert losses[60] < losses[20] - 0.2
    perplexities = by_name(measurements)[f"valid/perplexity/{run.job.languages[-1]}"]
    assert perplexities[60] < 0.9 * perplexities[20]


def test_measurements(prepared: Path) -> None:
    _, measurements = train(make_job("meta_adapter", steps=25, meta={"fidelity_every": 5, "meta_every": 2}), prepared)
    found = by_name(measurements)
    assert list(found["train/loss"]) == [20, 25]
    assert list(found["train/tokens_per_second"]) == [20, 25]
    assert found["train/learning_rate"] == pytest.approx({20: 3e-3 * (4 / 20) ** 0.5, 25: 3e-3 * (4 / 25) ** 0.5})
    assert list(found["valid/perplexity/aa"]) == list(found["valid/perplexity/bb"]) == [10, 20, 25]
    assert list(found["meta/fidelity"]) == [6, 10, 16, 20]  # the first even step from each multiple of 5 on
    assert all(-1 <= value <= 1 for value in found["meta/fidelity"].values())


def test_gradient_surgery_measures_conflicts_and_takes_a_share_of_each_language(prepared: Path) -> None:
    run, measurements = train(make_job("pcgrad", steps=25), prepared)
    found = by_name(measurements)
    assert list(found["conflict/cosine"]) == list(found["conflict/share"]) == [20, 25]
    assert run.finish(prepared.parent / "pcgrad")["train_tokens"] == 25 * 8 * 16  # as many as of any other variant


def test_validation_on_the_others_only(prepared: Path, tmp_path: Path) -> None:
    """The meta-gradient of a step's language then does not depend on the meta split of that language."""
    run = PretrainRun(make_job("meta_adapter", steps=1), prepared_folder=prepared)
    before = {language: copies(run.encoder.specific_parameters(language)) for language in LANGUAGES}
    run.advance(UNTIMED)
    (language,) = [name for name in LANGUAGES if changed(before[name], run.encoder)]
    (other,) = {*LANGUAGES} - {language}
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    shutil.copy(folder / "tokens" / other / "meta.arrow", folder / "tokens" / language / "meta.arrow")
    for validate_on, matters in (("all", True), ("others", False)):
        job = make_job("meta_adapter", steps=1, meta={"validate_on": validate_on})
        first, second = (train(job, text)[0].encoder for text in (prepared, folder))
        assert changed(before[language], first)
        assert changed(copies(first.specific_parameters(language)), second) == matters


def test_float16_logs_what_it_skips(prepared: Path) -> None:
    _, measurements = train(make_job("joint", steps=40, precision="fp16"), prepared)
    found = by_name(measurements)
    assert list(found["train/skipped_steps"]) == list(found["train/loss_scale"]) == [20, 40]
    assert found["train/loss_scale"][40] == 65536 / 2 ** found["train/skipped_steps"][40]
    assert found["train/loss"][40] < found["train/loss"][20]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_end_near_zero(schedule: str, prepared: Path) -> None:
    _, measurements = train(make_job(steps=40, schedule=schedule), prepared)
    rates = by_name(measurements)["train/learning_rate"]
    assert 0 < rates[40] < 0.1 * rates[20]


def test_a_batch_always_has_a_masked_token(prepared: Path) -> None:
    """However rarely tokens are chosen: then it is one, and its loss is that of a guess."""
    run = PretrainRun(make_job(steps=40, batch_size=1, mask_probability=1e-9), prepared_folder=prepared)
    (loss,) = [m.value for m in run.advance(UNTIMED) if m.name == "train/loss" and m.step == 20]
    assert loss == pytest.approx(math.log(120), rel=0.2)


def test_a_batch_without_a_token_that_could_be_masked_is_bad_input(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    tokenizer = Prepared(folder).tokenizer
    unknown = min(tokenizer.special_ids)
    write_tokens(
        folder / "tokens" / "aa" / "train.arrow",
        [[unknown] * 9] * 50,
        vocab_size=tokenizer.vocab_size,
        end_id=max(tokenizer.special_ids),
    )
    run = PretrainRun(make_job(), prepared_folder=folder)
    with pytest.raises(InputError, match=r"train/aa: batch 0 has no masked token: all its 128 tokens are unknown"):
        run.advance(UNTIMED)


def test_float16_that_diverges_names_step_language_and_learning_rate(prepared: Path) -> None:
    run = PretrainRun(make_job("mono", steps=100, precision="fp16", valid_every=100), prepared_folder=prepared)
    with torch.no_grad():
        run.encoder.output_bias[7] = torch.nan
    with pytest.raises(FloatingPointError, match=r"scale of .* at step \d+ \(language aa, learning rate"):
        run.advance(UNTIMED)


@pytest.mark.parametrize(
    ("where", "name", "counts"), [(Engine, "fidelity", False), (MaskedText, "batch", True), (Engine, "step", True)]
)
def test_the_rate_of_tokens_counts_training_and_its_batches_alone(
    where: type, name: str, counts: bool, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the measurement of fidelity, which takes longer than many steps."""
    original = getattr(where, name)

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return original(*arguments, **options)

    monkeypatch.setattr(where, name, slow)
    _, measurements = train(make_job("meta_adapter", steps=20, meta={"fidelity_every": 1}), prepared)
    (rate,) = by_name(measurements)["train/tokens_per_second"].values()
    assert (rate < 20 * 8 * 16 / (20 * 0.2)) == counts


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (make_job("pcgrad", batch_size=7), "batch_size 7 does not divide over 2 languages"),
        (
            make_job("meta_adapter", meta={"validate_on": "others"}).model_copy(update={"languages": ("aa",)}),
            "no other language",
        ),
    ],
)
def test_a_job_that_does_not_fit_its_languages_is_refused(job: PretrainJob, message: str, prepared: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainRun(job, prepared_folder=prepared)


@pytest.mark.parametrize("method", ["finite_difference", "forward_difference"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fidelity_is_high_by_default_and_low_with_a_long_step(method: str, precision: str, prepared: Path) -> None:
    meta = {"fidelity_every": 2, "method": method}
    good = by_name(train(make_job("meta_adapter", steps=4, meta=meta, precision=precision), prepared)[1])
    rough = {**meta, "epsilon": 50.0}
    bad = by_name(train(make_job("meta_adapter", steps=4, meta=rough, precision=precision), prepared)[1])
    assert min(good["meta/fidelity"].values()) > 0.999
    assert max(bad["meta/fidelity"].values()) < 0.9


def test_advance_keeps_to_its_time_and_does_at_least_a_step(prepared: Path) -> None:
    run = PretrainRun(make_job(steps=5), prepared_folder=prepared)
    for step in range(1, 6):
        assert not run.finished
        run.advance(0.0)
        assert (run.step, run.progress) == (step, step / 5)
    assert run.finished
    assert run.advance(UNTIMED) == []
    assert run.step == 5


@pytest.mark.parametrize(
    ("variant", "meta"),
    [
        ("adapter", {}),
        ("meta_adapter", {"fidelity_every": 4}),
        ("meta_adapter", {"method": "exact", "batch_size": 3, "meta_every": 2}),
        ("meta_adapter", {"inner_step": "adam", "validate_on": "others"}),
        ("gradvac", {}),
    ],
)
@pytest.mark.parametrize(("stop", "precision"), [(3, "fp32"), (10, "fp32"), (10, "bf16"), (10, "fp16")])
def test_resume_is_exact_to_the_bit(
    variant: str, meta: dict[str, Any], stop: int, precision: str, prepared: Path, tmp_path: Path
) -> None:
    job = make_job(variant, steps=14, meta=meta, precision=precision, schedule="cosine", gradients_every=4)
    whole, expected = train(job, prepared)
    assert {m.step for m in expected if m.name.startswith("gradient/cosine/")} == {4, 8, 12}

    first = PretrainRun(job, prepared_folder=prepared)
    measurements = []
    while first.step < stop:
        measurements += first.advance(0.0)
    torch.save(first.state(), tmp_path / "state.pt")
    torch.manual_seed(12345)  # whatever else the process draws must not matter
    second = PretrainRun(job, prepared_folder=prepared)
    second.load_state(torch.load(tmp_path / "state.pt"))
    measurements += second.advance(UNTIMED)

    assert second.finished
    assert_same_weights(second, whole)
    untimed = "train/tokens_per_second"
    assert [m for m in measurements if m.name != untimed] == [m for m in expected if m.name != untimed]
    results = [run.finish(tmp_path / name) for name, run in (("second", second), ("whole", whole))]
    assert {**results[0], "seconds": 0.0} == {**results[1], "seconds": 0.0}


def test_state_is_a_copy_both_ways(prepared: Path) -> None:
    job = make_job("meta_adapter", steps=8)
    run = PretrainRun(job, prepared_folder=prepared)
    run.advance(0.0)
    state = run.state()
    run.advance(UNTIMED)
    for _ in range(2):  # the second time, what the first did with the state would show
        resumed = PretrainRun(job, prepared_folder=prepared)
        resumed.load_state(state)
        assert resumed.step == 1
        resumed.advance(UNTIMED)
        assert_same_weights(resumed, run)


def test_a_step_changes_one_language(prepared: Path) -> None:
    for variant in ("adapter", "meta_adapter"):
        run = PretrainRun(make_job(variant), prepared_folder=prepared)
        seen = set()
        for _ in range(10):
            before = {language: copies(run.encoder.specific_parameters(language)) for language in LANGUAGES}
            shared = copies(run.encoder.shared_parameters())
            run.advance(0.0)
            (language,) = [name for name in LANGUAGES if changed(before[name], run.encoder)]
            assert changed(shared, run.encoder)
            seen.add(language)
        assert seen == set(LANGUAGES)


def test_theta_moves_after_phi(prepared: Path) -> None:
    """From the new phi, a plain step on the same batch moves theta to the same place (Algorithm 1, lines 6 and 7)."""
    meta = PretrainRun(make_job("meta_adapter", steps=1, meta={"inner_lr": 1.0}), prepared_folder=prepared)
    plain = PretrainRun(make_job("adapter", steps=1), prepared_folder=prepared)
    start = copies(dict(meta.encoder.named_parameters()))
    assert not changed(start, plain.encoder)
    meta.advance(0.0)
    new_phi = {name: p for language in LANGUAGES for name, p in meta.encoder.specific_parameters(language).items()}
    assert any(not torch.equal(parameter, start[name]) for name, parameter in new_phi.items())
    plain.encoder.load_state_dict({**start, **new_phi})
    plain.advance(0.0)
    assert not changed(copies(meta.encoder.shared_parameters()), plain.encoder)


def test_meta_every_trains_adapters_plainly_in_between(prepared: Path) -> None:
    plain, _ = train(make_job("adapter", steps=9), prepared)
    rare, _ = train(make_job("meta_adapter", steps=9, meta={"meta_every": 10}), prepared)
    often, _ = train(make_job("meta_adapter", steps=9, meta={"meta_every": 3}), prepared)
    assert_same_weights(plain, rare)
    with pytest.raises(AssertionError):
        assert_same_weights(plain, often)


def test_methods_agree_on_the_step(prepared: Path) -> None:
    """One step's change of phi under each method, through Adam's first step, is a matter of the gradient's signs."""
    results = {}
    for method, epsilon in (("finite_difference", 1e-3), ("exact", 1e-3)):
        job = make_job("meta_adapter", steps=1, meta={"method": method, "epsilon": epsilon})
        job = job.model_copy(update={"model": job.model.model_copy(update={"dropout": 0.3})})
        run, _ = train(job, prepared)
        results[method] = torch.cat(
            [p.flatten() for language in LANGUAGES for p in run.encoder.specific_parameters(language).values()]
        )
    same = torch.isclose(results["exact"], results["finite_difference"], atol=1e-6).float().mean()
    assert same > 0.98  # would not be, if the passes of one step saw different dropout


def test_nan_names_step_language_and_learning_rate(prepared: Path) -> None:
    run = PretrainRun(make_job("mono", steps=100), prepared_folder=prepared)
    run.advance(0.0)
    with torch.no_grad():
        run.encoder.output_bias[7] = torch.nan
    with pytest.raises(
        FloatingPointError, match=r"training loss is nan at step 2 \(language aa, learning rate 0\.0015"
    ):
        run.advance(UNTIMED)
    assert run.step <= 20


def test_no_state_is_given_after_nan(prepared: Path) -> None:
    run = PretrainRun(make_job(steps=100), prepared_folder=prepared)
    with torch.no_grad():
        run.encoder.output_bias[7] = torch.inf
    run.advance(0.0)
    with pytest.raises(FloatingPointError, match="step 1 "):
        run.state()


def test_clipping_bounds_what_the_optimizer_sees(prepared: Path) -> None:
    weights = []
    for clip_norm in (0.0, 1e-12):
        run, _ = train(make_job(steps=1, clip_norm=clip_norm), prepared)
        weights.append(run.encoder.tokens.weight.detach().clone())
    start = PretrainRun(make_job(steps=1), prepared_folder=prepared).encoder.tokens.weight
    moved = [(weight - start).abs().max().item() for weight in weights]
    assert moved[1] < 0.01 * moved[0]  # far below Adam's epsilon


def test_bf16_trains_float32_weights(prepared: Path) -> None:
    job = make_job("meta_adapter", steps=40, precision="bf16", meta={"fidelity_every": 20})
    run, measurements = train(job, prepared)
    losses = by_name(measurements)["train/loss"]
    assert losses[40] < losses[20]
    assert {parameter.dtype for parameter in run.encoder.parameters()} == {torch.float32}
    whole, _ = train(make_job("meta_adapter", steps=40), prepared)
    with pytest.raises(AssertionError):
        assert_same_weights(run, whole)


def test_validation_does_not_depend_on_the_seed(prepared: Path) -> None:
    found = []
    weights: dict[str, torch.Tensor] = {}
    for seed in (1, 2):
        job = make_job(steps=1, learning_rate=1e-30, warmup_steps=0).model_copy(update={"seed": seed})
        run = PretrainRun(job, prepared_folder=prepared)
        weights = weights or copies(dict(run.encoder.named_parameters()))
        run.encoder.load_state_dict(weights)
        found.append([m for m in run.advance(0.0) if m.name.startswith("valid")])
    assert found[0] == found[1]


@pytest.mark.parametrize(("split", "matters"), [("valid", False), ("meta", True)])
def test_meta_step_reads_the_meta_split_only(split: str, matters: bool, prepared: Path, tmp_path: Path) -> None:
    """Other text in `valid` gives other perplexities and the same model."""
    other = tmp_path / "prepared"
    shutil.copytree(prepared, other)
    shutil.copy(other / "tokens" / "bb" / f"{split}.arrow", other / "tokens" / "aa" / f"{split}.arrow")
    run, measurements = train(make_job("meta_adapter", steps=10), prepared)
    other_run, other_measurements = train(make_job("meta_adapter", steps=10), other)
    assert changed(copies(dict(run.encoder.named_parameters())), other_run.encoder) == matters
    assert by_name(measurements)["valid/perplexity/aa"] != by_name(other_measurements)["valid/perplexity/aa"]


def test_finish_saves_the_model_and_reports(prepared: Path, tmp_path: Path) -> None:
    run, measurements = train(make_job("adapter"), prepared)
    result = run.finish(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    sentence = "aa bb cc"
    own = Prepared(prepared).tokenizer
    assert tokenizer(sentence)["input_ids"] == [*own.begin, *own.encode(sentence), *own.end]
    loaded = Encoder.from_pretrained(tmp_path / "model")
    assert all(torch.equal(p, loaded.get_parameter(name)) for name, p in run.encoder.named_parameters())
    found = by_name(measurements)
    assert result["valid_perplexity"] == {language: found[f"valid/perplexity/{language}"][20] for language in LANGUAGES}
    assert result["train_tokens"] == 20 * 8 * 16
    assert result["steps"] == 20
    assert result["parameters"] == sum(p.numel() for p in loaded.parameters())
    assert result["seconds"] > 0


def test_meta_adapter_without_meta_is_refused(prepared: Path) -> None:
    with pytest.raises(ValueError, match="meta"):
        PretrainRun(make_job("meta_adapter").model_copy(update={"meta": None}), prepared_folder=prepared)


@pytest.mark.parametrize("split", ["train", "meta", "valid"])
def test_an_empty_split_is_bad_input(split: str, prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    write_tokens(folder / "tokens" / "bb" / f"{split}.arrow", [], vocab_size=120, end_id=3)
    with pytest.raises(InputError, match=f"no tokens for {split}/bb"):
        PretrainRun(make_job("meta_adapter"), prepared_folder=folder)
