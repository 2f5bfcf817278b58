"""What `benchmarks.training` measures: one training step of ours, of a peer, or only its matrix products.

Each lives in a process of its own, so that settings of a whole process can differ, and takes one step when it is told
to, so that contenders can take turns.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raylab.config import MetaConfig, ModelConfig, PretrainConfig
from raylab.data.masking import mask_tokens, predicted
from raylab.model import Encoder
from raylab.model.matmul import use_widest_matmul
from raylab.train.distributed import Workers
from raylab.train.engine import Engine
from raylab.train.masked_text import Batch
from raylab.train.memory import keep_freed_memory

LANGUAGES = ("en", "fr")
MAX_LENGTH = 512
DROPOUT = 0.1
_BATCHES = 4  # that a contender goes round; the number of masked tokens differs, as it does in training
_SPECIAL = range(5)

Step = Callable[[int], float | None]  # takes the step's number, may return its seconds


@dataclass(frozen=True)
class Size:
    """A model and a batch."""

    name: str
    layers: int
    dim: int
    heads: int
    ffn_dim: int
    vocabulary: int
    sequences: int
    length: int

    @property
    def tokens(self) -> int:
        return self.sequences * self.length

    def operations(self, predicted_tokens: float) -> float:
        """Floating-point operations of a forward pass's matrix products; only predicted tokens are projected."""
        linear = 2 * (4 * self.dim**2 + 2 * self.dim * self.ffn_dim)
        attention = 4 * self.length * self.dim
        return self.tokens * self.layers * (linear + attention) + 2 * predicted_tokens * self.dim * self.vocabulary


SIZES = {
    "small": Size("small", 4, 256, 4, 1024, 8000, 16, 128),
    "paper": Size("paper", 8, 512, 8, 2048, 32000, 8, 128),
}


class Contender:
    """A process that takes steps when told to.

    Args:
        make: Makes the step there.
        arguments: Of `make`.
        threads: Of PyTorch.
        settings: Whether memory is kept and matrix products are as in raylab's workers, or as in plain PyTorch.
    """

    def __init__(self, make: Callable[..., Step], *arguments: Any, threads: int = 2, settings: bool = True):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments, threads, settings), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, number: int) -> None:
        """Start a step; `end` waits for it."""
        self._pipe.send(number)

    def end(self) -> float:
        """Seconds that the step took."""
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _serve(
    pipe: Connection, make: Callable[..., Step], arguments: tuple[Any, ...], threads: int, settings: bool
) -> None:
    torch.set_num_threads(threads)
    if settings:
        keep_freed_memory()
        use_widest_matmul()
    step = make(*arguments)
    for number in iter(pipe.recv, None):
        started = time.perf_counter()
        seconds = step(number)
        pipe.send(time.perf_counter() - started if seconds is None else seconds)


def take_turns(teams: dict[str, list[Contender]], repeats: int, warm_up: int = _BATCHES) -> dict[str, list[float]]:
    """Seconds of `repeats` steps of each team; in each round every team takes one step, its members at once."""
    found: dict[str, list[float]] = {name: [] for name in teams}
    for number in range(1, warm_up + repeats + 1):
        for name, members in teams.items():
            for member in members:
                member.begin(number)
            seconds = max(member.end() for member in members)
            if number > warm_up:
                found[name].append(seconds)
    for member in (member for members in teams.values() for member in members):
        member.close()
    return found


def random_batches(size: Size, language: str, count: int = _BATCHES, *, share: float = 1.0) -> list[Batch]:
    """Batches of random tokens, masked as text is."""
    generator = torch.Generator().manual_seed(len(language))
    rows = max(1, round(share * size.sequences))
    batches = []
    for _ in range(count):
        tokens = torch.randint(len(_SPECIAL), size.vocabulary, (rows, size.length), generator=generator)
        inputs, labels = mask_tokens(
            tokens, mask_id=4, vocab_size=size.vocabulary, special_ids=_SPECIAL, generator=generator
        )
        batches.append(Batch(language, inputs, labels))
    return batches


def predicted_tokens(batches: Iterable[Batch]) -> float:
    """Mean number of tokens to predict in a batch."""
    counts = [len(predicted(batch.labels)[0]) for batch in batches]
    return sum(counts) / len(counts)


def make_engine(
    size: Size,
    variant: str,
    method: str = "finite_difference",
    *,
    device: str = "cpu",
    precision: str = "fp32",
    compile: bool = False,
    gradients_every: int = 0,
) -> Engine:
    """Our training of one size."""
    torch.manual_seed(0)
    model = ModelConfig(
        num_layers=size.layers,
        dim=size.dim,
        num_heads=size.heads,
        ffn_dim=size.ffn_dim,
        dropout=DROPOUT,
        max_length=MAX_LENGTH,
    )
    config = PretrainConfig(
        batch_size=size.sequences,
        sequence_length=size.length,
        precision=precision,
        gradients_every=gradients_every,
    )
    return Engine(
        Encoder(model, size.vocabulary, LANGUAGES, variant).to(device),
        config,
        meta=MetaConfig(method=method) if variant == "meta_adapter" else None,
        workers=Workers.current(),
        compile=compile,
    )


def ours(size: Size, variant: str = "joint") -> Step:
    """Plain steps of ours."""
    engine, batches = make_engine(size, variant), random_batches(size, "en")

    def step(number: int) -> None:
        engine.step(number, batches[number % _BATCHES])

    return step


def ours_bilevel(size: Size, method: str, share: float = 1.0) -> Step:
    """Meta-steps, each with the step of theta, on validation batches of two languages, of this share of the size."""
    engine, batches = make_engine(size, "meta_adapter", method), random_batches(size, "en")
    held_out = list(zip(*(random_batches(size, language, share=share) for language in LANGUAGES), strict=True))

    def step(number: int) -> None:
        turn = number % _BATCHES
        engine.meta_step(number, batches[turn], held_out[turn])
        engine.step(number, batches[turn], shared_only=True)

    return step


def ours_watched(size: Size, window: int, watched: bool) -> Step:
    """A window of plain steps on two languages in turn, whose gradients are compared at its end or not at all."""
    engine = make_engine(size, "joint", gradients_every=window if watched else 0)
    batches = [random_batches(size, language) for language in LANGUAGES]

    def step(number: int) -> None:
        for place in range((number - 1) * window + 1, number * window + 1):
            engine.step(place, batches[place % 2][place % _BATCHES])
            engine.compared(place)

    return step


def one_of_two(size: Size, rank: int, meeting_point: Path) -> Step:
    """Plain steps of ours by one of two workers."""
    torch.distributed.init_process_group("gloo", init_method=meeting_point.as_uri(), rank=rank, world_size=2)
    return ours(size)


def peer(size: Size) -> Step:
    """Steps of transformers' BertForMaskedLM with PyTorch's AdamW."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.dim,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.ffn_dim,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
        attn_implementation="sdpa",
    )
    model = BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batches = random_batches(size, "en")

    def step(number: int) -> None:
        batch = batches[number % _BATCHES]
        model(input_ids=batch.inputs, labels=batch.labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def square(width: int) -> Step:
    """One product of square matrices: the rate that the machine reaches."""
    a, b = torch.randn(width, width), torch.randn(width, width)

    def step(number: int) -> None:
        torch.mm(a, b)

    return step


def products(size: Size) -> Step:
    """The matrix products of a plain step and nothing else: forward, and backward to both factors."""
    rows, width = size.tokens, size.dim // size.heads
    shapes = [  # [batch, m, k, n], and how often
        ((1, rows, size.dim, 3 * size.dim), size.layers),
        ((1, rows, size.dim, size.dim), size.layers),
        ((1, rows, size.dim, size.ffn_dim), size.layers),
        ((1, rows, size.ffn_dim, size.dim), size.layers),
        ((1, round(predicted_tokens(random_batches(size, "en"))), size.dim, size.vocabulary), 1),
        ((size.sequences * size.heads, size.length, width, size.length), size.layers),
        ((size.sequences * size.heads, size.length, size.length, width), size.layers),
    ]
    sets = [([torch.randn(b, *pair) for pair in ((m, k), (n, k), (m, n))], count) for (b, m, k, n), count in shapes]

    def once(x: Tensor, weight: Tensor, gradient: Tensor) -> None:
        if len(x) > 1:
            torch.bmm(x, weight.mT)
            torch.bmm(gradient, weight)
            torch.bmm(gradient.mT, x)
        else:
            F.linear(x[0], weight[0])
            torch.mm(gradient[0], weight[0])
            torch.mm(gradient[0].mT, x[0])

    def step(number: int) -> float:
        total = 0.0
        for factors, count in sets:
            started = time.perf_counter()
            once(*factors)
            total += count * (time.perf_counter() - started)
        return total

    return step
