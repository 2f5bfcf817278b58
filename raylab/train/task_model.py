"""An encoder with a task's head: its predictions, and its folder on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raylab.atomic import atomic_path, locked
from raylab.data.tokenizer import Tokenizer
from raylab.errors import InputError
from raylab.heartbeat import beat
from raylab.model import Encoder, ExternalEncoder, load_encoder
from raylab.tasks import get_task
from raylab.tasks.base import Features, Labels, Task
from raylab.tasks.ragged import Ragged
from raylab.train.batching import evaluation_batches

TASK_FILE = "finetuned.json"
HEAD_FILE = "head.safetensors"
TOKENIZER_NAMES = ("tokenizer.model", "tokenizer")  # a SentencePiece model, or a Hugging Face folder

_EVALUATION_TOKENS = {
    "cpu": 2048,
    "cuda": 32768,
}  # in a batch: large enough for the device, small enough for its caches


class TaskModel(nn.Module):
    """An encoder with the head of a task on top.

    Args:
        task: The task.
        labels: What the head's outputs stand for.
        encoder: A raylab encoder, or one from elsewhere. The head is drawn from the global random stream.
    """

    def __init__(self, task: Task[Any], labels: Labels, encoder: Encoder | ExternalEncoder) -> None:
        super().__init__()
        self.task = task
        self.labels = labels
        self.encoder = encoder
        self.head = task.head(encoder.dim, labels, encoder.dropout_probability)

    def forward(self, tokens: Ragged, rows: np.ndarray, language: str) -> tuple[Tensor, Tensor | None]:
        """Logits of some sequences.

        Args:
            tokens: Sequences of token ids.
            rows: Which of them. [B]
            language: Of all of them.

        Returns:
            The logits, and the attention mask [B, T], False at padding, or None where nothing is padded.
        """
        device = next(self.head.parameters()).device
        input_ids = torch.from_numpy(tokens.padded(rows, fill=0)).to(device)  # [B, T]
        lengths = tokens.lengths[rows]
        attention_mask = None
        if lengths.min() < input_ids.shape[1]:
            attention_mask = torch.from_numpy(np.arange(input_ids.shape[1]) < lengths[:, None]).to(device)  # [B, T]
        return self.head(self.encoder(input_ids, attention_mask, language)), attention_mask

    @torch.inference_mode()
    def predict(self, features: Features, language: str) -> list[Any]:
        """One answer to each example, in their order.

        Args:
            features: The task's features of examples in one language.
            language: Their language.
        """
        self.eval()
        device = next(self.head.parameters()).device.type
        batches = evaluation_batches(features.tokens.lengths, _EVALUATION_TOKENS[device])

        def outputs() -> Iterator[tuple[np.ndarray, Tensor]]:
            for rows in batches:
                beat()
                yield rows, self(features.tokens, rows, language)[0]

        return self.task.predict(outputs(), features, self.labels)


@dataclass(frozen=True)
class Finetuned:
    """A finetuned model, ready to predict.

    Attributes:
        model: The encoder and the task's head.
        tokenizer: The encoder's.
        max_length: Longest sequence in tokens, as in finetuning.
        stride: Tokens that two neighbouring windows of a long text share, as in finetuning.

    Example:
        tagger = load_finetuned("runs/jobs/KEY/best")
        tagger.predict(tagger.model.task.read(Path("some.conll")), "en")
    """

    model: TaskModel
    tokenizer: Tokenizer
    max_length: int
    stride: int

    def predict(self, examples: list[Any], language: str) -> list[Any]:
        """One answer to each example, in their order.

        Args:
            examples: As the task's `read` gives them; what is said there to be right does not matter.
            language: Their language, one that the encoder knows.
        """
        task = self.model.task
        return self.model.predict(task.features(examples, self.tokenizer, self.max_length, self.stride), language)


def save_finetuned(
    folder: Path, model: TaskModel, tokenizer: Path, *, max_length: int, stride: int, **about: Any
) -> None:
    """Write a folder that `load_finetuned` opens; it appears whole, in place of one that is there.

    It holds the encoder as its own `save_pretrained` writes it, `head.safetensors`, the tokenizer and `finetuned.json`.

    Args:
        folder: The folder.
        model: What to write.
        tokenizer: The tokenizer's model file or folder.
        max_length: Longest sequence in tokens.
        stride: Tokens that two neighbouring windows of a long text share.
        about: Further entries of `finetuned.json`.
    """
    description = {
        "task": model.task.name,
        "labels": asdict(model.labels),
        "max_length": max_length,
        "stride": stride,
        **about,
    }
    lock = folder.with_name(f".{folder.name}.lock")  # two studies that share a job may run it at once
    with locked(lock):
        for leftover in set(folder.parent.glob(f".{folder.name}.*")) - {lock}:
            shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed while it wrote
        with atomic_path(folder) as temporary:
            model.encoder.save_pretrained(temporary)
            head = {name: value.contiguous() for name, value in model.head.state_dict().items()}
            save_file(head, temporary / HEAD_FILE)
            (temporary / TASK_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            if tokenizer.is_dir():
                shutil.copytree(tokenizer, temporary / tokenizer.name)
            else:
                shutil.copyfile(tokenizer, temporary / tokenizer.name)
            if folder.is_dir():
                shutil.rmtree(folder)


def load_finetuned(folder: str | Path, device: str = "cpu") -> Finetuned:
    """Open a finetuned model: a folder `best` or `epochs/NN` that a finetuning job has left.

    Args:
        folder: The folder.
        device: Where to predict: `cpu` or `cuda`.

    Raises:
        InputError: A file is missing or is not what it should be.
    """
    folder = Path(folder)
    path = folder / TASK_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        task = get_task(about["task"])
        labels = Labels(**{name: _hashable(value) for name, value in about["labels"].items()})
        max_length, stride = int(about["max_length"]), int(about["stride"])
    except FileNotFoundError:
        raise InputError.at(path, None, "no such file; `best` and `epochs/NN` of a finetuning job hold it") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError.at(path, None, f"not written by a finetuning job ({error!r})") from None
    model = TaskModel(task, labels, load_encoder(folder))
    try:
        model.head.load_state_dict(load_file(folder / HEAD_FILE))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError.at(folder / HEAD_FILE, None, f"not the head of this model: {reason}") from None
    return Finetuned(model.to(device).eval(), Tokenizer.load(tokenizer_of(folder)), max_length, stride)


def tokenizer_of(folder: Path) -> Path:
    """The tokenizer in a folder: `tokenizer.model` (SentencePiece), or `tokenizer` (a Hugging Face folder).

    Raises:
        InputError: Neither is there.
    """
    for name in TOKENIZER_NAMES:
        if (folder / name).exists():
            return folder / name
    raise InputError.at(folder, None, f"holds no tokenizer; {' or '.join(TOKENIZER_NAMES)} should be there")


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
