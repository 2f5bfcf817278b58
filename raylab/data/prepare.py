"""The corpora of one language set to a tokenizer and token stores.

FOLDER/tokenizer.model, or FOLDER/tokenizer/ where it is Hugging Face's
FOLDER/tokens/LANG/{train,meta,valid}.arrow
FOLDER/statistics.json

A preparation that was cut off goes on from the text that was extracted, the tokenizer and the languages that were done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, cast

from raylab.atomic import atomic_path, remove_leftovers
from raylab.config import PrepareJob
from raylab.data.corpus import SPLITS, Corpus, Reading, open_corpus
from raylab.data.encoding import StoreEncoder
from raylab.data.extract import extract
from raylab.data.source import Source
from raylab.data.store import TokenCounts, TokenStore, TokenWriter, open_writer
from raylab.data.tokenizer import ModelType, Tokenizer, train_tokenizer
from raylab.errors import InputError
from raylab.hashing import fingerprint, fingerprint_files

TRAINED_TOKENIZERS = ("bpe", "unigram")
"""Values of `data.tokenizer` that are no location."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")  # Hugging Face's
_TOKENIZER_BYTES = 32 << 20  # text that the tokenizer is trained on, all languages together
_RARE_CHARACTERS = 2e-4  # of any one language's characters, at most this share gets no piece
_EXTRACTION_SHARE = 0.25  # of all work, where there is something to extract
_TOKENIZER_SHARE = 0.3  # of the rest

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
        return Tokenizer.load(self.tokenizer_path)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's model file, or folder where it is Hugging Face's."""
        return _tokenizer_path(self.folder)

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
    """Give a language set a tokenizer, and write the tokens of its languages.

    Memory does not grow with the text, but for 8 bytes a sentence of the valid split and of a subsample, and what
    `extract` says.

    Args:
        job: What to prepare.
        source: Where the text is.
        folder: Where to write; made where it is missing. Every file in it appears whole, `statistics.json` last. What
            an equal job, cut off, left there is kept.
        report: Called with what is being done and the share of all work that is done, from 0 to 1.

    Returns:
        The contents of `statistics.json`, a dictionary for each language:

        - `sentences`, `tokens`: by split; </s> counts as a token.
        - `words`: words of the train split, after normalisation.
        - `tokens_per_word`, `unknown_rate`: of the train split, </s> left out; the latter is the share that is <unk>.
        - `skipped_lines`: lines that are not UTF-8. `dropped_duplicates`: training sentences that stand in valid too,
          or (with `job.deduplicate`) stood before.

    Raises:
        InputError: Text or tokenizer is missing or broken; or the text does not support the vocabulary.
    """
    report = report or _silent
    done = _Done(folder, job, source)
    report("reading the text", 0.0)
    corpora, left_out, begun = _open_corpora(job, source, folder, report)
    report(f"making a tokenizer for {', '.join(job.languages)}", begun)
    if "tokenizer" not in done:
        _make_tokenizer(list(corpora.values()), folder, job)
        done.add("tokenizer", {})
    tokenizer = Tokenizer.load(_tokenizer_path(folder))

    begun += (1 - begun) * _TOKENIZER_SHARE
    total = sum(corpus.size for corpus in corpora.values())
    before = 0
    for language, corpus in corpora.items():
        if language not in done:
            reading = left_out[language]
            encoder = StoreEncoder(tokenizer)
            with _open_writers(folder, language, tokenizer) as writers:
                for split, tokens in encoder.encode_all(corpus.blocks(reading), _threads()):
                    writers[split].write_joined(*tokens)
                    share = (before + reading.bytes) / total
                    report(f"writing the tokens of {language}", begun + (1 - begun) * share)
            done.add(language, _summary({split: writers[split].counts for split in SPLITS}, tokenizer, reading))
        before += corpus.size
    statistics = {language: done[language] for language in job.languages}
    with atomic_path(folder / "statistics.json") as temporary:
        temporary.write_text(json.dumps(statistics, indent=2), encoding="utf-8")
    done.forget()
    shutil.rmtree(folder / "text", ignore_errors=True)
    report("prepared", 1.0)
    return statistics


def _silent(message: str, done: float) -> None:
    """The report to nobody."""


class _Done(dict[str, dict[str, Any]]):
    """What a job has done in a folder, kept in a file there until all is done."""

    def __init__(self, folder: Path, job: PrepareJob, source: Source) -> None:
        texts = [source.text_fingerprint(language) for language in job.languages]
        self._job = fingerprint([job.model_dump(mode="json"), tokenizer_fingerprint(job.tokenizer), texts])
        self._path = folder / "done.json"
        remove_leftovers(folder)
        if self._path.is_file():
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["job"] == self._job:
                self.update(kept["done"])

    def add(self, part: str, result: dict[str, Any]) -> None:
        """Keep the result of a part whose files are written."""
        self[part] = result
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps({"job": self._job, "done": self}), encoding="utf-8")

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def _open_corpora(
    job: PrepareJob, source: Source, folder: Path, report: Report
) -> tuple[dict[str, Corpus], dict[str, Reading], float]:
    """The corpus of each language, what its extraction left out, and the share of all work that extraction took."""
    corpora, left_out, share = {}, {}, 0.0
    for number, language in enumerate(job.languages):

        def show(done: float, number: int = number, language: str = language) -> None:
            nonlocal share
            share = _EXTRACTION_SHARE * (number + done) / len(job.languages)
            report(f"extracting the text of {language}", share)

        plain = extract(source.text(language), source.named(language), job, source.cache or folder / "text", show)
        left_out[language] = replace(plain.left_out, bytes=0)
        corpora[language] = open_corpus(
            plain.train,
            plain.valid,
            subsample=job.subsample.get(language),
            meta_fraction=job.meta_fraction,
            invalid_utf8=job.invalid_utf8,
        )
    return corpora, left_out, share


def _store_path(folder: Path, language: str, split: str) -> Path:
    return folder / "tokens" / language / f"{split}.arrow"


def _tokenizer_path(folder: Path) -> Path:
    model = folder / "tokenizer.model"
    return model if model.is_file() else folder / "tokenizer"


def tokenizer_fingerprint(tokenizer: str) -> str | None:
    """Hash of the contents of an existing tokenizer, or None for one that is trained.

    Args:
        tokenizer: As `data.tokenizer`.

    Raises:
        InputError: There is no such tokenizer.
    """
    if tokenizer in TRAINED_TOKENIZERS:
        return None
    files = _tokenizer_files(Path(tokenizer))
    return fingerprint({file.name if len(files) > 1 else "": fingerprint_files([file]) for file in files})


def _tokenizer_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / _TOKENIZER_FILES[0]).is_file():
        return [path / name for name in _TOKENIZER_FILES if (path / name).is_file()]
    raise InputError(
        f"data.tokenizer: no {path}; {', '.join(TRAINED_TOKENIZERS)}, a SentencePiece model file, or a folder with "
        f"{_TOKENIZER_FILES[0]} would do"
    )


def _threads() -> int:
    """How many threads this process may use."""
    import torch  # a driver looks at tokenizers alone, and need not wait for it

    return torch.get_num_threads()


def _make_tokenizer(corpora: Sequence[Corpus], folder: Path, job: PrepareJob) -> None:
    if job.tokenizer in TRAINED_TOKENIZERS:
        _train_tokenizer(corpora, folder / "tokenizer.model", job)
        return
    path = Path(job.tokenizer)
    Tokenizer.load(path)  # whatever is wrong with it is told of the file that the user knows
    for file in _tokenizer_files(path):
        target = folder / "tokenizer.model" if path.is_file() else folder / "tokenizer" / file.name
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)


def _train_tokenizer(corpora: Sequence[Corpus], path: Path, job: PrepareJob) -> None:
    """Train on text in proportion to size^(1/T); T = 2, square roots, is as Lample and Conneau (2019, section 3.1).

    In proportion to the sizes themselves, a small corpus would get few merges, and its characters would be among the
    rarest of the whole text, which become <unk>. For the same reason, the characters left out are a share of the
    smallest part of the text.
    """
    assert job.vocab_size is not None
    sizes = [max(1, corpus.train_size) for corpus in corpora]
    largest = max(sizes)  # bytes: the largest corpus is taken once, the others are repeated
    parts = [largest * (size / largest) ** (1 / job.tokenizer_temperature) for size in sizes]
    scale = min(1.0, _TOKENIZER_BYTES / sum(parts))
    sentences = chain.from_iterable(
        corpus.tokenizer_sample(scale * part / size) for corpus, part, size in zip(corpora, parts, sizes, strict=True)
    )
    train_tokenizer(
        sentences,
        path,
        job.vocab_size,
        model_type=cast(ModelType, job.tokenizer),
        character_coverage=1 - _RARE_CHARACTERS * min(parts) / sum(parts),
        text_name=f"the training text of {', '.join(job.languages)}",
    )


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
