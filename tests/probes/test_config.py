from __future__ import annotations

from typing import Any

import pytest
from probed import Pretrained
from pydantic import ValidationError

from raylab.config import Change, PretrainConfig, PretrainJob
from raylab.config.probes import ProbesConfig, PruningConfig, probe_jobs


def model(joint: Pretrained, variant: str = "joint", **pretrain: Any) -> PretrainJob:
    config = PretrainConfig.model_validate({**joint.job.pretrain.model_dump(), **pretrain})
    return joint.job.model_copy(update={"variant": variant, "pretrain": config})


def test_what_is_left_open_is_taken_from_pretraining(joint: Pretrained) -> None:
    probes = ProbesConfig.model_validate({"gradients": {}, "pruning": {"steps": 10}})
    gradients, pruning = probe_jobs(probes, model(joint))
    assert (gradients.probe, pruning.probe) == ("gradients", "pruning")
    assert gradients.gradients is not None
    assert gradients.gradients.effective_batch == 64  # of a batch of 8; the paper's are 4096 and 512
    assert gradients.gradients.batch_size == 8
    assert gradients.steps == (8, 16, 24)
    assert gradients.sequences == 3 * 2 * 2 * 64
    assert pruning.sequences == 2 * 2 * 10 * 8
    assert gradients.model_validate(gradients.model_dump(mode="json")) == gradients


def test_a_segment_has_the_snapshots_of_its_own_steps(joint: Pretrained) -> None:
    probes = ProbesConfig.model_validate({"gradients": {}})
    for options, steps in (
        ({"snapshot_every": 0}, (24,)),
        ({"snapshot_every": 7}, (7, 14, 21, 24)),
        ({"until": 20}, (8, 16, 20)),
        ({"changes": (Change(step=8, temperature=2.0),)}, (16, 24)),
        ({"changes": (Change(step=9, temperature=2.0),), "until": 10}, (10,)),
    ):
        (job,) = probe_jobs(probes, model(joint, **options))
        assert job.steps == steps


def test_the_effective_batch_may_be_smaller_than_a_pass(joint: Pretrained) -> None:
    (job,) = probe_jobs(ProbesConfig.model_validate({"gradients": {"effective_batch": 3}}), model(joint))
    assert job.gradients is not None
    assert job.gradients.batch_size == 3


@pytest.mark.parametrize(("asked", "computed"), [("fp16", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_precision_is_that_of_training(asked: str, computed: str, joint: Pretrained) -> None:
    (job,) = probe_jobs(ProbesConfig.model_validate({"pruning": {}}), model(joint, precision=asked))
    assert job.precision == computed


def test_models_without_shared_parameters_are_not_probed(joint: Pretrained) -> None:
    probes = ProbesConfig.model_validate({"gradients": {}, "pruning": {}})
    assert probe_jobs(None, joint.job) == ()
    assert probe_jobs(probes, joint.job.model_copy(update={"languages": ("aa",), "variant": "mono"})) == ()
    assert len(probe_jobs(probes, model(joint, "ffn"))) == 2


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        (ProbesConfig, {}, "no probe is asked for; gradients: {} or pruning: {} would be one"),
        (PruningConfig, {"stretch": (0.0, 1.1)}, "stretch 0 to 1.1 gives 0 and 1 no mass; below 0 and above 1 would"),
        (PruningConfig, {"target_sparsity": 1.0}, "less than 1"),
        (PruningConfig, {"groups": "columns"}, "'rows' or 'heads'"),
    ],
)
def test_a_wrong_field_says_what_would_be_right(section: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("{", r"\{")):
        section.model_validate(fields)
