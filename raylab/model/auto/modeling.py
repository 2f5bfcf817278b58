"""An encoder as a model of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from raylab.model.auto.config import RaylabConfig
from raylab.model.encoder import Encoder


class RaylabPreTrainedModel(PreTrainedModel):
    """What the models share: an encoder, whose file of weights is that of `raylab.model.Encoder.save_pretrained`."""

    config_class: ClassVar[type] = RaylabConfig
    base_model_prefix: ClassVar[str] = "encoder"  # transformers adds it to the names in the file

    def __init__(self, config: RaylabConfig):
        super().__init__(config)
        self.encoder = Encoder(config.encoder_config(), config.vocab_size, config.languages, config.variant)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.encoder.tokens

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the model as transformers does, under the names that `raylab.model.Encoder.from_pretrained` reads."""
        super().save_pretrained(save_directory, state_dict=self.encoder.state_dict(), **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as the encoder drew them."""

    def _encode(self, input_ids: Tensor, attention_mask: Tensor | None, language: str | None) -> Tensor:
        return self.encoder(input_ids, attention_mask, language or self.config.default_language)


class RaylabModel(RaylabPreTrainedModel):
    """What AutoModel makes of a raylab checkpoint."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        language: str | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor]:
        """Encode a batch.

        Args:
            input_ids: [B, T] token ids, T at most `config.max_length`.
            attention_mask: [B, T], 1 at tokens and 0 at padding; None where nothing is padded.
            language: The language of every sequence in the batch; default: `config.default_language`.
            return_dict: False for a tuple; default: as the configuration says.

        Returns:
            `last_hidden_state` [B, T, d].

        Raises:
            ValueError: The model does not have the language, or the sequences are too long.
        """
        hidden = self._encode(input_ids, attention_mask, language)
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (hidden,)
        return BaseModelOutput(last_hidden_state=hidden)


class RaylabForMaskedLM(RaylabPreTrainedModel):
    """What AutoModelForMaskedLM makes of a raylab checkpoint."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        language: str | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Tensor, ...]:
        """Score every subword at every place; arguments as `RaylabModel.forward`.

        Args:
            input_ids: [B, T]
            attention_mask: [B, T]
            labels: [B, T] the ids to predict, -100 where nothing is predicted.
            language: The language of every sequence in the batch.
            return_dict: False for a tuple.

        Returns:
            `logits` [B, T, V], and with labels `loss`, the mean cross-entropy in nats.
        """
        logits = self.encoder.mlm_logits(self._encode(input_ids, attention_mask, language))
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (logits,) if loss is None else (loss, logits)
        return MaskedLMOutput(loss=loss, logits=logits)


def register() -> None:
    """Make the models known to transformers."""
    AutoModel.register(RaylabConfig, RaylabModel, exist_ok=True)
    AutoModelForMaskedLM.register(RaylabConfig, RaylabForMaskedLM, exist_ok=True)
