"""How fast this machine trains: a few steps of a study's own model, timed."""

from __future__ import annotations

import os
import time

import torch

from raylab.config import PretrainConfig, PretrainJob, StudyConfig
from raylab.model import Encoder
from raylab.search.cost import training_flops
from raylab.train.engine import Engine
from raylab.train.masked_text import Batch

SECONDS = 3.0
"""Least time to measure over, after the first step."""

TOKENS = {"cpu": 512, "cuda": 32768}
"""Tokens of a timed batch: enough to keep the device busy, few enough to fit."""


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch can use."""
    return torch.cuda.is_available()


def flops_per_second(study: StudyConfig) -> float:
    """Floating-point operations a second of one worker that trains a joint model of the study's sizes.

    Operations are counted as `raylab.search.cost` counts them. The device is a GPU where the study asks for one and
    this machine has it, else a CPU with the study's cores a worker.
    """
    on_gpu = study.scaling.use_gpu and has_gpu()
    device = "cuda" if on_gpu else "cpu"
    before = torch.get_num_threads()
    torch.set_num_threads(min(study.scaling.cpus_per_worker, os.cpu_count() or 1))
    try:
        return _measure(study, device)
    finally:
        torch.set_num_threads(before)


def _measure(study: StudyConfig, device: str) -> float:
    languages = study.languages[0]
    pretrain = study.pretrain
    if device == "cpu":  # where half precision is slower than none
        pretrain = PretrainConfig.model_validate({**pretrain.model_dump(), "precision": "fp32"})
    length, vocabulary = pretrain.sequence_length, study.data.vocab_size
    sequences = max(1, min(pretrain.batch_size, TOKENS[device] // length))
    encoder = Encoder(study.model, vocabulary, languages, "joint").to(device)
    engine = Engine(encoder, pretrain, seed=0)
    tokens = torch.randint(vocabulary, (sequences, length), device=device)
    labels = tokens.where(torch.rand_like(tokens, dtype=torch.float) < pretrain.mask_probability, -100)
    batch = Batch(languages[0], tokens, labels)
    float(engine.step(1, batch))  # what is made once
    begun, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begun) < SECONDS:
        steps += 1
        float(engine.step(1 + steps, batch))  # waits for the device
    job = PretrainJob(languages=languages, variant="joint", seed=0, model=study.model, pretrain=pretrain, meta=None)
    return steps * sequences * length * training_flops(job) / seconds
