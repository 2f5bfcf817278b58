"""Where labelled data lie: raylab's own layout, XNLI's files, and XTREME's download folder as its script leaves it.

    ROOT/TASK/LANG/{train,dev,test}.*               raylab's own, one file a split; `.gz` too
    ROOT/nli/xnli.{dev,test}.{tsv,jsonl}            XNLI 1.0: one file for all languages
    ROOT/panx/SPLIT-LANG.tsv                        XTREME's NER (WikiANN)
    ROOT/udpos/SPLIT-LANG.tsv                       XTREME's POS (Universal Dependencies)
    ROOT/xnli/SPLIT-LANG.tsv                        XTREME's NLI; trains in English alone
    ROOT/tydiqa/tydiqa-goldp-v1.1-{train,dev}/*     XTREME's QA (TyDiQA-GoldP), where the folder is there; else
    ROOT/squad/*, ROOT/xquad/xquad.LANG.json        SQuAD 1.1 to train on, XQuAD to test on

A folder TASK goes before XTREME's for that task. XTREME's script (scripts/download_data.sh and utils_preprocess.py of
google-research/xtreme) takes the labels out of every test set, and two of its data sets have no dev set; what stands in
for a missing split is said by `Datasets.notes`:

- Test labels held back: half of dev is the test set, and the other half is dev. Sentences are placed by content, pairs
  of XNLI, whose languages are translations of each other, by their place in the file: in all languages the same.
- TyDiQA-GoldP: its dev set is the test set; a tenth of its training articles is dev. Where even that dev set has lost
  its answers, another tenth is the test set.
- XQuAD has a test set alone: dev is 9 of its 48 articles, the same in every language, and test the other 39 (979 of
  1190 questions). In English dev is a tenth of SQuAD's training articles: SQuAD's own dev set holds XQuAD's questions.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from raylab.errors import InputError
from raylab.hashing import fingerprint, fingerprint_files

SPLITS = ("train", "dev", "test")
XNLI_LANGUAGES = frozenset("ar bg de el en es fr hi ru sw th tr ur vi zh".split())  # noqa: SIM905
TYDIQA_LANGUAGES = {
    "ar": "arabic",
    "bn": "bengali",
    "en": "english",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}
ALL = (0, 10)

Example = TypeVar("Example")
_PEEK = 1 << 20  # bytes in which a file shows whether it has labels


@dataclass(frozen=True)
class Labelled:
    """A labelled dataset: a file, or a part of one.

    Attributes:
        path: The file; `.gz` is read as what it holds.
        language: Only the examples of this language; None: the file has one language.
        tenths: Only the examples whose content hashes into these tenths [from, to) of all; (0, 10): all of them.
    """

    path: Path
    language: str | None = None
    tenths: tuple[int, int] = ALL

    @classmethod
    def of(cls, dataset: Path | Labelled) -> Labelled:
        """A whole file, or a dataset as it is."""
        return dataset if isinstance(dataset, Labelled) else cls(Path(dataset))

    def fingerprint(self) -> str:
        """Hash of the file's contents, and of which part is meant; the path does not count.

        Raises:
            OSError: The file cannot be read.
        """
        contents = fingerprint_files([self.path])
        if self.language is None and self.tenths == ALL:
            return contents
        return fingerprint([contents, self.language, self.tenths])

    def share(self, examples: list[Example], content: Callable[[Example], Any]) -> list[Example]:
        """The examples of this part.

        Args:
            examples: All of the file's.
            content: What an example is placed by: those with equal content, such as questions on one article, stay
                together.

        Raises:
            InputError: None is in this part.
        """
        if self.tenths == ALL:
            return examples
        first, last = self.tenths
        kept = [example for example in examples if first <= int(fingerprint(content(example)), 16) % 10 < last]
        if not kept:
            raise InputError.at(
                self.path, None, f"none of its {len(examples)} examples falls into tenths {first} to {last}; more do"
            )
        return kept

    def open(self) -> BinaryIO:
        """The file's bytes, uncompressed.

        Raises:
            OSError: The file cannot be opened.
        """
        return cast(BinaryIO, gzip.open(self.path)) if self.path.suffix == ".gz" else self.path.open("rb")


@dataclass(frozen=True)
class Datasets:
    """What there is of one task in one language.

    Attributes:
        splits: The dataset of each split that is there.
        notes: What is not as its makers split it, in one sentence each.
    """

    splits: dict[str, Labelled] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_datasets(root: Path, task: str, language: str) -> Datasets:
    """Find the labelled data of a task in a language.

    Args:
        root: A folder in one of the layouts above.
        task: `ner`, `pos`, `qa` or `nli`.
        language: As the folder or file is named.

    Raises:
        InputError: Two files claim to be one split.
    """
    if (root / task).is_dir():
        return Datasets(_own(root / task, task, language))
    if task == "qa":
        return _tydiqa(root / "tydiqa", language) if (root / "tydiqa").is_dir() else _xquad(root, language)
    folder = root / {"ner": "panx", "pos": "udpos", "nli": "xnli"}[task]
    return _without_held_back(_existing({split: folder / f"{split}-{language}.tsv" for split in SPLITS}))


def _own(folder: Path, task: str, language: str) -> dict[str, Labelled]:
    found = {}
    for split in SPLITS:
        files = sorted(path for path in (folder / language).glob(f"{split}.*") if path.is_file())
        if not files and task == "nli" and split != "train" and language in XNLI_LANGUAGES:
            files = sorted(path for path in folder.glob(f"xnli.{split}.*") if path.is_file())
            if len(files) == 1:
                found[split] = Labelled(files[0], language)
        elif len(files) == 1:
            found[split] = Labelled(files[0])
        if len(files) > 1:
            names = " and ".join(path.name for path in files)
            raise InputError.at(files[0].parent, None, f"{names} both claim to be the {split} split; keep one")
    return found


def _tydiqa(folder: Path, language: str) -> Datasets:
    if language not in TYDIQA_LANGUAGES:
        return Datasets()
    train, dev = folder / "tydiqa-goldp-v1.1-train", folder / "tydiqa-goldp-v1.1-dev"
    # The one file of all languages has what the files cut from it lack: articles' titles and questions' own ids.
    whole = _first(train / "tydiqa-goldp-v1.1-train.json", folder / "tydiqa-goldp-v1.1-train.json")
    cut = _first(train / f"tydiqa.goldp.{language}.train.json", train / f"tydiqa.{language}.train.json")
    test = _first_answered(
        folder / f"test-{language}.json",
        dev / f"tydiqa.goldp.{language}.dev.json",
        dev / f"tydiqa.{language}.dev.json",
        dev / f"tydiqa-goldp-dev-{TYDIQA_LANGUAGES[language]}.json",
    )
    if whole is None and cut is None:
        return Datasets({}) if test is None or _held_back(test) else Datasets({"test": Labelled(test)})
    path, within = (whole, language) if whole is not None else (cut, None)
    assert path is not None
    if test is not None and not _held_back(test):
        return Datasets(
            {
                "train": Labelled(path, within, (1, 10)),
                "dev": Labelled(path, within, (0, 1)),
                "test": Labelled(test),
            },
            ("TyDiQA-GoldP's dev set is the test set; dev is a tenth of its training articles",),
        )
    why = f"{test} holds no answers" if test is not None else "TyDiQA-GoldP's dev set is missing"
    return Datasets(
        {
            split: Labelled(path, within, part)
            for split, part in (("train", (2, 10)), ("dev", (0, 1)), ("test", (1, 2)))
        },
        (f"{why}: dev and test are a tenth each of TyDiQA-GoldP's training articles",),
    )


def _xquad(root: Path, language: str) -> Datasets:
    found, notes = {}, []
    if language == "en" and (train := _first(root / "squad" / "train-v1.1.json")):
        found = {"train": Labelled(train, tenths=(1, 10)), "dev": Labelled(train, tenths=(0, 1))}
        notes.append("dev is a tenth of SQuAD's training articles: SQuAD's dev set holds XQuAD's questions")
    test = _first_answered(root / "xquad" / f"test-{language}.json", root / "xquad" / f"xquad.{language}.json")
    if test is not None and not _held_back(test):
        found["test"] = Labelled(test, tenths=(1, 10))
        found.setdefault("dev", Labelled(test, tenths=(0, 1)))
        notes.append("test is 39 of XQuAD's 48 articles; the others are the dev set of languages without another")
    elif test is not None:
        notes.append(f"{test} holds no answers, so there is no test set")
    return Datasets(found, tuple(notes))


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _first_answered(*paths: Path) -> Path | None:
    """The first file that has answers, else the first that is there."""
    return min((path for path in paths if path.is_file()), key=_held_back, default=None)


def _existing(paths: dict[str, Path]) -> dict[str, Labelled]:
    return {split: Labelled(path) for split, path in paths.items() if path.is_file()}


def _without_held_back(found: dict[str, Labelled]) -> Datasets:
    """The splits that have labels; a test set without them gives way to half of dev."""
    held_back = [split for split, dataset in found.items() if _held_back(dataset.path)]
    kept = {split: dataset for split, dataset in found.items() if split not in held_back}
    notes = tuple(f"{found[split].path} holds no labels" for split in held_back)
    if held_back == ["test"] and "dev" in kept:
        path = kept["dev"].path
        kept.update(dev=Labelled(path, tenths=(0, 5)), test=Labelled(path, tenths=(5, 10)))
        notes = (f"{notes[0]}: half of {path.name} is the test set, and the other half is dev",)
    return Datasets(kept, notes)


def _held_back(path: Path) -> bool:
    """Whether XTREME has taken the labels out of a file: the last column of each line, or the text of each answer."""
    with path.open("rb") as stream:
        start = stream.read(_PEEK)
        if path.suffix == ".json":
            answer = re.search(rb'"text"\s*:\s*"(.)', start)
            return answer is not None and answer[1] == b'"'
    line = next((line for line in start.split(b"\n") if line.strip()), b"")
    return line.count(b"\t") < (2 if path.parent.name == "xnli" else 1)


def fingerprint_datasets(datasets: Datasets, splits: Iterable[str]) -> str | None:
    """Hash of the contents of some splits, or None where none of them is there."""
    contents = {split: datasets.splits[split].fingerprint() for split in splits if split in datasets.splits}
    return fingerprint(contents) if contents else None
