"""Where text lies: a path, folder or glob, a URL, or a folder of the Hugging Face hub, resolved to the files there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from raylab.errors import InputError, one_line
from raylab.hashing import fingerprint, fingerprint_files

Format = Literal["text", "json", "parquet"]
Compression = Literal["gzip", "zstd", "bz2"]

FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2"}

_HUB = "hf:"
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_SPLITS = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
_NOT_TEXT = re.compile(r"^[._]|^(README|LICEN[CS]E)\b", re.IGNORECASE)
_EXTRAS = {"hf": "raylab[hub]", "s3": "raylab[s3]", "s3a": "raylab[s3]", "gs": "raylab[gcs]", "gcs": "raylab[gcs]"}
# What stores say of the contents of a file without reading it; the first that is there is taken.
_CHECKSUMS = ("lfs", "xet_hash", "blob_id", "ETag", "etag", "md5Hash", "content_md5", "crc32c", "checksum")
_DATES = ("mtime", "LastModified", "last_modified", "updated", "created", "modified")
_T = TypeVar("_T")


@dataclass(frozen=True)
class TextFile:
    """One file of text.

    Attributes:
        name: Its path or URL, as messages give it.
        path: Its path in the file system.
        format: What its records are: lines, JSON objects or rows.
        compression: Of the file as a whole, or None.
        size: Bytes, as it lies there; 0 where the store does not say.
    """

    name: str
    path: str
    format: Format
    compression: Compression | None
    size: int
    _system: AbstractFileSystem = field(repr=False, compare=False)
    _info: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def local(self) -> Path | None:
        """Its path where it lies in this machine's file system, else None."""
        return Path(self.path) if isinstance(self._system, LocalFileSystem) else None

    def open(self) -> BinaryIO:
        """The file's bytes, still compressed.

        Raises:
            InputError: It cannot be opened.
        """
        stream: BinaryIO = reach(self.name, lambda: self._system.open(self.path, "rb"))
        return stream

    def digest(self) -> str:
        """Hash of its format and contents: for a remote file, of what its store says of them without reading them."""
        local = self.local
        if local is not None:
            contents: Any = reach(self.name, lambda: fingerprint_files([local]))
        else:
            contents = version_of(self._info)
        return fingerprint([self.format, self.compression, contents])


def reach(name: str, action: Callable[[], _T]) -> _T:
    """The result of an action on a file or store, whose failures become one line.

    Raises:
        InputError: It failed; each kind of store has exceptions of its own.
    """
    try:
        return action()
    except InputError:
        raise
    except FileNotFoundError as error:  # fsspec raises it where a server does not answer, too
        because = f" ({one_line(error.__cause__)})" if error.__cause__ else ""
        raise InputError.at(name, None, f"no such file or folder{because}") from None
    except ImportError as error:
        raise InputError.at(name, None, f"{one_line(error)}; {remedy(name)}") from None
    except Exception as error:
        raise InputError.at(name, None, f"cannot be read: {one_line(error)}") from None


def remedy(name: str) -> str:
    """What to install so that a URL of this kind can be opened."""
    protocol = name.partition(":")[0]
    if protocol in _EXTRAS:
        return f"pip install '{_EXTRAS[protocol]}'"
    return f"install the fsspec package for {protocol}://"


def is_url(location: str) -> bool:
    """Whether a location is a URL or of the Hugging Face hub, not a path."""
    return bool(_URL.match(location)) or location.startswith(_HUB)


def version_of(info: Mapping[str, Any]) -> list[Any]:
    """What a store says of the contents of a file: its size, and a checksum, or else a date, or else its name."""
    said = [str(info[name]) for name in (*_CHECKSUMS, *_DATES) if info.get(name) is not None]
    return [info.get("size"), said[0] if said else info["name"]]


def open_location(location: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a location, and the path in it.

    Args:
        location: A path, absolute or relative to the working directory; a URL that fsspec reads; or
            hf:OWNER/NAME[@REVISION]/FOLDER for a data set of the Hugging Face hub.

    Raises:
        InputError: The kind of URL is not known, or the package for it is missing.
    """
    if location.startswith(_HUB) and not _URL.match(location):
        location = f"hf://datasets/{location.removeprefix(_HUB)}"
    elif not _URL.match(location):
        location = str(Path(location).expanduser().absolute())  # workers have another working directory
    system, path = reach(location, lambda: url_to_fs(location))
    return system, path


def name_of(system: AbstractFileSystem, path: str) -> str:
    """How messages name a path of a file system: a local one as it is, others as URLs."""
    return path if isinstance(system, LocalFileSystem) else str(system.unstrip_protocol(path))


def find_text(location: str) -> dict[str, list[TextFile]]:
    """The files of text at a location, by split: `train`, and `valid` where there is one.

    In a folder, what is named train (`train.txt`, `train/`, `train-00000-of-00041.parquet`) is the train split, and
    what is named valid, validation or dev the valid one; without a train split, all else but test is. Names that begin
    with a dot or an underscore, and README and LICENSE files, are left out.

    Args:
        location: As `open_location` takes it, or a glob of such.

    Raises:
        InputError: Nothing is there, a file is of no known kind, or two claim to be one split.
    """
    system, path = open_location(location)
    name = name_of(system, path)
    if any(mark in path for mark in "*?[") and not reach(name, lambda: system.exists(path)):
        found = reach(name, lambda: system.glob(path, detail=True))
        files = [info for _, info in sorted(found.items()) if info["type"] == "file"]
        if not files:
            raise InputError.at(name, None, "no file has such a name")
        return {"train": [_text_file(system, info) for info in files]}
    info = reach(name, lambda: system.info(path))
    if info["type"] == "file":
        return {"train": [_text_file(system, info)]}
    found = reach(name, lambda: _files_below(system, path))
    root = PurePosixPath(info["name"])
    inside = {PurePosixPath(file).relative_to(root): found[file] for file in sorted(found)}
    kept = {file: info for file, info in inside.items() if not any(_NOT_TEXT.match(part) for part in file.parts)}
    if not kept:
        raise InputError.at(name, None, f"no file of text in this folder; {_known()} are read")
    return {
        split: [_text_file(system, kept[file]) for file in files] for split, files in _splits(name, list(kept)).items()
    }


def is_folder(system: AbstractFileSystem, info: Mapping[str, Any]) -> bool:
    """Whether what a file system lists is a folder, or a link to one."""
    return info["type"] == "directory" or bool(info.get("islink") and system.isdir(info["name"]))


def _files_below(system: AbstractFileSystem, path: str) -> dict[str, Any]:
    """The files below a folder, and below the folders that links in it lead to."""
    found: dict[str, Any] = {}
    for file, info in system.find(path, detail=True).items():
        found.update(system.find(file, detail=True) if is_folder(system, info) else {file: info})
    return found


def _splits(folder: str, files: list[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    by_split: dict[str | None, list[PurePosixPath]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.parts[0]), []).append(file)
    for split in ("train", "valid"):
        names = dict.fromkeys(file.parts[0] for file in by_split.get(split, []))
        stems = [name.partition(".")[0] for name in names]
        whole = any(stem.lower() in _SPLITS for stem in stems)  # such as train.txt, which is no part of several
        claims: dict[str, str] = {}
        for name, stem in zip(names, stems, strict=True):
            if (other := claims.setdefault(split if whole else stem, name)) != name:
                raise InputError.at(folder, None, f"{other} and {name} both claim to be the {split} split; keep one")
    train = by_split.get("train") or by_split.get(None)
    if not train:
        there = ", ".join(sorted({file.parts[0] for file in files}))
        raise InputError.at(
            folder, None, f"no train split, only {there}; train.txt, or files of any other name, would do"
        )
    return {"train": train, **({"valid": by_split["valid"]} if "valid" in by_split else {})}


def _split_of(name: str) -> str | None:
    return _SPLITS.get(re.split(r"[.\-_]", name)[0].lower())


def _text_file(system: AbstractFileSystem, info: Mapping[str, Any]) -> TextFile:
    path = info["name"]
    name = name_of(system, path)
    suffixes = [suffix.lower() for suffix in PurePosixPath(path).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if compression:
        suffixes.pop()
    # `corpus.gz` is text: nothing says otherwise
    form: Format | None = FORMATS.get(suffixes[-1]) if suffixes else "text" if compression else None
    if form is None or (compression and form == "parquet"):
        found = "".join(PurePosixPath(path).suffixes[-2:]) or "no suffix"
        raise InputError.at(name, None, f"{found} is not a kind of text that is read; {_known()} are")
    return TextFile(name, path, form, compression, info.get("size") or 0, system, info)


def _known() -> str:
    return f"{', '.join(FORMATS)}, and, but for Parquet, those with {', '.join(COMPRESSIONS)} behind"


def digest_of(files: Mapping[str, list[TextFile]]) -> str:
    """Hash of the contents of the files of all splits, in their order."""
    return fingerprint({split: [file.digest() for file in parts] for split, parts in files.items()})
