"""Encoders from elsewhere: any of Hugging Face's transformers, behind the interface of `raylab.model.Encoder`.

transformers costs seconds to import, so it is imported when the first such encoder is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raylab.errors import InputError, one_line
from raylab.model.hub import CONFIG_FILE

# Fields that `import_model` adds to config.json.
SEPARATOR_FIELD = "segment_separator_id"  # the token behind which the second text of a pair begins
UNKNOWN_FIELD = "unknown_token_id"  # what ids behind the vocabulary are read as
_UNUSED_PARAMETERS = ("pooler",)  # what a task's head of ours never reads


class ExternalEncoder(nn.Module):
    """An encoder of transformers; `from_pretrained` reads one.

    Args:
        model: A model that gives hidden states, as `transformers.AutoModel` makes it.

    Attributes:
        dim: Width d of the hidden states.
        max_length: Longest sequence, in tokens; where the model has no limit, what its configuration says.
        dropout_probability: Dropout probability of hidden states, for a head on top.
        languages: The languages that the model has parts of its own for, under the model's names for them.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        config = model.config
        self.dim: int = config.hidden_size
        self.max_length = _max_length(model)
        self.dropout_probability = _dropout_probability(config)
        self.languages = _languages(config)
        self._pad_id: int = config.pad_token_id or 0
        self._separator_id: int | None = getattr(config, SEPARATOR_FIELD, None)
        self._unknown_id: int | None = getattr(config, UNKNOWN_FIELD, None)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, language: str) -> Tensor:
        """Encode a batch.

        Args:
            input_ids: [B, T] token ids, T at most `max_length`.
            attention_mask: [B, T], True at tokens and False at padding, where the ids do not matter; None where nothing
                is padded.
            language: The language of every sequence in the batch; matters to models with `languages` alone.

        Returns:
            [B, T, d] hidden states of the last layer.

        Raises:
            InputError: The model has parts for each language, and none for this one.
            ValueError: The sequences are too long.
        """
        if input_ids.shape[1] > self.max_length:
            raise ValueError(f"sequences of {input_ids.shape[1]} tokens; the model's max_length is {self.max_length}")
        if self._unknown_id is not None:
            input_ids = input_ids.masked_fill(input_ids >= self.model.config.vocab_size, self._unknown_id)
        inputs: dict[str, Tensor] = {}
        if attention_mask is not None:
            inside = attention_mask.bool()
            input_ids = input_ids.masked_fill(~inside, self._pad_id)  # positions of RoBERTa's kind count from this id
            inputs["attention_mask"] = inside.long()
        if self._separator_id is not None:
            inputs["token_type_ids"] = _segments(input_ids, self._separator_id)
        if not self.languages:
            return self.model(input_ids=input_ids, **inputs).last_hidden_state
        name = self._own_name(language)
        if self.model.config.model_type == "xmod":
            with _only_adapters(self.model, name):
                inputs["lang_ids"] = input_ids.new_zeros(len(input_ids))
                return self.model(input_ids=input_ids, **inputs).last_hidden_state
        inputs["langs"] = torch.full_like(input_ids, self.languages.index(name))
        return self.model(input_ids=input_ids, **inputs).last_hidden_state

    def check_language(self, language: str) -> None:
        """See that the model takes text of the language.

        Raises:
            InputError: It has parts for each language, and none for this one.
        """
        if self.languages:
            self._own_name(language)

    def _own_name(self, language: str) -> str:
        """The model's own name for a language: `en` is X-MOD's `en_XX`, the first of them where there are several."""
        for name in self.languages:
            if language in (name, name.replace("-", "_").split("_")[0]):
                return name
        kind = self.model.config.model_type
        raise InputError(f"the {kind} model has no language {language!r}; it has {', '.join(self.languages)}")

    def language_specific_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that belong to one language each, those of all languages together: X-MOD's adapters, XLM's
        language embeddings; none in most models."""
        own = {"adapter_modules", "lang_embeddings"}
        return {name: value for name, value in self.named_parameters() if not own.isdisjoint(name.split("."))}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as transformers does; `from_pretrained` and AutoModel read it."""
        with quiet_transformers():
            self.model.save_pretrained(str(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ExternalEncoder:
        """Read an encoder, in float32, from `config.json` and weights; it comes in evaluation mode, on the CPU.

        Pairs of texts get the segments that BERT was trained with where `import_model` brought the model in.

        Raises:
            InputError: The folder holds no encoder, its weights cannot be read, or they lack some of the parameters.
        """
        from transformers import MODEL_MAPPING, AutoModel

        folder = Path(folder)
        config = read_config(folder)
        kinds = MODEL_MAPPING[type(config)]  # a class, or several that config.json decides between
        can_omit_pooler = inspect.isclass(kinds) and "add_pooling_layer" in inspect.signature(kinds).parameters
        options = {"add_pooling_layer": False} if can_omit_pooler else {}
        with quiet_transformers():
            try:
                model, loading = AutoModel.from_pretrained(
                    str(folder),
                    config=config,
                    dtype=torch.float32,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **options,
                )
            except Exception as error:  # of the file's format, pickle, safetensors or torch: each has its own
                raise InputError.at(folder, None, f"the weights cannot be read: {one_line(error)}") from error
        missing = sorted(name for name in loading["missing_keys"] if not set(_UNUSED_PARAMETERS) & set(name.split(".")))
        if missing:
            total = len(model.state_dict())
            raise InputError.at(
                folder,
                None,
                f"the weights lack {len(missing)} of the model's {total} tensors, such as {missing[0]}: random numbers "
                f"would stand there; weights of a {config.model_type} of this config.json are expected",
            )
        return cls(model.eval())


def read_config(folder: Path) -> Any:
    """The configuration of an encoder of transformers.

    Raises:
        InputError: There is none, transformers does not know such a model, or it is no bidirectional encoder of text.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError.at(path, None, "no such file; a folder written by save_pretrained holds it")
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # transformers raises several kinds
            raise InputError.at(path, None, f"not a model that transformers knows: {one_line(error)}") from error
    model_type = config.model_type
    if config.is_encoder_decoder:
        raise InputError.at(path, None, f"{model_type} is an encoder with a decoder; an encoder alone is expected")
    if getattr(config, "is_decoder", False) or model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise InputError.at(
            path,
            None,
            f"{model_type} is no encoder that was trained to fill in masked tokens, such as xlm-roberta or bert",
        )
    return config


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without progress bars and reports, which a worker has no use for: what matters is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _only_adapters(model: Any, language: str) -> Iterator[None]:
    """X-MOD with the adapters of one language, which becomes number 0.

    Its own routing goes through the adapters of all languages, 81 of them, in every layer, and gives those that no text
    went through gradients of zero, so that an optimizer keeps moments for them.
    """
    outputs = [layer.output for layer in model.encoder.layer]
    adapters = [output.adapter_modules for output in outputs]
    for output, of_all in zip(outputs, adapters, strict=True):
        output.adapter_modules = nn.ModuleDict({language: of_all[language]})
    try:
        yield
    finally:
        for output, of_all in zip(outputs, adapters, strict=True):
            output.adapter_modules = of_all


def _segments(input_ids: Tensor, separator_id: int) -> Tensor:
    """1 behind the first separator, else 0. [B, T]"""
    separators = input_ids == separator_id
    return ((separators.cumsum(1) - separators.long()) > 0).long()


def _max_length(model: Any) -> int:
    """Positions that a sequence may have: models of RoBERTa's kind count from the padding id on."""
    positions: int = getattr(model.config, "max_position_embeddings", None) or 512
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return positions - module.padding_idx - 1
    return positions


def _dropout_probability(config: Any) -> float:
    for name in ("classifier_dropout", "hidden_dropout_prob", "dropout", "dropout_rate"):
        if isinstance(value := getattr(config, name, None), float | int):
            return float(value)
    return 0.1


def _languages(config: Any) -> tuple[str, ...]:
    """The model's names of languages, in the order of their numbers."""
    if config.model_type == "xmod":
        return tuple(config.languages)
    if config.model_type == "xlm" and config.use_lang_emb and config.n_langs > 1:
        numbers: Mapping[str, int] = getattr(config, "lang2id", None) or {}
        return tuple(sorted(numbers, key=numbers.__getitem__))
    return ()
