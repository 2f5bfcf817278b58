"""Where a model from elsewhere lies: in a local folder, or on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from raylab.errors import InputError, one_line
from raylab.hashing import fingerprint, fingerprint_files

CONFIG_FILE = "config.json"

# Of several, transformers takes the first that is there.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# A tokenizer is made of the files that are there, one of these at least.
VOCABULARY_FILES = (
    "tokenizer.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
)
_TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)


def model_fingerprint(model: str, revision: str | None = None, *, weights: bool = True) -> str:
    """Identify what `import_model` would read.

    Args:
        model: A local folder, or a name on the hub.
        revision: Branch, tag or commit on the hub; default: its main branch.
        weights: Whether the weights are read too, or nothing but the tokenizer.

    Returns:
        A hash of the contents of a local folder's files; the hash of the commit on the hub. Where the hub cannot be
        reached, that of the commit which lies in its local cache.

    Raises:
        InputError: There is no such folder, nor such a model on the hub, or it cannot be reached.
    """
    folder = _local_folder(model, revision)
    if folder is None:
        return _commit(model, revision)[0]
    names = _needed({path.name for path in folder.iterdir()}, lambda name: folder / name, weights)
    return fingerprint([names, fingerprint_files(folder / name for name in names)])


def locate(model: str, revision: str | None, *, weights: bool = True) -> Path:
    """The local folder of a model; one on the hub is downloaded into the hub's cache first.

    Args:
        model: A local folder, or a name on the hub.
        revision: Branch, tag or commit on the hub.
        weights: Whether to download the weights too.

    Raises:
        InputError: As `model_fingerprint`.
    """
    folder = _local_folder(model, revision)
    if folder is not None:
        return folder
    from huggingface_hub import hf_hub_download, snapshot_download

    commit, names = _commit(model, revision)
    if names is None:
        return Path(snapshot_download(model, revision=commit, local_files_only=True))
    try:
        needed = _needed(names, lambda name: Path(hf_hub_download(model, name, revision=commit)), weights)
        return Path(snapshot_download(model, revision=commit, allow_patterns=needed))
    except Exception as error:  # of the network, the disk or the hub
        raise InputError(f"{model}: cannot be downloaded from the hub: {one_line(error)}") from error


def _local_folder(model: str, revision: str | None) -> Path | None:
    """The folder, or None where the name can only be one on the hub."""
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise InputError(f"{model}: a local folder has no revision {revision!r}; only models on the hub have some")
        return path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise InputError(f"{model}: no such folder; one with config.json, weights and tokenizer files is expected")
    return None


def _needed(there: Collection[str], read: Callable[[str], Path], with_weights: bool) -> list[str]:
    """The names of the files that make up a model, of all those there.

    Args:
        there: Names of files.
        read: Gives the local path of one of them.
        with_weights: Whether the weights belong to it.
    """
    names = [CONFIG_FILE, *_TOKENIZER_FILES]
    weights = next((name for name in _WEIGHTS if name in there and with_weights), None)
    if weights is not None:
        names.append(weights)
        if weights.endswith(".index.json"):
            try:
                shards = json.loads(read(weights).read_text(encoding="utf-8"))["weight_map"].values()
            except (ValueError, KeyError, AttributeError):
                raise InputError.at(weights, None, "no list of weights; a field weight_map is expected") from None
            names += set(shards)
    return sorted(name for name in names if name in there)


def _commit(model: str, revision: str | None) -> tuple[str, list[str] | None]:
    """The commit on the hub, and the names of its files; None for these where only the cache could be asked."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(model, revision=revision)
        return str(info.sha), [file.rfilename for file in info.siblings or []]
    except HFValidationError:
        raise InputError(f"{model}: no such folder, and no name that a model on the hub could have") from None
    except GatedRepoError:
        raise InputError(f"{model}: its owner has to give access first; then log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise InputError(f"{model}: the hub has no revision {revision!r} of it") from None
    except RepositoryNotFoundError:
        raise InputError(f"{model}: no such folder, and no such model on the hub") from None
    except Exception as error:  # of the network, which has many
        try:
            return Path(snapshot_download(model, revision=revision, local_files_only=True)).name, None
        except Exception:
            raise InputError(
                f"{model}: no such folder, and the Hugging Face hub cannot be reached ({one_line(error)}); "
                "a local folder with the model's files would do"
            ) from error
