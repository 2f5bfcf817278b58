"""Finetuning a pretrained encoder on one task in one language, and scoring it in one or more.

The recipe is XTREME's (paper, Appendix A): all layers are trained, the learning rate falls linearly to zero, each epoch
is scored on the dev set of the training language, and the best epoch is kept.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from raylab import hashing
from raylab.config import FinetuneJob
from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.model import Encoder
from raylab.seeding import generator, seed_of
from raylab.tasks import get_task
from raylab.tasks.base import IGNORED, Features
from raylab.tasks.ragged import Ragged
from raylab.train.batching import evaluation_batches, training_batches
from raylab.train.features import load_features
from raylab.train.run import Measurement

PREDICTIONS_FILE = "predictions.parquet"
_LOSS_EVERY = 10  # optimizer steps between two measurements of the loss
_EVALUATION_BATCH = 64


class _Model(nn.Module):
    """The encoder with the task's head on top."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, language: str) -> Tensor:
        return self.head(self.encoder(input_ids, attention_mask, language))


class FinetuneRun:
    """One finetuning job; a `raylab.train.run.Run`.

    Measures `train/loss` (mean of the last optimizer steps, by step) and `epoch/dev/METRIC` (by epoch, from 1). Between
    any two calls, `state` holds all that a run of the same job needs to go on bit for bit, on the CPU.

    Args:
        job: What to train.
        encoder_folder: A pretrained encoder, as `Encoder.save_pretrained` writes it.
        prepared_folder: The folder with its tokenizer.
        datasets: Labelled file of each (language, split): `train` and `dev` of the training language, `dev` and `test`
            of each language to score.
        fingerprint: Identifies the contents of the datasets.
        device: Where to train.

    Raises:
        InputError: A dataset is missing or malformed.
    """

    def __init__(
        self,
        job: FinetuneJob,
        *,
        encoder_folder: Path,
        prepared_folder: Path,
        datasets: Mapping[tuple[str, str], Path],
        fingerprint: str,
        device: str = "cpu",
    ) -> None:
        self._job = job
        self._identity = hashing.fingerprint([job.model_dump(), fingerprint])
        self._device = torch.device(device)
        self._task = get_task(job.task)
        encoder = Encoder.from_pretrained(encoder_folder)
        self._datasets = {
            (language, split): load_features(
                job.task,
                _path(job.task, datasets, language, split),
                prepared_folder / "tokenizer.model",
                min(job.max_length, encoder.config.max_length),
            )
            for language, split in _needed(job)
        }
        train = self._datasets[job.train_language, "train"]
        self._labels = self._task.labels(train)
        self._tokens: Ragged = train.tokens
        self._targets = self._task.targets(train, self._labels)
        self._examples = _chosen_examples(self._targets, job.max_examples)
        if not len(self._examples):
            path = datasets[job.train_language, "train"]
            raise InputError.at(path, None, "the tokenizer knows none of its words; it should be text of the language")

        torch.manual_seed(seed_of(job.seed, "finetune head"))
        head = self._task.head(encoder.config.dim, self._labels, encoder.config.dropout)
        self._model = _Model(encoder, head).to(self._device)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=job.learning_rate, fused=True)

        self._steps_per_epoch = math.ceil(len(self._examples) / job.batch_size)
        self._total_steps = self._steps_per_epoch * job.epochs
        self._step = 0
        self._batches: list[np.ndarray] = []  # of the epoch under way
        self._loss_sum = torch.zeros((), device=self._device)  # since the last measurement
        self._loss_count = 0
        self._best: dict[str, Any] = {"epoch": 0, "score": -math.inf, "weights": {}}

    @property
    def finished(self) -> bool:
        """All epochs are done, and `finish` may be called."""
        return self._step == self._total_steps

    @property
    def progress(self) -> float:
        """Share of the optimizer steps that are done, from 0 to 1."""
        return self._step / self._total_steps

    def advance(self, seconds: float) -> list[Measurement]:
        """Train for about `seconds`, one optimizer step at least, unless finished.

        Raises:
            FloatingPointError: The loss is no longer a number.
        """
        end = time.monotonic() + seconds
        measured: list[Measurement] = []
        while not self.finished:
            self._train_on_one_batch()
            if self._step % _LOSS_EVERY == 0 or self.finished:
                measured.append(self._measure_loss())
            if self._step % self._steps_per_epoch == 0:
                measured += self._end_epoch()
            if time.monotonic() >= end:
                break
        return measured

    def state(self) -> dict[str, Any]:
        """All that changes while training, as a copy."""
        return {
            "identity": self._identity,
            "step": self._step,
            "model": self._weights(),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
            "loss_sum": self._loss_sum.clone(),
            "loss_count": self._loss_count,
            "best": dict(self._best),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`.

        Raises:
            ValueError: The state is of another job, or of other data.
        """
        if state["identity"] != self._identity:
            raise ValueError("the state is of another finetuning job, or of other data")
        self._step = state["step"]
        self._batches = []
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self._loss_sum = state["loss_sum"].to(self._device, copy=True)
        self._loss_count = state["loss_count"]
        self._best = dict(state["best"])

    def finish(self, folder: Path) -> dict[str, Any]:
        """Score every language with the weights of the best epoch.

        Args:
            folder: Gets `predictions.parquet`: language, split, number of the sentence, gold and predicted answer.

        Returns:
            `chosen_epoch`, from 1; `selection`, the main metric on the training language's dev set after that epoch;
            `scores[split][language][metric]` of `dev` and `test`, in percent; `counts[split][language]`, what the
            task counts, of `train` too.
        """
        self._model.load_state_dict(self._best["weights"])
        columns: dict[str, list[Any]] = {name: [] for name in ("language", "split", "sentence", "gold", "predicted")}
        scores: dict[str, dict[str, dict[str, float]]] = {"dev": {}, "test": {}}
        for split, by_language in scores.items():
            for language in self._job.eval_languages:
                features = self._datasets[language, split]
                predicted = self._predict(features, language)
                by_language[language] = self._task.score(features.gold, predicted)
                columns["language"] += [language] * len(predicted)
                columns["split"] += [split] * len(predicted)
                columns["sentence"] += range(len(predicted))
                columns["gold"] += features.gold
                columns["predicted"] += predicted
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / PREDICTIONS_FILE, compression="zstd")
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for (language, split), features in self._datasets.items():
            counts.setdefault(split, {})[language] = self._task.counts(features, self._labels)
        return {
            "chosen_epoch": self._best["epoch"],
            "selection": self._best["score"],
            "scores": scores,
            "counts": counts,
        }

    def _train_on_one_batch(self) -> None:
        job = self._job
        epoch, batch = divmod(self._step, self._steps_per_epoch)
        if batch == 0 or not self._batches:
            stream = generator(job.seed, "finetune order", epoch)
            self._batches = training_batches(self._tokens.lengths[self._examples], job.batch_size, stream)
            self._model.train()
        rows = self._examples[self._batches[batch]]
        # Seeded at each step, so that dropout after a resume is what it would have been.
        torch.manual_seed(seed_of(job.seed, "finetune dropout", self._step))
        for group in self._optimizer.param_groups:
            group["lr"] = job.learning_rate * (1 - self._step / self._total_steps)
        logits = self._forward(self._tokens, rows, job.train_language)
        targets = torch.from_numpy(self._targets.padded(rows, IGNORED)).to(self._device)
        loss = self._task.loss(logits, targets)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._loss_sum += loss.detach()
        self._loss_count += 1
        self._step += 1

    def _forward(self, tokens: Ragged, rows: np.ndarray, language: str) -> Tensor:
        """Logits of the given examples."""
        inside = tokens.positions(rows)[1]  # [B, T]
        input_ids = torch.from_numpy(tokens.padded(rows, fill=Tokenizer.pad_id)).to(self._device)  # [B, T]
        attention_mask = None if inside.all() else torch.from_numpy(inside).to(self._device)  # [B, T]
        return self._model(input_ids, attention_mask, language)

    def _measure_loss(self) -> Measurement:
        loss = self._loss_sum.item() / self._loss_count
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {self._step} of finetuning {self._job.task} in {self._job.train_language} "
                f"with learning rate {self._job.learning_rate:g}"
            )
        self._loss_sum.zero_()
        self._loss_count = 0
        return Measurement("train/loss", loss, self._step)

    def _end_epoch(self) -> list[Measurement]:
        """Score the training language's dev set, and keep the weights if they are the best so far."""
        epoch = self._step // self._steps_per_epoch
        features = self._datasets[self._job.train_language, "dev"]
        scores = self._task.score(features.gold, self._predict(features, self._job.train_language))
        score = scores[self._task.metrics[0]]
        if score > self._best["score"]:
            self._best = {"epoch": epoch, "score": score, "weights": self._weights()}
        return [Measurement(f"epoch/dev/{metric}", value, epoch) for metric, value in scores.items()]

    @torch.inference_mode()
    def _predict(self, features: Features, language: str) -> list[Any]:
        self._model.eval()
        tokens = features.tokens
        outputs = (
            (rows, self._forward(tokens, rows, language))
            for rows in evaluation_batches(tokens.lengths, _EVALUATION_BATCH)
        )
        return self._task.predict(outputs, features, self._labels)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.to("cpu", copy=True) for name, value in self._model.state_dict().items()}


def _needed(job: FinetuneJob) -> list[tuple[str, str]]:
    """The (language, split) of every dataset that a job reads, each once."""
    evaluated = [(language, split) for split in ("dev", "test") for language in job.eval_languages]
    return list(dict.fromkeys([(job.train_language, "train"), (job.train_language, "dev"), *evaluated]))


def _path(task: str, datasets: Mapping[tuple[str, str], Path], language: str, split: str) -> Path:
    if (language, split) not in datasets:
        raise InputError(
            f"no {task} data for the {split} split of {language!r}; {task}/{language}/{split}.* should be there"
        )
    return datasets[language, split]


def _chosen_examples(targets: Ragged, most: int | None) -> np.ndarray:
    """The examples that are trained on: those with a target, and no more than `most`, the same for every seed."""
    taught = np.unique(np.repeat(np.arange(len(targets)), targets.lengths)[targets.values != IGNORED])
    if most is None or len(taught) <= most:
        return taught
    return np.sort(taught[torch.randperm(len(taught), generator=generator("finetune examples")).numpy()[:most]])
