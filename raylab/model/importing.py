"""Bringing a model from elsewhere into raylab's storage: an encoder of transformers, with its tokenizer.

FOLDER/model/         config.json, model.safetensors
FOLDER/tokenizer/     tokenizer.json, tokenizer_config.json
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raylab.atomic import atomic_path
from raylab.errors import InputError, one_line
from raylab.model import hub, xlm_tokenizer
from raylab.model.encoder import MODEL_TYPE
from raylab.model.external import SEPARATOR_FIELD, UNKNOWN_FIELD, ExternalEncoder, quiet_transformers
from raylab.model.hub import CONFIG_FILE
from raylab.model.loading import read_model_type

Report = Callable[[str, float], None]


def import_model(
    model: str,
    folder: Path,
    *,
    revision: str | None = None,
    tokenizer: str | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Read an encoder of transformers with its tokenizer, check that the two belong together, and write them.

    Args:
        model: A local folder with `config.json`, weights (safetensors or `pytorch_model.bin`, in shards or not) and the
            tokenizer's files, or a name on the Hugging Face hub, which is downloaded. No code of the model's is run.
        folder: Gets `model` and `tokenizer`; what lies there under these names is replaced. Each appears whole.
        revision: Branch, tag or commit on the hub; default: its main branch.
        tokenizer: Folder or name on the hub of the tokenizer, of a model that comes without (X-MOD's is XLM-R's).
        report: Called with what is being done and the share of all work that is done, from 0 to 1.

    Returns:
        `model_type`; `parameters`, their number; `dim`; `layers`; `vocab_size`, of the embedding; `max_length`, in
        tokens; `languages` that the model has parts of its own for.

    Raises:
        InputError: There is no such model, or it is no encoder, or its weights or tokenizer are missing, cannot be read
            or do not fit.
    """
    report = report or _silent
    report(f"finding {model}", 0.0)
    source = hub.locate(model, revision)
    if read_model_type(source / CONFIG_FILE) == MODEL_TYPE:
        raise InputError.at(source / CONFIG_FILE, None, "a raylab model; an encoder from elsewhere is expected")
    report(f"reading {model}", 0.3)
    encoder = ExternalEncoder.from_pretrained(source)
    subwords_source = source if tokenizer is None else hub.locate(tokenizer, None, weights=False)
    subwords = _read_tokenizer(subwords_source)
    config = encoder.model.config
    _check_vocabulary(subwords, config.vocab_size, subwords_source)
    setattr(config, SEPARATOR_FIELD, _segment_separator(config, subwords))
    if xlm_tokenizer.is_xlm(subwords_source):
        setattr(config, UNKNOWN_FIELD, subwords.unk_token_id)
    _try(ExternalEncoder(encoder.model), subwords, source)
    report("writing the model", 0.7)
    for name, save in (("model", encoder.save_pretrained), ("tokenizer", subwords.save_pretrained)):
        shutil.rmtree(folder / name, ignore_errors=True)
        with atomic_path(folder / name) as temporary:
            temporary.mkdir()
            save(temporary)
    report("imported", 1.0)
    return {
        "model_type": config.model_type,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "dim": encoder.dim,
        "layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "max_length": encoder.max_length,
        "languages": list(encoder.languages),
    }


def _silent(message: str, done: float) -> None:
    """The report to nobody."""


def _read_tokenizer(folder: Path) -> Any:
    """The tokenizer, as one of the `tokenizers` library."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in hub.VOCABULARY_FILES):
        raise InputError.at(
            folder,
            None,
            f"no tokenizer; one of {', '.join(hub.VOCABULARY_FILES)} is expected here, or external.tokenizer",
        )
    if xlm_tokenizer.is_xlm(folder):
        return xlm_tokenizer.read(folder)
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of many libraries
            raise InputError.at(folder, None, f"the tokenizer cannot be read: {one_line(error)}") from error
    if not tokenizer.is_fast:
        raise InputError.at(
            folder, None, f"{type(tokenizer).__name__} cannot be converted to a tokenizer.json; a file of it would do"
        )
    _check_case(tokenizer, folder)
    return tokenizer


def _check_case(tokenizer: Any, folder: Path) -> None:
    """See that text keeps its capital letters where the vocabulary has some: transformers lowercases unless told."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is None or normalizer.normalize_str("A") != "a":
        return
    capital = next((token for token in tokenizer.get_vocab() if re.fullmatch("[A-Z][a-z]*", token)), None)
    if capital is not None:
        raise InputError.at(
            folder / "tokenizer_config.json",
            None,
            f"text would be lowercased, but the vocabulary has {capital!r}; do_lower_case: false is expected",
        )


def _check_vocabulary(tokenizer: Any, embedded: int, source: Path) -> None:
    """See that the tokenizer's ids are those of an embedding of so many tokens; XLM's may go beyond."""
    ids = set(tokenizer.get_vocab().values())
    if max(ids) >= embedded and not xlm_tokenizer.is_xlm(source):
        raise InputError.at(
            source,
            None,
            f"the tokenizer has ids up to {max(ids)}, the model embeds {embedded} tokens; "
            "the tokenizer of this very model is expected",
        )
    if 2 * len(ids) < embedded:  # transformers makes an empty one where the files are of another kind than it expects
        raise InputError.at(
            source,
            None,
            f"the tokenizer has {len(ids)} tokens, the model embeds {embedded}; "
            f"{type(tokenizer).__name__} did not find its files here, or they are not this model's",
        )


def _segment_separator(config: Any, tokenizer: Any) -> int | None:
    """The token behind which the second text of a pair begins; None if the model knows no segments."""
    if getattr(config, "type_vocab_size", 0) < 2 or "token_type_ids" not in tokenizer.model_input_names:
        return None
    return tokenizer.sep_token_id if 1 in tokenizer("a", "a")["token_type_ids"] else None


def _try(encoder: ExternalEncoder, tokenizer: Any, source: Path) -> None:
    """See that a padded batch of a text and a pair comes out as hidden states."""
    rows = [tokenizer("a")["input_ids"], tokenizer("a", "a a")["input_ids"]]
    length = max(map(len, rows))
    input_ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[place < len(row) for place in range(length)] for row in rows])
    language = encoder.languages[0] if encoder.languages else ""
    try:
        with torch.inference_mode():
            hidden = encoder(input_ids, mask, language)
    except Exception as error:  # whatever a model of an unusual kind wants that it was not given
        raise InputError.at(source, None, f"the model does not take plain text: {one_line(error)}") from error
    if hidden.shape != (*input_ids.shape, encoder.dim):
        raise InputError.at(
            source, None, f"hidden states of shape {tuple(hidden.shape)}; {(*input_ids.shape, encoder.dim)} is expected"
        )
    if not hidden[mask].isfinite().all():
        raise InputError.at(source, None, "hidden states are not finite; the weights are corrupt")
