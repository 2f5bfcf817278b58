"""The encoder and its language-specific modules."""

from raylab.model.encoder import Encoder

__all__ = ["Encoder"]
