"""The corpora of one language set to a tokenizer and token stores.

FOLDER/tokenizer.model
FOLDER/tokens/LANG/{train,meta,valid}.arrow
FOLDER/statistics.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from raylab.config import PrepareJob
from raylab.data.atomic import atomic_path
from raylab.data.corpus import SPLITS, Corpus, Reading, open_corpus
from raylab.data.source import Source
from raylab.data.store import TokenCounts, TokenStore, TokenWriter, open_writer
from raylab.data.tokenizer import Tokenizer, train_tokenizer
from raylab.errors import InputError

_TOKENIZER_BYTES = 32 << 20  # text that the tokenizer is trained on, all languages together
_RARE_CHARACTERS = 2e-4  # of any one language's characters, at most this share gets no piece
_TOKENIZER_SHARE = 0.3  # of all work

Report = Callable[[str, float], None]


class Prepared:
    """What `prepare` wrote.

    Args:
        folder: Where.

    Raises:
        InputError: It is not there, or not complete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / "statistics.json"
        if not path.is_file():
            raise InputError.at(
                folder, None, "no statistics.json here: not a folder of prepared data, or not a complete one"
            )
        self.statistics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that all languages of the set share."""
        return Tokenizer.load(self.folder / "tokenizer.model")

    @property
    def sizes(self) -> dict[str, int]:
        """Sentences in each language's train split: L_i of temperature sampling."""
        return {language: counts["sentences"]["train"] for language, counts in self.statistics.items()}

    def store(self, language: str, split: str) -> TokenStore:
        """The tokens of one split: `train`, `meta` or `valid`.

        Raises:
            InputError: The language or split is not among what was prepared.
        """
        if language not in self.statistics or split not in SPLITS:
            languages = ", ".join(self.statistics)
            raise InputError.at(
                self.folder, None, f"no {split} split of {language}; {', '.join(SPLITS)} of {languages} are there"
            )
        return TokenStore(_store_path(self.folder, language, split))


def prepare(job: PrepareJob, source: Source, folder: Path, report: Report | None = None) -> dict[str, Any]:
    """Train a tokenizer on the training text of all the job's languages, and write their tokens.

    Memory does not grow with the text, but for 8 bytes a sentence of the valid split and of a subsample.

    Args:
        job: What to prepare.
        source: Where the text is.
        folder: Where to write; made where it is missing. Every file in it appears whole, `statistics.json` last.
        report: Called with what is being done and the share of all work that is done, from 0 to 1.

    Returns:
        The contents of `statistics.json`, a dictionary for each language:

        - `sentences`, `tokens`: by split; </s> counts as a token.
        - `words`: words of the train split, after normalisation.
        - `tokens_per_word`, `unknown_rate`: of the train split, </s> left out; the latter is the share that is <unk>.
        - `skipped_lines`: lines that are not UTF-8. `dropped_duplicates`: training sentences that stand in valid too.

    Raises:
        InputError: Text is missing, empty, not UTF-8; or does not support the vocabulary.
    """
    report = report or _silent
    report("reading the text", 0.0)
    corpora = {
        language: open_corpus(
            source.text(language, "train"),
            source.text(language, "valid"),
            subsample=job.subsample.get(language),
            meta_fraction=job.meta_fraction,
            invalid_utf8=job.invalid_utf8,
        )
        for language in job.languages
    }
    report(f"training a tokenizer on {', '.join(job.languages)}", 0.0)
    tokenizer = _train_tokenizer(list(corpora.values()), folder / "tokenizer.model", job)

    statistics = {}
    done = _TOKENIZER_SHARE
    for language, corpus in corpora.items():
        share = (1 - _TOKENIZER_SHARE) * corpus.size / sum(other.size for other in corpora.values())
        reading = Reading()
        with _open_writers(folder, language, tokenizer) as writers:
            for split, rows in _encode_ahead(corpus.blocks(reading), tokenizer):
                writers[split].write(rows)
                report(f"writing the tokens of {language}", done + share * reading.bytes / corpus.size)
        statistics[language] = _summary({split: writers[split].counts for split in SPLITS}, tokenizer, reading)
        done += share
    with atomic_path(folder / "statistics.json") as temporary:
        temporary.write_text(json.dumps(statistics, indent=2), encoding="utf-8")
    report("prepared", 1.0)
    return statistics


def _silent(message: str, done: float) -> None:
    """The report to nobody."""


def _store_path(folder: Path, language: str, split: str) -> Path:
    return folder / "tokens" / language / f"{split}.arrow"


def _train_tokenizer(corpora: Sequence[Corpus], path: Path, job: PrepareJob) -> Tokenizer:
    """Train on text in proportion to the square roots of the corpora's sizes (Lample and Conneau 2019, section 3.1).

    In proportion to the sizes themselves, a small corpus would get few merges, and its characters would be among the
    rarest of the whole text, which become <unk>. For the same reason, the characters left out are a share of the
    smallest part of the text.
    """
    sizes = [max(1, corpus.train_size) for corpus in corpora]
    parts = [math.sqrt(size * max(sizes)) for size in sizes]  # bytes: the largest corpus once, the others repeated
    scale = min(1.0, _TOKENIZER_BYTES / sum(parts))
    sentences = chain.from_iterable(
        corpus.tokenizer_sample(scale * part / size) for corpus, part, size in zip(corpora, parts, sizes, strict=True)
    )
    train_tokenizer(
        sentences,
        path,
        job.vocab_size,
        character_coverage=1 - _RARE_CHARACTERS * min(parts) / sum(parts),
        text_name=f"the training text of {', '.join(job.languages)}",
    )
    return Tokenizer.load(path)


@contextmanager
def _open_writers(folder: Path, language: str, tokenizer: Tokenizer) -> Iterator[dict[str, TokenWriter]]:
    """A writer for each split, all closed at the end."""
    with ExitStack() as stack:
        writers = {}
        for split in SPLITS:
            path = _store_path(folder, language, split)
            writer = open_writer(path, vocab_size=tokenizer.vocab_size, end_id=tokenizer.eos_id)
            writers[split] = stack.enter_context(writer)
        yield writers


def _encode_ahead(
    blocks: Iterable[tuple[str, list[str]]], tokenizer: Tokenizer
) -> Iterator[tuple[str, list[list[int]]]]:
    """The token ids of each block's sentences, encoded while the block before is written and the one after is read."""
    num_threads = torch.get_num_threads()  # Ray sets it to the cores that the job may use
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: tuple[str, Future[list[list[int]]]] | None = None
        for split, sentences in blocks:
            following = split, pool.submit(tokenizer.encode_batch, sentences, num_threads=num_threads)
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting:
            yield waiting[0], waiting[1].result()


def _summary(counts: Mapping[str, TokenCounts], tokenizer: Tokenizer, reading: Reading) -> dict[str, Any]:
    train = counts["train"]
    subwords = train.tokens - train.sentences
    words = int(train.frequencies[tokenizer.starts_word].sum())
    return {
        "sentences": {split: counts[split].sentences for split in SPLITS},
        "tokens": {split: counts[split].tokens for split in SPLITS},
        "words": words,
        "tokens_per_word": subwords / max(1, words),
        "unknown_rate": int(train.frequencies[tokenizer.unk_id]) / max(1, subwords),
        "skipped_lines": reading.skipped_lines,
        "dropped_duplicates": reading.dropped_duplicates,
    }
