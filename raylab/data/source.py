"""Where text and labelled data come from: one folder layout for real data and for the demo.

ROOT/text/LANG/{train,valid}.*        a file or folder of text a split: `raylab.data.location` has the kinds
ROOT/TASK/LANG/{train,dev,test}.*     labelled data: `raylab.data.labelled` has the layouts

ROOT may be a URL: text is then read where it lies, and the labelled data are copied to the storage. Text of single
languages may lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath

from raylab.atomic import atomic_path
from raylab.config import DataConfig
from raylab.data.labelled import SPLITS, Datasets, Labelled, find_datasets, fingerprint_datasets
from raylab.data.location import (
    TextFile,
    digest_of,
    find_text,
    is_folder,
    is_url,
    name_of,
    open_location,
    reach,
    version_of,
)
from raylab.errors import InputError
from raylab.hashing import fingerprint


@dataclass(frozen=True)
class Source:
    """A folder of text and labelled data.

    Attributes:
        root: The folder.
        labelled_root: The folder of the labelled data, if it is another: `raylab.data.labelled` has the layouts.
        texts: Locations of the text of single languages, in place of what the folder has.
        text_root: Location of the folders of text, if it is not `root/text`.
        cache: Where text that is not plain is kept as plain text, if anywhere.
        aliases: Names that stand for a language beside its own: all that it has is theirs.
        config: What it was opened by.
    """

    root: Path
    labelled_root: Path | None = None
    texts: Mapping[str, str] = field(default_factory=dict, hash=False)
    text_root: str | None = None
    cache: Path | None = None
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)
    config: DataConfig | None = field(default=None, repr=False, compare=False)
    _fingerprints: dict[tuple[str, ...], str | None] = field(default_factory=dict, repr=False, compare=False)
    _found: dict[tuple[str, str], Datasets] = field(default_factory=dict, repr=False, compare=False)
    _text_files: dict[str, dict[str, list[TextFile]]] = field(default_factory=dict, repr=False, compare=False)

    def on_this_node(self, storage: Path) -> Source:
        """The same data where the storage's folder is another than on the machine that opened the source.

        What lies in that folder is made again where it is missing: the demo, and copies of remote labelled data.

        Args:
            storage: As for `open_source`.

        Raises:
            InputError: The remote data have changed since, or cannot be read.
        """
        if self.cache is None or self.cache.parent == storage:
            return self
        if self.config is None or self.cache.parent not in self.root.parents:
            return replace(self, cache=storage / "text")
        root = _demo_folder(self.config, storage / "demo") if self.config.source == "demo" else None
        root = root or _copy_labelled(self.config.source, storage / "labelled")
        if root.name != self.root.name:  # of which the jobs' keys are made
            raise InputError(f"data.source: {self.config.source} has changed since the sweep began; start it again")
        return replace(self, root=root, cache=storage / "text", _found={}, _text_files={})

    def __deepcopy__(self, memo: object) -> Source:
        return self  # it does not change, and Ray Tune would copy all that it has found for every job

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that have text, in alphabetical order."""
        system, path = open_location(self._text_location())
        there = reach(name_of(system, path), lambda: system.ls(path, detail=True) if system.isdir(path) else [])
        folders = {PurePosixPath(info["name"]).name for info in there if is_folder(system, info)}
        return tuple(sorted(folders | set(self.texts) | set(self.aliases)))

    def named(self, language: str) -> str:
        """The language that a name stands for."""
        return self.aliases.get(language, language)

    def text(self, language: str) -> dict[str, list[TextFile]]:
        """The files of one language's text by split: `train`, and `valid` where there is one; looked up once.

        Raises:
            InputError: None is there, or what is there cannot be read: see `find_text`.
        """
        language = self.named(language)
        if language not in self._text_files:
            if language in self.texts:
                location = self.texts[language]
            elif language in self.languages:
                location = f"{self._text_location()}/{language}"
            else:
                there = ", ".join(self.languages) or "none"
                raise InputError.at(
                    self._text_location(), None, f"no text for language {language!r}; the languages there are: {there}"
                )
            self._text_files[language] = find_text(location)
        return self._text_files[language]

    def _text_location(self) -> str:
        return self.text_root or str(self.root / "text")

    def dataset(self, task: str, language: str, split: str) -> Labelled | None:
        """The labelled data of one split, or None where there is none: `raylab.data.labelled` has the layouts.

        Args:
            task: `ner`, `pos`, `qa` or `nli`.
            language: As the folder or file is named.
            split: `train`, `dev` or `test`.

        Raises:
            InputError: Two files claim to be this split.
        """
        return self._datasets(task, language).splits.get(split)

    def dataset_notes(self, task: str, language: str) -> tuple[str, ...]:
        """What the splits of a task in a language are, where not as their makers split them: a sentence each."""
        return self._datasets(task, language).notes

    def _datasets(self, task: str, language: str) -> Datasets:
        key = (task, self.named(language))
        if key not in self._found:
            self._found[key] = find_datasets(self.labelled_root or self.root, *key)
        return self._found[key]

    def text_fingerprint(self, language: str) -> str:
        """Hash of the contents of a language's text, computed once per instance.

        Raises:
            InputError: The text is not there.
        """
        key = ("text", language)
        if key not in self._fingerprints:
            self._fingerprints[key] = digest_of(self.text(language))
        value = self._fingerprints[key]
        assert value is not None
        return value

    def dataset_fingerprint(self, task: str, language: str, splits: tuple[str, ...] = SPLITS) -> str | None:
        """Hash of the contents of a language's labelled files, or None without any; computed once per instance.

        Args:
            task: `ner`, `pos`, `qa` or `nli`.
            language: As the folder is named.
            splits: The files that count.
        """
        key = (task, language, *splits)
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint_datasets(self._datasets(task, language), splits)
        return self._fingerprints[key]


def open_source(config: DataConfig, storage: Path) -> Source:
    """The data that a configuration asks for.

    Args:
        config: `source` is a folder or URL, or `demo`: generated text, written once per scale, seed and generator
            version.
        storage: The study's storage; the demo is kept in `storage/demo`, text that is not plain in `storage/text`,
            copies of remote labelled data in `storage/labelled`.

    Raises:
        InputError: A folder is not there, or holds no text.
    """
    labelled = Path(config.labelled).expanduser().resolve() if config.labelled else None
    if labelled and not labelled.is_dir():
        raise InputError(f"data.labelled: no folder {labelled}; one with TASK/LANG, or XTREME's download, would do")
    text_root = None
    if config.source == "demo":
        root = _demo_folder(config, storage / "demo")
    elif is_url(config.source):
        root = _copy_labelled(config.source, storage / "labelled") if labelled is None else labelled
        text_root = f"{config.source.rstrip('/')}/text"
    else:
        root = Path(config.source).expanduser().resolve()  # workers have another working directory
        if not root.is_dir():
            raise InputError(f"data.source: no folder {root}; `demo`, or a folder with text/LANG/train.txt, would do")
    source = Source(root, labelled, dict(config.text), text_root, storage / "text", dict(config.aliases), config)
    if not source.languages:
        raise InputError(f"data.source: {config.source} has no text/LANG; one folder a language is expected")
    return source


def _copy_labelled(url: str, storage: Path) -> Path:
    """Labelled data of a remote source, copied once per state of its files: all that does not lie in text/."""
    system, path = open_location(url)
    name = name_of(system, path)
    found = reach(name, lambda: system.find(path, detail=True))
    if not found:
        raise InputError(f"data.source: nothing at {name}; text/LANG/train.txt is expected")
    top = PurePosixPath(reach(name, lambda: system.info(path))["name"])
    files = {PurePosixPath(file).relative_to(top).as_posix(): info for file, info in found.items()}
    labelled = {file: info for file, info in files.items() if file.partition("/")[0] != "text"}
    folder = storage / fingerprint({file: version_of(info) for file, info in labelled.items()})
    if not folder.is_dir():
        try:
            with atomic_path(folder) as temporary:
                temporary.mkdir()
                for file, info in labelled.items():
                    (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                    reach(name, partial(system.get_file, info["name"], str(temporary / file)))
        except OSError:
            if not folder.is_dir():  # else another process copied the same files meanwhile
                raise
    return folder


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
