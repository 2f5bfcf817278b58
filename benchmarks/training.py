"""What a training step takes: `python -m benchmarks.training [--sizes ...] [--sections ...]`.

Without Ray and MLflow. Tables: plain steps against transformers' BertForMaskedLM; bilevel steps against plain ones, in
time and memory; steps whose gradients are compared between languages, and not; two processes against one; and, where
there is a GPU, its use. Contenders take turns, step by step, and a table gives medians; ratios are medians of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.contenders import (
    LANGUAGES,
    SIZES,
    Contender,
    Size,
    Step,
    make_engine,
    one_of_two,
    ours,
    ours_bilevel,
    ours_watched,
    peer,
    predicted_tokens,
    products,
    random_batches,
    square,
    take_turns,
)
from raylab.train.engine import Engine

_MIB = 2**20
_SQUARE = 2048  # rows of the matrices whose product shows the machine's rate
_WINDOW = 10  # steps, between two comparisons of gradients: the paper's
_FORWARD_PASSES = {"plain": 3, "bilevel": 16}  # a step's cost in forward passes; raylab.train.meta counts them
_BF16_PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n")
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("   ".join(["   ", first.strip().ljust(widths[0]), *others]).rstrip())


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of what one contender took over what another took."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def mlm(size: Size, repeats: int) -> None:
    """Plain steps of ours and of the peer, with the settings of our workers and with PyTorch's own."""
    seconds = take_turns(
        {
            f"{name}, {'our settings' if settings else 'plain PyTorch'}": [Contender(make, size, settings=settings)]
            for settings in (True, False)
            for name, make in (("ours", ours), ("peer", peer), ("products", products))
        }
        | {
            f"square, {name}": [Contender(square, _SQUARE, settings=settings)]
            for settings, name in ((True, "our settings"), (False, "plain PyTorch"))
        },
        repeats,
    )
    operations = 3 * size.operations(predicted_tokens(random_batches(size, "en")))
    slowest = seconds["peer, plain PyTorch"]
    rows = []
    for name, found in seconds.items():
        contender, settings = name.split(", ")
        if contender in ("ours", "peer"):
            alone, squared = (seconds[f"{other}, {settings}"] for other in ("products", "square"))
            rate = operations / statistics.median(found)
            best = 2 * _SQUARE**3 / statistics.median(squared)
            rows.append(
                [
                    name,
                    f"{size.tokens / statistics.median(found):,.0f}",
                    f"{ratio(slowest, found):.2f}",
                    f"{rate / 1e9:.0f}",
                    f"{operations / statistics.median(alone) / 1e9:.0f}",
                    f"{ratio(alone, found):.0%}" if contender == "ours" else "",
                    f"{best / 1e9:.0f}",
                    f"{rate / best:.0%}" if contender == "ours" else "",
                ]
            )
    print_table(
        f"{_described(size)}: plain steps, float32, dropout 0.1, 2 threads",
        ["", "tokens/s", "over the last", "useful Gflop/s", "products alone", "share", "square", "share"],
        rows,
    )


def meta(size: Size, repeats: int) -> None:
    """Bilevel steps over plain ones: seconds, and the memory that steps add."""
    contenders = {
        "plain step": (ours, "meta_adapter"),
        "finite_difference": (ours_bilevel, "finite_difference"),
        "finite_difference, half": (ours_bilevel, "finite_difference", 0.5),
        "forward_difference": (ours_bilevel, "forward_difference"),
        "exact": (ours_bilevel, "exact"),
    }
    seconds = take_turns(
        {name: [Contender(make, size, *arguments)] for name, (make, *arguments) in contenders.items()}, repeats
    )
    memory = {}
    for name, (make, *arguments) in contenders.items():
        contender = Contender(added_memory, make, size, *arguments)
        contender.begin(1)
        memory[name] = contender.end()
        contender.close()
    plain = "plain step"
    print_table(
        f"{_described(size)}: bilevel steps, two languages, float32, 2 threads",
        ["", "s a step", "over plain", "memory added, MiB", "over plain"],
        [
            [
                name,
                f"{statistics.median(found):.3f}",
                f"{ratio(found, seconds[plain]):.2f}",
                f"{memory[name] / _MIB:.0f}",
                f"{memory[name] / memory[plain]:.2f}",
            ]
            for name, found in seconds.items()
        ],
    )


def watch(size: Size, repeats: int) -> None:
    """Steps of which the gradients are compared, over steps without."""
    teams = {name: [Contender(ours_watched, size, _WINDOW, name == "compared")] for name in ("plain", "compared")}
    plain, compared = take_turns(teams, repeats, warm_up=1).values()
    seconds = [f"{statistics.median(found) / _WINDOW:.3f}" for found in (plain, compared)]
    print_table(
        f"{_described(size)}: gradients of two languages compared every {_WINDOW} steps, float32, 2 threads",
        ["", "s a step without", "with", "more"],
        [["joint", *seconds, f"{ratio(compared, plain) - 1:+.1%}"]],
    )


def added_memory(make: object, size: Size, *arguments: object) -> Step:
    """A step that takes three of another contender's and returns, in bytes, by how much memory grew at its peak."""
    assert callable(make)
    step: Step = make(size, *arguments)

    def measure(number: int) -> float:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        before = _resident("VmRSS")
        for repeat in range(3):
            step(number + repeat)
        return float(_resident("VmHWM") - before)

    return measure


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def workers(size: Size, repeats: int) -> None:
    """Two processes of one thread against one of two, on the size's batch and on one four times as large."""
    rows = []
    for batch in (size, replace(size, sequences=4 * size.sequences)):
        with tempfile.TemporaryDirectory() as folder:
            meeting_point = Path(folder) / "rendezvous"
            team = [Contender(one_of_two, batch, rank, meeting_point, threads=1) for rank in range(2)]
            one, two = take_turns({"one": [Contender(ours, batch)], "two": team}, repeats).values()
        rows.append(
            [
                f"{batch.sequences} x {batch.length}",
                f"{batch.tokens / statistics.median(one):,.0f}",
                f"{batch.tokens / statistics.median(two):,.0f}",
                f"{ratio(one, two):.2f}",
            ]
        )
    print_table(
        f"{_described(size)}: plain steps, gloo, float32; tokens/s by batch",
        ["", "1 process, 2 threads", "2 processes, 1 thread each", "ratio"],
        rows,
    )


def gpu(size: Size, repeats: int, *, device: str = "cuda", sequences: Sequence[int] = (64, 256)) -> None:
    """Plain and bilevel steps in bfloat16 autocast on larger batches."""
    best = _bf16_rate(device)
    nominal = _BF16_PEAKS.get(torch.cuda.get_device_name()) if device == "cuda" else None
    rows = []
    for larger in (replace(size, sequences=count) for count in sequences):
        batches = [random_batches(larger, language, 1)[0] for language in LANGUAGES]
        forward = larger.operations(predicted_tokens(batches))
        for kind in ("plain", "bilevel"):
            for compiled in (False, True):
                engine = make_engine(larger, "meta_adapter", device=device, precision="bf16", compile=compiled)
                seconds, memory = _steps_on_gpu(engine, kind, batches, repeats, device)
                rate = forward * _FORWARD_PASSES[kind] / seconds
                rows.append(
                    [
                        f"{kind}{', compiled' if compiled else ''}, {larger.sequences} sequences",
                        f"{larger.tokens / seconds:,.0f}",
                        f"{rate / 1e12:.1f}",
                        f"{rate / best:.0%}",
                        f"{rate / nominal:.0%}" if nominal else "",
                        f"{memory / _MIB:,.0f}",
                    ]
                )
                del engine
    print_table(
        f"{_described(size)}: bf16 autocast on {torch.cuda.get_device_name() if device == 'cuda' else device}, whose "
        f"products of 8192 x 8192 bf16 matrices run at {best / 1e12:.1f} Tflop/s",
        ["", "tokens/s", "useful Tflop/s", "of products", "of nominal", "memory added, MiB"],
        rows,
    )


def _steps_on_gpu(engine: Engine, kind: str, batches: list, repeats: int, device: str) -> tuple[float, float]:
    """Median seconds of a step, and bytes by which memory grew at its peak from before the first."""
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    found = []
    for number in range(1, 6 + repeats):
        started = time.perf_counter()
        if kind == "bilevel":
            engine.meta_step(number, batches[0], batches)
        engine.step(number, batches[0], shared_only=kind == "bilevel")
        if on_gpu:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found[5:]), float(torch.cuda.max_memory_allocated() - before) if on_gpu else 0.0


def _bf16_rate(device: str, width: int = 8192) -> float:
    """Operations a second of a large product of bfloat16 matrices."""
    a = torch.randn(width if device == "cuda" else 512, width if device == "cuda" else 512, device=device).bfloat16()
    found = []
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(a, a)
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return 2 * len(a) ** 3 / statistics.median(found)


def _described(size: Size) -> str:
    return (
        f"{size.name} ({size.layers} layers of {size.dim}, {size.heads} heads, ffn {size.ffn_dim}, vocabulary "
        f"{size.vocabulary}, {size.sequences} x {size.length} tokens)"
    )


def machine() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    sections = {"mlm": mlm, "meta": meta, "watch": watch, "workers": workers, "gpu": gpu}
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES])
    parser.add_argument("--sections", nargs="+", choices=sections, default=[*sections])
    parser.add_argument("--repeats", type=int, default=15, help="measured steps of each contender")
    options = parser.parse_args()
    print("python -m benchmarks.training", *sys.argv[1:])
    print(f"{machine()}, {torch.get_num_threads()} threads by default; torch {torch.__version__}")
    for section in options.sections:
        if section == "gpu":
            if torch.cuda.is_available():
                gpu(SIZES["paper"], options.repeats)
            continue
        for name in options.sizes:
            sections[section](SIZES[name], options.repeats)


if __name__ == "__main__":
    main()
