"""Where text and labelled data come from: one folder layout for real data and for the demo.

ROOT/text/LANG/{train,valid}.txt      one sentence a line, UTF-8
ROOT/TASK/LANG/{train,dev,test}.*     one labelled file a split, in the task's own format
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from raylab.config import DataConfig
from raylab.data.atomic import atomic_path
from raylab.errors import InputError
from raylab.hashing import fingerprint, fingerprint_files

_DATASET_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Source:
    """A folder of text and labelled data.

    Attributes:
        root: The folder.
    """

    root: Path
    _fingerprints: dict[tuple[str, ...], str | None] = field(default_factory=dict, repr=False, compare=False)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that have training text, in alphabetical order."""
        return tuple(sorted(path.parent.name for path in (self.root / "text").glob("*/train.txt")))

    def text(self, language: str, split: str) -> Path:
        """The text of one language.

        Args:
            language: As the folder is named.
            split: `train` or `valid`.

        Raises:
            InputError: It is not there.
        """
        path = self.root / "text" / language / f"{split}.txt"
        if path.is_file():
            return path
        if language in self.languages:
            raise InputError.at(
                path, None, f"the {split} text of {language} is missing; one sentence a line is expected"
            )
        there = ", ".join(self.languages) or "none"
        raise InputError.at(
            self.root / "text", None, f"no text for language {language!r}; the languages there are: {there}"
        )

    def dataset(self, task: str, language: str, split: str) -> Path | None:
        """The labelled file of one split, whatever its suffix, or None where there is none.

        Args:
            task: `ner`, `pos`, `qa` or `nli`.
            language: As the folder is named.
            split: `train`, `dev` or `test`.

        Raises:
            InputError: Two files claim to be this split.
        """
        folder = self.root / task / language
        files = sorted(path for path in folder.glob(f"{split}.*") if path.is_file())
        if len(files) > 1:
            names = " and ".join(path.name for path in files)
            raise InputError.at(folder, None, f"{names} both claim to be the {split} split; keep one")
        return files[0] if files else None

    def text_fingerprint(self, language: str) -> str:
        """Hash of the contents of a language's text, computed once per instance.

        Raises:
            InputError: The text is not there.
        """
        key = ("text", language)
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint_files([self.text(language, "train"), self.text(language, "valid")])
        value = self._fingerprints[key]
        assert value is not None
        return value

    def dataset_fingerprint(self, task: str, language: str, splits: tuple[str, ...] = _DATASET_SPLITS) -> str | None:
        """Hash of the contents of a language's labelled files, or None without any; computed once per instance.

        Args:
            task: `ner`, `pos`, `qa` or `nli`.
            language: As the folder is named.
            splits: The files that count.
        """
        key = (task, language, *splits)
        if key not in self._fingerprints:
            paths = {split: self.dataset(task, language, split) for split in splits}
            contents = {split: fingerprint_files([path]) for split, path in paths.items() if path is not None}
            self._fingerprints[key] = fingerprint(contents) if contents else None
        return self._fingerprints[key]


def open_source(config: DataConfig, storage: Path) -> Source:
    """The data that a configuration asks for.

    Args:
        config: `source` is a folder, or `demo`: generated text, written once per scale, seed and generator version.
        storage: The study's storage; the demo is kept in `storage/demo`.

    Raises:
        InputError: The folder is not there, or holds no text.
    """
    if config.source == "demo":
        return Source(_demo_folder(config, storage / "demo"))
    root = Path(config.source).expanduser().resolve()  # workers have another working directory
    if not root.is_dir():
        raise InputError(f"data.source: no folder {root}; `demo`, or a folder with text/LANG/train.txt, would do")
    source = Source(root)
    if not source.languages:
        raise InputError(f"data.source: {root} has no text/LANG/train.txt; one folder a language is expected")
    return source


def _demo_folder(config: DataConfig, storage: Path) -> Path:
    from raylab.data.demo import DEMO_VERSION, write_demo  # its lexicons are of no use to a study of real text

    name = fingerprint({"scale": config.demo_scale, "seed": config.demo_seed, "version": DEMO_VERSION})
    folder = storage / name
    if not folder.is_dir():
        try:
            with atomic_path(folder) as temporary:
                write_demo(temporary, scale=config.demo_scale, seed=config.demo_seed)
        except OSError:
            if not folder.is_dir():  # else another process wrote the same demo meanwhile
                raise
    return folder
