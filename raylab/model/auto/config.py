"""The configuration of an encoder, as transformers' AutoConfig gives it."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from raylab.config import ModelConfig
from raylab.model.encoder import MODEL_TYPE


class RaylabConfig(PreTrainedConfig):
    """What `config.json` beside an encoder says; the fields of `raylab.config.ModelConfig` have its meanings.

    Attributes:
        variant: One of `raylab.config.VARIANTS`, but `external`.
        languages: The languages that the model knows.
        default_language: The language of a batch that comes without one; default: the first of `languages`.
        vocab_size: Subword pieces.
    """

    model_type: ClassVar[str] = MODEL_TYPE
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "ffn_dim",
        "max_position_embeddings": "max_length",
        "hidden_dropout_prob": "dropout",
    }

    variant: str = "joint"
    languages: list[str] | tuple[str, ...] = ("en",)
    default_language: str | None = None
    vocab_size: int = 2000
    num_layers: int = ModelConfig.model_fields["num_layers"].default
    dim: int = ModelConfig.model_fields["dim"].default
    num_heads: int = ModelConfig.model_fields["num_heads"].default
    head_dim: int | None = ModelConfig.model_fields["head_dim"].default
    ffn_dim: int = ModelConfig.model_fields["ffn_dim"].default
    adapter_ratio: float = ModelConfig.model_fields["adapter_ratio"].default
    adapter_activation: str = ModelConfig.model_fields["adapter_activation"].default
    dropout: float = ModelConfig.model_fields["dropout"].default
    attention_dropout: float | None = ModelConfig.model_fields["attention_dropout"].default
    max_length: int = ModelConfig.model_fields["max_length"].default

    def __post_init__(self, **kwargs: Any) -> None:
        if self.default_language is None:
            self.default_language = self.languages[0]
        super().__post_init__(**kwargs)
        # Whoever has a configuration may ask for the model next. Not before: the classes cost an import of seconds.
        from raylab.model.auto import modeling, tokenization

        modeling.register()
        tokenization.register()

    def encoder_config(self) -> ModelConfig:
        """The sizes, as the encoder takes them."""
        return ModelConfig(**{name: getattr(self, name) for name in ModelConfig.model_fields})


def register() -> None:
    """Make the configuration known to transformers."""
    CONFIG_MAPPING.register(MODEL_TYPE, RaylabConfig, exist_ok=True)
