"""One way to open any encoder."""

from __future__ import annotations

import json
from pathlib import Path

from raylab.errors import InputError
from raylab.model.encoder import MODEL_TYPE, Encoder
from raylab.model.external import ExternalEncoder
from raylab.model.hub import CONFIG_FILE


def load_encoder(folder: Path) -> Encoder | ExternalEncoder:
    """Read an encoder, raylab's own or one from elsewhere; it comes in evaluation mode, on the CPU.

    Args:
        folder: As `save_pretrained` wrote it; `config.json` says what kind it is.

    Raises:
        InputError: The folder does not hold an encoder.
    """
    path = Path(folder) / CONFIG_FILE
    if read_model_type(path) == MODEL_TYPE:
        return Encoder.from_pretrained(folder)
    return ExternalEncoder.from_pretrained(folder)


def read_model_type(path: Path) -> str | None:
    """What a `config.json` says the model is; None where it does not say.

    Raises:
        InputError: It is not there, or not JSON.
    """
    if not path.is_file():
        raise InputError.at(path, None, "no such file; a folder written by save_pretrained holds it")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError.at(path, None, f"not JSON: {error}") from None
    return description.get("model_type") if isinstance(description, dict) else None
