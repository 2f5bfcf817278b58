"""The encoder and its language-specific modules, and encoders from elsewhere behind the same interface.

What is taken from here is imported then: a driver asks for fingerprints alone, and need not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raylab.model.encoder import Encoder
    from raylab.model.export import save_tokenizer
    from raylab.model.external import ExternalEncoder
    from raylab.model.hub import model_fingerprint
    from raylab.model.importing import import_model
    from raylab.model.loading import load_encoder

__all__ = [
    "Encoder",
    "ExternalEncoder",
    "import_model",
    "load_encoder",
    "model_fingerprint",
    "save_tokenizer",
]

_MODULES = {
    "Encoder": "encoder",
    "ExternalEncoder": "external",
    "import_model": "importing",
    "load_encoder": "loading",
    "model_fingerprint": "hub",
    "save_tokenizer": "export",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
