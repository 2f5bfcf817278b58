"""The encoder and its language-specific modules, and encoders from elsewhere behind the same interface."""

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
