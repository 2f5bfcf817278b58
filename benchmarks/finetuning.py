"""What finetuning takes: `python -m benchmarks.finetuning [--sizes demo small] [--sections train predict start]`.

Without Ray and MLflow. POS tagging with raylab's loop and with transformers' Trainer (needs accelerate), on the same
sentences: the demo's, or those of a CoNLL-U file. Every contender is a process of its own; they take turns, pass by
pass over the same sentences, and a table gives medians of sentences a second; ratios are medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders import Contender, Step, take_turns
from benchmarks.training import machine, print_table, ratio
from raylab.config import FinetuneJob, ModelConfig
from raylab.data.demo import write_demo
from raylab.data.tokenizer import train_tokenizer
from raylab.model import Encoder, load_encoder
from raylab.tasks import get_task
from raylab.tasks.base import IGNORED
from raylab.train.features import load_features
from raylab.train.finetune import FinetuneRun
from raylab.train.task_model import TaskModel, tokenizer_of

LANGUAGE = "en"
TASK = "pos"
MAX_LENGTH = 128
BATCH_SIZE = 16
LEARNING_RATE = 3e-4
_DEMO_PIECES = 1000  # the demo's few words make no more; a larger embedding is as large as it is
_FEW = 8  # sentences of a split that is there because it must be
_EPOCHS = 10_000  # more than are measured
_CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Size:
    """A model."""

    name: str
    layers: int
    dim: int
    heads: int
    ffn_dim: int
    vocabulary: int
    dropout: float


SIZES = {
    "demo": Size("demo", 2, 64, 2, 256, 1000, 0.0),
    "small": Size("small", 3, 128, 4, 512, 4000, 0.1),
}


@dataclass(frozen=True)
class World:
    """What all contenders share: a folder with an encoder, its tokenizer and tagged sentences."""

    folder: Path
    size: Size
    sentences: int
    clock: str

    def dataset(self, split: str) -> Path:
        return self.folder / f"{split}.conllu"

    def features(self, split: str) -> Any:
        return load_features(
            TASK, self.dataset(split), tokenizer_of(self.folder), MAX_LENGTH, 0, self.folder / "features"
        )

    def now(self) -> float:
        return _CLOCKS[self.clock]()


def make_world(folder: Path, size: Size, conllu: Path | None, sentences: int, clock: str) -> World:
    """Cut the sentences, train a tokenizer on their words, and draw an encoder."""
    pieces = size.vocabulary if conllu else min(size.vocabulary, _DEMO_PIECES)
    if conllu is None:
        write_demo(folder / "demo", scale=1e-3, seed=0)
        conllu = folder / "demo" / TASK / LANGUAGE / "train.conllu"
    text = conllu.read_text(encoding="utf-8").strip()
    blocks = text.split("\n\n")
    if len(blocks) < sentences:
        raise SystemExit(f"{conllu}: {len(blocks)} sentences; --sentences {sentences} are needed")
    for split, count in (("train", sentences), ("dev", _FEW), ("test", _FEW)):
        (folder / f"{split}.conllu").write_text("\n\n".join(blocks[:count]) + "\n\n", encoding="utf-8")
    words = (
        " ".join(line.split("\t")[1] for line in block.splitlines() if not line.startswith("#")) for block in blocks
    )
    train_tokenizer(words, folder / "tokenizer.model", pieces)
    config = ModelConfig(
        num_layers=size.layers, dim=size.dim, num_heads=size.heads, ffn_dim=size.ffn_dim, dropout=size.dropout
    )
    torch.manual_seed(0)
    Encoder(config, size.vocabulary, (LANGUAGE,), "mono").save_pretrained(folder / "model")
    return World(folder, size, sentences, clock)


def start_run(world: World, *, features: bool = True) -> FinetuneRun:
    job = FinetuneJob(
        task=TASK,
        train_language=LANGUAGE,
        eval_languages=(LANGUAGE,),
        seed=0,
        epochs=_EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        max_length=MAX_LENGTH,
        max_examples=None,
    )
    return FinetuneRun(
        job,
        encoder_folder=world.folder / "model",
        prepared_folder=world.folder,
        datasets={(LANGUAGE, split): world.dataset(split) for split in ("train", "dev", "test")},
        fingerprint="",
        folder=world.folder / "job",
        features_folder=world.folder / "features" if features else None,
    )


def ours(world: World) -> Step:
    """Epochs of raylab's loop, dev scores and all."""
    run = start_run(world)
    steps = -(-world.sentences // BATCH_SIZE)

    def step(number: int) -> float:
        started = world.now()
        for _ in range(steps):
            run.advance(0.0)
        return world.now() - started

    return step


def trainer(world: World, model: str, settings: str) -> Step:
    """Epochs of transformers' Trainer: its `defaults`, or the `best` of its settings for this."""
    from transformers import PrinterCallback, Trainer, TrainerCallback
    from transformers.utils import logging

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.started = world.now()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.seconds = world.now() - self.started

    peer, rows, collate = _peer(world, model), _rows(world), _collator()
    logging.disable_progress_bar()

    def step(number: int) -> float:
        clock = Clock()
        arguments = _arguments(world, settings)
        runner = Trainer(peer, arguments, train_dataset=rows, data_collator=collate, callbacks=[clock])
        runner.remove_callback(PrinterCallback)
        runner.train()
        return clock.seconds

    return step


def ours_predicting(world: World) -> Step:
    """Predictions of raylab's loop for all sentences, their tags' names included."""
    features = world.features("train")
    task = get_task(TASK)
    torch.manual_seed(0)
    model = TaskModel(task, task.labels(features), load_encoder(world.folder / "model"))

    def step(number: int) -> float:
        started = world.now()
        model.predict(features, LANGUAGE)
        return world.now() - started

    return step


def trainer_predicting(world: World, model: str, settings: str) -> Step:
    """Logits of transformers' Trainer for all sentences."""
    from transformers import Trainer

    runner = Trainer(_peer(world, model), _arguments(world, settings), data_collator=_collator())
    rows = _rows(world)
    if settings == "best":
        rows.sort(key=lambda row: len(row["input_ids"]))

    def step(number: int) -> float:
        started = world.now()
        runner.predict(rows)
        return world.now() - started

    return step


class _Wrapped(nn.Module):
    """Our encoder and head as Trainer wants a model."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.head = model.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.encoder(input_ids, attention_mask.bool(), LANGUAGE))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return {"loss": loss, "logits": logits}


def _peer(world: World, model: str) -> nn.Module:
    task, size = get_task(TASK), world.size
    labels = task.labels(world.features("train"))
    torch.manual_seed(0)
    if model == "our encoder":
        return _Wrapped(TaskModel(task, labels, load_encoder(world.folder / "model")))
    from transformers import BertConfig, BertForTokenClassification

    return BertForTokenClassification(
        BertConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.dim,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=size.ffn_dim,
            hidden_dropout_prob=size.dropout,
            attention_probs_dropout_prob=size.dropout,
            num_labels=len(labels.names),
        )
    )


def _rows(world: World) -> list[dict[str, list[int]]]:
    task, features = get_task(TASK), world.features("train")
    targets = task.targets(features, task.labels(features))
    bounds = features.tokens.offsets.tolist()
    return [
        {
            "input_ids": features.tokens.values[start:end].tolist(),
            "attention_mask": [1] * (end - start),
            "labels": targets.values[start:end].tolist(),
        }
        for start, end in pairwise(bounds)
    ]


def _collator() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0})), pad_token="<pad>")
    return DataCollatorForTokenClassification(tokenizer)


def _arguments(world: World, settings: str) -> Any:
    from transformers import TrainingArguments

    best: dict[str, Any] = {
        "train_sampling_strategy": "group_by_length",
        "logging_strategy": "no",
        "save_strategy": "no",
        "max_grad_norm": 0.0,
        "per_device_eval_batch_size": 64,
    }
    return TrainingArguments(
        output_dir=str(world.folder / "trainer"),
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        num_train_epochs=1,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **(best if settings == "best" else {}),
    )


def compare(world: World, threads: int, repeats: int, *, predicting: bool) -> None:
    """Sentences a second of all contenders."""
    mine, theirs = (ours_predicting, trainer_predicting) if predicting else (ours, trainer)
    plain: dict[str, tuple[Callable[..., Step], tuple[str, ...]]] = {"raylab": (mine, ())}
    for model in ("BERT", "our encoder"):
        for settings in ("defaults", "best"):
            plain[f"Trainer, {settings}, {model}"] = (theirs, (model, settings))
    contenders = {
        f"{name}{', worker settings' if process else ''}": [
            Contender(make, world, *arguments, threads=threads, settings=process)
        ]
        for process in (False, True)
        for name, (make, arguments) in plain.items()
        if not (process and "defaults" in name)
    }
    seconds = take_turns(contenders, repeats, warm_up=1)
    best = seconds["raylab, worker settings"]
    print_table(
        f"{_described(world)}: {'predicting' if predicting else 'training'}, float32, {threads} "
        f"thread{'s' * (threads > 1)}, {world.clock} time",
        ["", "sentences/s", "raylab over it"],
        [
            [name, f"{world.sentences / statistics.median(found):,.0f}", f"{ratio(found, best):.2f}"]
            for name, found in seconds.items()
        ],
    )


def starts(world: World, repeats: int) -> None:
    """Seconds from making a run to the end of its first optimizer step."""
    rows = []
    for name, other_jobs in (("first job of a process", 0), ("later job", 1)):
        found = []
        for number in range(repeats):
            contender = Contender(first_step, world, other_jobs, threads=1)
            contender.begin(number)
            found.append(contender.end())
            contender.close()
        rows.append([name, f"{statistics.median(found):.3f}", f"{max(found):.3f}"])
    print_table(
        f"{_described(world)}: from making a job to the end of its first step, features on disk, {world.clock} time, s",
        ["", "median", "longest"],
        rows,
    )


def first_step(world: World, other_jobs: int) -> Step:
    for _ in range(other_jobs):
        start_run(world).advance(0.0)

    def step(number: int) -> float:
        started = world.now()
        start_run(world).advance(0.0)
        return world.now() - started

    return step


def _described(world: World) -> str:
    size = world.size
    return (
        f"{size.name} ({size.layers} layers of {size.dim}, {size.heads} heads, ffn {size.ffn_dim}, vocabulary "
        f"{size.vocabulary}, dropout {size.dropout}), {world.sentences} sentences, batches of {BATCH_SIZE}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetuning", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument(
        "--sections", nargs="+", choices=("train", "predict", "start"), default=["train", "predict", "start"]
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7, help="measured passes of each contender")
    parser.add_argument("--sentences", type=int, default=400, help="in one pass")
    parser.add_argument("--conllu", type=Path, help="tagged sentences; by default the demo's")
    parser.add_argument("--clock", choices=_CLOCKS, default="wall")
    options = parser.parse_args()
    if {"train", "predict"} & {*options.sections} and find_spec("accelerate") is None:
        parser.error("transformers' Trainer needs the package accelerate; install it, or ask for --sections start")
    print("python -m benchmarks.finetuning", *sys.argv[1:])
    print(f"{machine()}; torch {torch.__version__}")
    for name in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            world = make_world(Path(folder), SIZES[name], options.conllu, options.sentences, options.clock)
            for threads in options.threads:
                if "train" in options.sections:
                    compare(world, threads, options.repeats, predicting=False)
                if "predict" in options.sections:
                    compare(world, threads, options.repeats, predicting=True)
            if "start" in options.sections:
                starts(world, options.repeats)


if __name__ == "__main__":
    main()
