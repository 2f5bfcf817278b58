"""Text of any kind to plain text, one sentence a line, once per language and set of options.

A language whose train and valid text are one plain file each, to be read as they are, needs no extraction. Others get

CACHE/KEY/{train,valid}.txt    one sentence a line, UTF-8
CACHE/KEY/reading.json         what was left out
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raylab.atomic import atomic_path, locked
from raylab.config import TextOptions
from raylab.data.location import TextFile, digest_of
from raylab.data.readers import Reading, read_records, split_lines
from raylab.data.sentences import SENTENCES_VERSION, normalize, split_all
from raylab.errors import InputError
from raylab.hashing import fingerprint

_VERSION = 1  # raised when equal files and options come to give other text
_USED = set(TextOptions.model_fields) - {"meta_fraction"}
_WRITE_BUFFER = 1 << 20


@dataclass(frozen=True)
class PlainText:
    """One language's text as two plain files.

    Attributes:
        train: One sentence a line.
        valid: The same, held out.
        left_out: What the extraction left out.
    """

    train: Path
    valid: Path
    left_out: Reading


def relevant_options(texts: Sequence[Mapping[str, list[TextFile]]], options: TextOptions) -> TextOptions:
    """The options with those that cannot matter to the texts of these languages at their defaults."""
    default = TextOptions()
    update: dict[str, object] = {}
    if all(file.format == "text" for files in texts for parts in files.values() for file in parts):
        update["text_field"] = default.text_field
    if all("valid" in files for files in texts):
        update["valid_fraction"] = default.valid_fraction
    return options.model_copy(update=update)


def extract(
    files: Mapping[str, list[TextFile]],
    language: str,
    options: TextOptions,
    cache: Path,
    report: Callable[[float], None] | None = None,
) -> PlainText:
    """One language's text as plain files, which are made where they are not there yet.

    Without a valid split, whole records (lines, documents) are held out by a hash of their content. With
    `options.deduplicate`, a training sentence is kept where it stands first. Memory does not grow with the text, but
    for 8 bytes a distinct sentence (16 for moments) while duplicates are dropped.

    Args:
        files: By split, as `find_text` gives them.
        language: Whose abbreviations the rules of sentences know.
        options: How the files are read.
        cache: Folder of what was extracted; it may be shared by processes.
        report: Told the share that is done, from 0 to 1.

    Raises:
        InputError: As `read_records`; or a split comes out empty.
    """
    if plain := _as_they_are(files, options):
        return plain
    relevant = relevant_options([files], options)
    key = fingerprint(
        [_VERSION, SENTENCES_VERSION, digest_of(files), language, relevant.model_dump(mode="json", include=_USED)]
    )
    folder = cache / key
    with locked(cache / f"{key}.lock"):
        if not folder.is_dir():
            for leftover in cache.glob(f".{key}.*"):
                shutil.rmtree(leftover, ignore_errors=True)  # of a process that was killed: this one holds the lock
            with atomic_path(folder) as temporary:
                temporary.mkdir()
                left_out = _write(files, language, options, temporary, report or (lambda done: None))
                (temporary / "reading.json").write_text(json.dumps(asdict(left_out)), encoding="utf-8")
    left_out = Reading(**json.loads((folder / "reading.json").read_text(encoding="utf-8")))
    return PlainText(folder / "train.txt", folder / "valid.txt", left_out)


def _as_they_are(files: Mapping[str, list[TextFile]], options: TextOptions) -> PlainText | None:
    """The files themselves, where nothing is to be done to them."""
    if options.sentence_split != "lines" or options.normalization != "none" or options.deduplicate:
        return None
    alone = [parts[0] for split in ("train", "valid") if len(parts := files.get(split, [])) == 1]
    paths = [file.local for file in alone if file.format == "text" and file.compression is None]
    if len(paths) != 2 or paths[0] is None or paths[1] is None:
        return None
    return PlainText(paths[0], paths[1], Reading())


def _write(
    files: Mapping[str, list[TextFile]],
    language: str,
    options: TextOptions,
    folder: Path,
    report: Callable[[float], None],
) -> Reading:
    reading = Reading()
    total = max(1, sum(file.size for parts in files.values() for file in parts))
    seen = SeenNumbers() if options.deduplicate else None
    written = {"train": 0, "valid": 0}

    def put(split: str, paragraphs: list[str]) -> None:
        sentences = split_all(paragraphs, language, options.sentence_split)
        written[split] += len(sentences)
        if split == "train" and seen is not None and sentences:
            new = seen.add(content_numbers(sentences))
            reading.dropped_duplicates += len(sentences) - int(new.sum())
            sentences = list(compress(sentences, new.tolist()))
        if sentences:
            streams[split].write("\n".join(sentences) + "\n")

    with (
        (folder / "train.txt").open("w", encoding="utf-8", newline="\n", buffering=_WRITE_BUFFER) as train,
        (folder / "valid.txt").open("w", encoding="utf-8", newline="\n", buffering=_WRITE_BUFFER) as valid,
    ):
        streams = {"train": train, "valid": valid}
        for split, parts in files.items():
            for file in parts:
                for records in read_records(
                    file, text_field=options.text_field, invalid_utf8=options.invalid_utf8, reading=reading
                ):
                    if options.normalization != "none":
                        records = [normalize(record, options.normalization) for record in records]
                    as_lines = file.format == "text" and options.normalization == "none"
                    if split == "valid" or "valid" in files:
                        put(split, records if as_lines else _paragraphs(records))
                    else:
                        held_out = content_numbers(records) < np.uint64(round(options.valid_fraction * 2**64))
                        for to, chosen in (("train", ~held_out), ("valid", held_out)):
                            part = list(compress(records, chosen.tolist()))
                            put(to, part if as_lines else _paragraphs(part))
                    report(min(1.0, reading.bytes / total))
    for split, count in written.items():
        if not count:
            raise _empty(split, files, options, written["train"], reading)
    return reading


def _paragraphs(records: list[str]) -> list[str]:
    return [line for record in records for line in split_lines(record)]


def _empty(
    split: str, files: Mapping[str, list[TextFile]], options: TextOptions, sentences: int, reading: Reading
) -> InputError:
    place = files.get(split, files["train"])[0].name
    more = f" and {len(files[split]) - 1} more" if len(files.get(split, [])) > 1 else ""
    if split == "valid" and "valid" not in files:
        return InputError.at(
            place,
            None,
            f"none of {sentences} sentences fell to the valid split; more text, a valid file, or more than "
            f"data.valid_fraction: {options.valid_fraction:g} would do",
        )
    skipped = f": all {reading.skipped_lines} records are not UTF-8" if reading.skipped_lines else ""
    return InputError.at(place, None, f"no sentence found in the {split} text{more}{skipped}; UTF-8 text is expected")


def content_numbers(texts: list[str]) -> NDArray[np.uint64]:
    """A 64-bit random number for each text, from its content alone."""
    digests = [hashlib.blake2b(text, digest_size=8).digest() for text in map(str.encode, texts)]
    return np.frombuffer(b"".join(digests), dtype="<u8")


class SeenNumbers:
    """A growing set of 64-bit numbers, 8 bytes each and twice that while it is merged.

    It is kept as sorted runs, each more than twice as long as the next: a new run is merged with those that are not.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, numbers: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Add numbers; returns for each [n] whether it is there for the first time."""
        run, first = np.unique(numbers, return_index=True)
        new = np.ones(len(run), dtype=bool)
        for other in self._runs:
            places = np.minimum(np.searchsorted(other, run), len(other) - 1)
            new &= other[places] != run
        is_new = np.zeros(len(numbers), dtype=bool)
        is_new[first[new]] = True
        run = run[new]
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # two sorted runs: it merges them
        if len(run):
            self._runs.append(run)
        return is_new
