"""What a checkpoint needs besides its encoder to be used with transformers: its tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from raylab.model.hub import CONFIG_FILE

_HUGGING_FACE_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def save_tokenizer(tokenizer: Path, folder: Path) -> None:
    """Put a tokenizer beside an encoder, where transformers' AutoTokenizer finds it.

    Args:
        tokenizer: The SentencePiece model file, or Hugging Face tokenizer folder, that the encoder was pretrained with.
        folder: The encoder's, as `raylab.model.Encoder.save_pretrained` wrote it.
    """
    if tokenizer.is_dir():
        for name in _HUGGING_FACE_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, folder / name)
        return
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    max_length = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["max_length"]
    description = {"tokenizer_class": "RaylabTokenizer", "model_max_length": max_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
