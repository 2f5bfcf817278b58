"""Finetuning a pretrained encoder on one task in one language, and scoring it in one or more.

The recipe is XTREME's (paper, Appendix A): the learning rates fall linearly to zero, each epoch is scored on the dev
set of the training language, and the best epoch is kept.
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
from torch import Tensor

from raylab import hashing
from raylab.atomic import atomic_path
from raylab.config import FinetuneJob
from raylab.data.labelled import Labelled
from raylab.errors import InputError
from raylab.model import load_encoder
from raylab.seeding import generator, seed_of
from raylab.tasks import get_task
from raylab.tasks.base import IGNORED
from raylab.tasks.ragged import Ragged
from raylab.train.batching import training_batches
from raylab.train.engine import global_generator
from raylab.train.features import Dataset, load_features
from raylab.train.run import Measurement
from raylab.train.task_model import TaskModel, load_finetuned, save_finetuned, tokenizer_of

__all__ = ["BEST_FOLDER", "EPOCHS_FOLDER", "PREDICTIONS_FILE", "FinetuneRun", "load_finetuned"]

PREDICTIONS_FILE = "predictions.parquet"
EPOCHS_FOLDER = "epochs"
BEST_FOLDER = "best"
_LOSS_EVERY = 10  # optimizer steps between two measurements of the loss
_FUSED_DEVICES = ("cpu", "cuda")


class FinetuneRun:
    """One finetuning job; a `raylab.train.run.Run`.

    Measures `train/loss` (mean of the last optimizer steps, by step) and `epoch/dev/METRIC` (by epoch, from 1). Between
    any two calls, `state` holds all that a run of the same job needs to go on bit for bit, on the CPU.

    Args:
        job: What to train.
        encoder_folder: A pretrained encoder, as its `save_pretrained` writes it.
        prepared_folder: The folder with its tokenizer: `tokenizer.model`, or `tokenizer`, a Hugging Face folder.
        datasets: Labelled data of each (language, split), as the task reads them: `train` and `dev` of the training
            language, `dev` and `test` of each language to score.
        fingerprint: Identifies the contents of the datasets.
        folder: Where the job leaves its files. Checkpoints of epochs are written there as soon as the epoch ends.
        features_folder: Where tokenized datasets are kept for other processes; None: in this process alone.
        device: Where to train.

    Raises:
        InputError: A dataset is missing or malformed, or has nothing to train on.
    """

    def __init__(
        self,
        job: FinetuneJob,
        *,
        encoder_folder: Path,
        prepared_folder: Path,
        datasets: Mapping[tuple[str, str], Dataset],
        fingerprint: str,
        folder: Path,
        features_folder: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self._job = job
        self._identity = hashing.fingerprint([job.model_dump(), fingerprint])
        self._folder = folder
        self._tokenizer = tokenizer_of(prepared_folder)
        self._device = torch.device(device)
        self._task = get_task(job.task)
        encoder = load_encoder(encoder_folder)
        self._datasets = {
            (language, split): load_features(
                job.task,
                _dataset(job.task, datasets, language, split),
                self._tokenizer,
                min(job.max_length, encoder.max_length),
                job.stride,
                features_folder,
            )
            for language, split in _needed(job)
        }
        for language in (job.train_language, *job.eval_languages):
            encoder.check_language(language)
        train = self._datasets[job.train_language, "train"]
        labels = self._task.labels(train)
        self._tokens: Ragged = train.tokens
        self._targets = self._task.targets(train, labels)
        self._rows = _chosen_rows(train, self._targets, job.max_examples)
        if not len(self._rows):
            path = Labelled.of(datasets[job.train_language, "train"]).path
            raise InputError.at(path, None, "the tokenizer knows none of its words; it should be text of the language")

        torch.manual_seed(seed_of(job.seed, "finetune head"))
        self._model = TaskModel(self._task, labels, encoder).to(self._device)
        frozen = encoder.language_specific_parameters().values() if job.freeze == "language_specific" else ()
        for parameter in frozen:
            parameter.requires_grad_(False)
        head_learning_rate = job.learning_rate if job.head_learning_rate is None else job.head_learning_rate
        self._learning_rates = (job.learning_rate, head_learning_rate)
        self._optimizer = torch.optim.Adam(
            [
                {"params": [parameter for parameter in part.parameters() if parameter.requires_grad], "lr": rate}
                for part, rate in zip((encoder, self._model.head), self._learning_rates, strict=True)
            ],
            fused=self._device.type in _FUSED_DEVICES,
        )

        self._random = global_generator(self._device)
        self._steps_per_epoch = math.ceil(len(self._rows) / job.batch_size)
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
            folder: Gets `predictions.parquet`: language, split, number of the example, its id where the task's data
                have ids, gold and predicted answer. Also `best`, where the job keeps the best checkpoint.

        Returns:
            `chosen_epoch`, from 1; `selection`, the main metric on the training language's dev set after that epoch;
            `scores[split][language][metric]` of `dev` and `test`, in percent; `counts[split][language]`, what the
            task counts, of `train` too.
        """
        self._model.load_state_dict(self._best["weights"])
        columns: dict[str, list[Any]] = {}
        scores: dict[str, dict[str, dict[str, float]]] = {"dev": {}, "test": {}}
        for split, by_language in scores.items():
            for language in self._job.eval_languages:
                features = self._datasets[language, split]
                predicted = self._model.predict(features, language)
                by_language[language] = self._task.score(features.gold, predicted, language)
                there = {
                    "language": [language] * len(predicted),
                    "split": [split] * len(predicted),
                    "example": range(len(predicted)),
                    **({} if features.ids is None else {"id": features.ids}),
                    "gold": features.gold,
                    "predicted": predicted,
                }
                for name, values in there.items():
                    columns.setdefault(name, []).extend(values)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / PREDICTIONS_FILE) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
        if self._job.checkpoints == "best":
            self._save_checkpoint(folder / BEST_FOLDER, self._best["epoch"], self._best["score"])
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for (language, split), features in self._datasets.items():
            counts.setdefault(split, {})[language] = self._task.counts(features, self._model.labels)
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
            self._batches = training_batches(self._tokens.lengths[self._rows], job.batch_size, stream)
            self._model.train()
        rows = self._rows[self._batches[batch]]
        # Seeded at each step, so that dropout after a resume is what it would have been.
        self._random.manual_seed(seed_of(job.seed, "finetune dropout", self._step))
        for group, rate in zip(self._optimizer.param_groups, self._learning_rates, strict=True):
            group["lr"] = rate * (1 - self._step / self._total_steps)
        logits, attention_mask = self._model(self._tokens, rows, job.train_language)
        targets = torch.from_numpy(self._targets.padded(rows, IGNORED)).to(self._device)
        loss = self._task.loss(logits, targets, attention_mask)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._loss_sum += loss.detach()
        self._loss_count += 1
        self._step += 1

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
        epoch, language = self._step // self._steps_per_epoch, self._job.train_language
        features = self._datasets[language, "dev"]
        scores = self._task.score(features.gold, self._model.predict(features, language), language)
        score = scores[self._task.metrics[0]]
        if score > self._best["score"]:
            self._best = {"epoch": epoch, "score": score, "weights": self._weights()}
        if self._job.checkpoints == "all":
            name = str(epoch).zfill(max(2, len(str(self._job.epochs))))
            self._save_checkpoint(self._folder / EPOCHS_FOLDER / name, epoch, score)
        return [Measurement(f"epoch/dev/{metric}", value, epoch) for metric, value in scores.items()]

    def _save_checkpoint(self, folder: Path, epoch: int, score: float) -> None:
        save_finetuned(
            folder,
            self._model,
            self._tokenizer,
            max_length=min(self._job.max_length, self._model.encoder.max_length),
            stride=self._job.stride,
            train_language=self._job.train_language,
            epoch=epoch,
            dev={self._task.metrics[0]: score},
        )

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.to("cpu", copy=True) for name, value in self._model.state_dict().items()}


def _needed(job: FinetuneJob) -> list[tuple[str, str]]:
    """The (language, split) of every dataset that a job reads, each once."""
    evaluated = [(language, split) for split in ("dev", "test") for language in job.eval_languages]
    return list(dict.fromkeys([(job.train_language, "train"), (job.train_language, "dev"), *evaluated]))


def _dataset(task: str, datasets: Mapping[tuple[str, str], Dataset], language: str, split: str) -> Dataset:
    if (language, split) not in datasets:
        raise InputError(
            f"no {task} data for the {split} split of {language!r}; {task}/{language}/{split}.* should be there"
        )
    return datasets[language, split]


def _chosen_rows(features: Any, targets: Ragged, most: int | None) -> np.ndarray:
    """The sequences that are trained on: those with a target, of no more than `most` examples, the same for every seed.

    An example whose text is cut into windows has several.
    """
    rows = np.unique(np.repeat(np.arange(len(targets)), targets.lengths)[targets.values != IGNORED])
    windows = np.diff(getattr(features, "window_offsets", np.arange(len(targets) + 1)))  # of each example
    example_of_row = np.repeat(np.arange(len(windows)), windows)[rows]
    examples = np.unique(example_of_row)
    if most is None or len(examples) <= most:
        return rows
    order = torch.randperm(len(examples), generator=generator("finetune examples")).numpy()
    return rows[np.isin(example_of_row, examples[order[:most]])]
