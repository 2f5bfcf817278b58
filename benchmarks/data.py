"""From text to token store: `python -m benchmarks.data [--mib 32] [--repeats 5] [--sections speed memory formats]`.

Text: the demo's English, or that of `--text`; the second time and later each sentence has a number behind it that makes
it a new one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import sentencepiece
import torch

from benchmarks.training import print_table, ratio
from raylab.config import PrepareJob, TextOptions
from raylab.data.demo import write_demo
from raylab.data.extract import extract
from raylab.data.location import find_text
from raylab.data.prepare import prepare
from raylab.data.source import Source
from raylab.data.tokenizer import train_tokenizer

_MIB = 2**20
_SENTENCES_AT_ONCE = 4096  # of the peer: on more it is slower


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--mib", type=int, default=32, help="MiB of text (default: 32)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument(
        "--text", type=Path, nargs="+", help="files with a sentence a line (default: the demo's English)"
    )
    parser.add_argument("--vocabulary", type=int, default=1500, help="pieces of the tokenizer (default: 1500)")
    parser.add_argument("--kind", choices=("bpe", "unigram"), default="bpe", help="of the tokenizer (default: bpe)")
    parser.add_argument(
        "--sections", nargs="+", choices=("speed", "memory", "formats"), default=("speed", "memory", "formats")
    )
    parser.add_argument("--measure", nargs=2, metavar=("SOURCE", "JOB"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sentences = _sentences(options.text, root)
        model = root / "tokenizer.model"
        train_tokenizer(islice(sentences(), 200_000), model, options.vocabulary, model_type=options.kind)
        if "speed" in options.sections:
            speed(root, sentences, model, options.mib, options.repeats)
        if "memory" in options.sections:
            memory(root, sentences, model, options.mib)
        if "formats" in options.sections:
            formats(root, sentences, options.mib)


def _sentences(paths: list[Path] | None, root: Path) -> Callable[[], Iterator[str]]:
    if not paths:
        write_demo(root / "demo", scale=1e-3, seed=0)
        paths = [root / "demo" / "text" / "en" / "train.txt"]
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return lambda: (f"{line} {number}" if number else line for number in count() for line in lines)


def _write(folder: Path, sentences: Iterator[str], mib: int) -> Path:
    """A source with one language `xx` of so much text."""
    text = folder / "text" / "xx"
    text.mkdir(parents=True)
    left = mib * _MIB
    with (text / "train.txt").open("wb") as stream:
        while left > 0:
            left -= stream.write(f"{next(sentences)}\n".encode())
    (text / "valid.txt").write_text("".join(f"{next(sentences)}\n" for _ in range(500)), encoding="utf-8")
    return folder


def _job(tokenizer: str) -> PrepareJob:
    return PrepareJob(languages=("xx",), subsample={}, tokenizer=tokenizer, vocab_size=1000)


def speed(root: Path, sentences: Callable[[], Iterator[str]], model: Path, mib: int, repeats: int) -> None:
    """`prepare` with a tokenizer that is there, beside SentencePiece's encoding of the same sentences, in memory."""
    folder = _write(root / "speed", sentences(), mib)
    path = folder / "text" / "xx" / "train.txt"
    size = path.stat().st_size
    text = path.read_text(encoding="utf-8")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    job = _job(str(model))

    def ours(threads: int) -> tuple[float, float]:
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory(dir=root) as prepared:
            wall, cpu = time.perf_counter(), time.process_time()
            prepare(job, Source(folder), Path(prepared) / "prepared")
            return time.perf_counter() - wall, time.process_time() - cpu

    def peer(threads: int) -> tuple[float, float]:
        lines = text.splitlines()  # anew: a string keeps its UTF-8 once it was asked for it
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(lines), _SENTENCES_AT_ONCE):
            processor.encode(lines[start : start + _SENTENCES_AT_ONCE], out_type=int, num_threads=threads)
        return time.perf_counter() - wall, time.process_time() - cpu

    cores = sorted(os.sched_getaffinity(0))
    rows = []
    for threads in [n for n in (1, 2) if n <= len(cores)]:
        os.sched_setaffinity(0, cores[:threads])
        times: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
        for _ in range(repeats + 1):
            for name, work in (("ours", ours), ("peer", peer)):
                times[name].append(work(threads))
        os.sched_setaffinity(0, cores)
        walls, cpus = ({name: [t[i] for t in times[name][1:]] for name in times} for i in (0, 1))  # the first warms up
        rate = {name: size / 1e6 / statistics.median(walls[name]) for name in times}
        rows.append(
            [
                str(threads),
                f"{rate['ours']:.2f}",
                f"{rate['peer']:.2f}",
                f"{ratio(walls['peer'], walls['ours']):.2f}",
                f"{ratio(cpus['peer'], cpus['ours']):.2f}",
            ]
        )
    if len(cores) > 1:  # as a sweep, and `raylab.data prepare`, go through the language sets of a study
        walls = {"peer": walls["peer"], "ours": []}
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
            for _ in range(repeats + 1):
                wall = time.perf_counter()
                list(pool.map(_prepare_once, [folder] * 2, [str(model)] * 2))
                walls["ours"].append((time.perf_counter() - wall) / 2)  # a set
        own = statistics.median(walls["ours"][1:])
        rows.append(
            [
                "2, a language set each",
                f"{size / 1e6 / own:.2f}",
                rows[-1][2],
                f"{ratio(walls['peer'], walls['ours'][1:]):.2f}",
                "",
            ]
        )
    title = (
        f"text file to token store ({size / 1e6:.0f} MB) beside SentencePiece's encoding of the same lines in memory"
    )
    print_table(title, ["cores, threads", "ours, MB/s", "SentencePiece, MB/s", "ratio", "of CPU time"], rows)


def _prepare_once(folder: Path, tokenizer: str) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=folder) as prepared:
        prepare(_job(tokenizer), Source(folder), Path(prepared) / "prepared")


def memory(root: Path, sentences: Callable[[], Iterator[str]], model: Path, mib: int) -> None:
    """Peak memory of `prepare` on so much text and on ten times that, each in a process of its own."""
    rows = []
    for tokenizer in (str(model), "bpe"):
        peaks = []
        for factor in (1, 10):
            folder = root / f"memory{factor}"
            if not folder.is_dir():
                _write(folder, sentences(), mib * factor)
            command = [sys.executable, "-m", "benchmarks.data", "--measure", str(folder), tokenizer]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks.append(float(done.stdout))
        name = "existing" if tokenizer == str(model) else tokenizer
        rows.append([name, *(f"{peak:.0f}" for peak in peaks), f"{peaks[1] / peaks[0]:.2f}"])
    columns = ["tokenizer", f"{mib} MiB of text", f"{10 * mib} MiB", "ratio"]
    print_table("peak memory of a preparation, MiB (interpreter and libraries included)", columns, rows)


def measure(folder: str, tokenizer: str) -> None:
    """Prepare, and print this process's peak memory, MiB."""
    with tempfile.TemporaryDirectory() as prepared:
        prepare(_job(tokenizer), Source(Path(folder)), Path(prepared) / "prepared")
    # Of /proc, as the ru_maxrss of a process begins with its parent's.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


def formats(root: Path, sentences: Callable[[], Iterator[str]], mib: int) -> None:
    """Extraction of each kind of file to plain text."""
    folder = root / "formats"
    folder.mkdir()
    lines = list(islice(sentences(), mib * 15_000))
    text = "\n".join(lines).encode()
    records = "\n".join(
        json.dumps({"id": n, "text": line}, ensure_ascii=False) for n, line in enumerate(lines)
    ).encode()
    documents = [" ".join(lines[start : start + 50]) for start in range(0, len(lines), 50)]
    (folder / "plain.txt").write_bytes(text)
    (folder / "lines.txt.gz").write_bytes(pa.compress(text, "gzip", asbytes=True))
    (folder / "lines.txt.zst").write_bytes(pa.compress(text, "zstd", asbytes=True))
    (folder / "lines.jsonl").write_bytes(records)
    pq.write_table(pa.table({"text": lines}), folder / "lines.parquet")
    pq.write_table(pa.table({"text": documents}), folder / "documents.parquet")
    rows = []
    for name, options in (
        ("plain.txt", TextOptions()),
        ("plain.txt", TextOptions(deduplicate=True)),
        ("plain.txt", TextOptions(normalization="nfkc")),
        ("lines.txt.gz", TextOptions()),
        ("lines.txt.zst", TextOptions()),
        ("lines.jsonl", TextOptions()),
        ("lines.parquet", TextOptions()),
        ("documents.parquet", TextOptions(sentence_split="rules")),
    ):
        with tempfile.TemporaryDirectory() as cache:
            begun = time.perf_counter()
            extract(find_text(str(folder / name)), "en", options, Path(cache))
            seconds = time.perf_counter() - begun
        changed = options.model_dump(exclude_defaults=True)
        what = ", ".join([name, *(f"{field}: {str(value).lower()}" for field, value in changed.items())])
        rows.append([what, f"{len(text) / 1e6 / seconds:.1f}"])
    print_table("extraction to plain text, one core", ["file", "MB of text a second"], rows)


if __name__ == "__main__":
    main()
