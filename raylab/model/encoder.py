"""The encoder: a post-norm Transformer as XLM's, with language-specific modules by variant.

Plain torch, because a worker that imports transformers starts four seconds later.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from raylab.config import ModelConfig
from raylab.errors import InputError
from raylab.model.dropout import Dropout
from raylab.model.hub import CONFIG_FILE
from raylab.model.matmul import linear
from raylab.model.modules import PER_LANGUAGE, Layer, PerLanguage, initialise, layer_norm, place, route, transform

MODEL_TYPE = "raylab"
WEIGHTS_FILE = "model.safetensors"


class Encoder(nn.Module):
    """Masked language model over one or more languages.

    Args:
        config: Sizes, dropout and adapter activation.
        vocab_size: Subword pieces V.
        languages: The languages that the model knows, no two alike.
        variant: One of `raylab.config.VARIANTS`, but `external`; says which modules exist once per language.

    Raises:
        ValueError: The variant is unknown, or languages are missing or repeated.

    Example:
        >>> encoder = Encoder(ModelConfig(), vocab_size=100, languages=("en", "fr"), variant="adapter")
        >>> encoder(torch.arange(8).view(2, 4), None, "fr").shape
        torch.Size([2, 4, 64])
    """

    def __init__(self, config: ModelConfig, vocab_size: int, languages: Sequence[str], variant: str):
        super().__init__()
        if variant not in PER_LANGUAGE:
            raise ValueError(f"unknown variant {variant!r}; one of {', '.join(PER_LANGUAGE)}")
        if not languages or len(set(languages)) < len(languages):
            raise ValueError(f"languages must be one or more, no two alike; found {list(languages)}")
        self.config = config
        self.vocab_size = vocab_size
        self.languages = tuple(languages)
        self.variant = variant
        self.tokens = nn.Embedding(vocab_size, config.dim)
        self.positions = nn.Embedding(config.max_length, config.dim)
        self.norm = place("norm", variant, self.languages, lambda: layer_norm(config))
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config, self.languages, variant) for _ in range(config.num_layers))
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.apply(initialise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, language: str) -> Tensor:
        """Encode a batch.

        Args:
            input_ids: [B, T] token ids, T at most `config.max_length`.
            attention_mask: [B, T], True at tokens and False at padding; None where nothing is padded.
            language: The language of every sequence in the batch; routes to its modules.

        Returns:
            [B, T, d] hidden states of the last layer.

        Raises:
            ValueError: The model does not have the language, or the sequences are too long.
        """
        self.check_language(language)
        length = input_ids.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"sequences of {length} tokens; the model's max_length is {self.config.max_length}")
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]  # [B, 1, 1, T]
        x = self.tokens(input_ids) + self.positions.weight[:length]  # [B, T, d]
        x = self.dropout(route(self.norm, language)(x))  # [B, T, d]
        for layer in self.layers:
            x = layer(x, mask, language)  # [B, T, d]
        return x

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., V] of every subword, from hidden states [..., d]; the matrix is the token embedding."""
        return linear(hidden, self.tokens.weight, self.output_bias)

    def mlm_loss(self, input_ids: Tensor, positions: Tensor, targets: Tensor, language: str) -> Tensor:
        """Masked-language-model loss of unpadded text.

        Only the predicted tokens, about one in seven, go through the output projection, which dominates small models.

        Args:
            input_ids: [B, T] token ids, some of them masked.
            positions: [M] where a token is to be predicted, as indices into the flattened [B T].
            targets: [M] the original ids there.
            language: The language of the batch.

        Returns:
            The cross-entropy in nats, summed over the M predicted tokens: whoever knows how many there are in all
            parts of the batch divides by their number.
        """
        hidden = self(input_ids, None, language).flatten(0, 1)[positions]  # [M, d]
        return F.cross_entropy(self.mlm_logits(hidden), targets, reduction="sum")

    @property
    def dim(self) -> int:
        """Width d of the hidden states."""
        return self.config.dim

    @property
    def max_length(self) -> int:
        """Longest sequence, in tokens."""
        return self.config.max_length

    @property
    def dropout_probability(self) -> float:
        """Dropout probability of embeddings and sublayer outputs."""
        return self.config.dropout

    def compile_layers(self) -> None:
        """Compile what the layers compute with torch.compile, once for all of them and all languages.

        It is compiled anew when batches change their shape for the first time, and for each way in which parameters are
        replaced or need gradients: six times in a job with meta-steps, of the eight that PyTorch allows a function.
        The output projection stays as it is, because the number of predicted tokens differs from batch to batch.
        Compiled layers have no second derivative; `torch.compiler.set_stance("force_eager")` goes back to the others.
        """
        torch.compiler.reset()  # an encoder before this one has used up some of the eight
        compiled = torch.compile(transform)
        for layer in self.layers:
            cast(Layer, layer).transform = compiled

    def specific_parameters(self, language: str) -> dict[str, nn.Parameter]:
        """The parameters phi_i that text of this language alone goes through, by name; empty in a fully shared model.

        Raises:
            ValueError: The model does not have the language.
        """
        self.check_language(language)
        return {
            name: parameter
            for path, module in self.named_modules()
            if isinstance(module, PerLanguage)
            for name, parameter in route(module, language).named_parameters(f"{path}.{module.key(language)}")
        }

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters theta that text of every language goes through, by name."""
        specific = self.language_specific_parameters()
        return {name: parameter for name, parameter in self.named_parameters() if name not in specific}

    def language_specific_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that belong to one language each, those of all languages together, by name."""
        return {
            name: parameter
            for language in self.languages
            for name, parameter in self.specific_parameters(language).items()
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, which is made where it is missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "model_type": MODEL_TYPE,
            "variant": self.variant,
            "languages": self.languages,
            "vocab_size": self.vocab_size,
            **self.config.model_dump(),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        save_file(self.state_dict(), folder / WEIGHTS_FILE, metadata={"format": "pt"})  # transformers asks for it

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Encoder:
        """Read an encoder that `save_pretrained` wrote; it comes in evaluation mode, on the CPU.

        Raises:
            InputError: The folder does not hold a raylab encoder, or its two files are not one encoder's.
        """
        folder = Path(folder)
        for path in (folder / CONFIG_FILE, folder / WEIGHTS_FILE):
            if not path.is_file():
                raise InputError.at(path, None, "no such file; a folder written by save_pretrained holds it")
        description = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        model_type = description.pop("model_type", None)
        if model_type != MODEL_TYPE:
            raise InputError.at(folder / CONFIG_FILE, None, f"model_type is {model_type!r}; expected {MODEL_TYPE!r}")
        try:
            variant, languages, vocab_size = (description.pop(key) for key in ("variant", "languages", "vocab_size"))
            # transformers, where it wrote the file, has added fields of its own.
            sizes = {name: value for name, value in description.items() if name in ModelConfig.model_fields}
            encoder = cls(ModelConfig(**sizes), vocab_size, languages, variant)
            encoder.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError.at(folder, None, f"the two files are not one encoder: {reason}") from error
        return encoder.eval()

    def check_language(self, language: str) -> None:
        """See that the model has the language.

        Raises:
            ValueError: It does not.
        """
        if language not in self.languages:
            raise ValueError(f"the model has no language {language!r}; it has {', '.join(self.languages)}")
