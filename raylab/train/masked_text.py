"""Text as the masked-language-model objective reads it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raylab.config import PretrainConfig
from raylab.data.batches import Stream
from raylab.data.masking import IGNORED, mask_tokens
from raylab.data.prepare import Prepared
from raylab.errors import InputError
from raylab.seeding import generator


class Batch(NamedTuple):
    """Masked text of one language.

    Attributes:
        language: Of all its sequences.
        inputs: [B, T] token ids, some of them masked.
        labels: [B, T] the ids to predict, -100 elsewhere.
    """

    language: str
    inputs: Tensor
    labels: Tensor


class MaskedText:
    """One split of one language as batches of masked tokens; holds no position.

    Args:
        prepared: Where the tokens are.
        split: `train`, `meta` or `valid`.
        language: The language.
        config: Batch size, sequence length and share of tokens to predict.
        batch_size: Sequences per batch; default: the configuration's.
        seed: Of the order of the batches and of their masks.

    Raises:
        InputError: There is no such split, or it is empty; later, a batch has no token that could be masked.
    """

    def __init__(
        self,
        prepared: Prepared,
        split: str,
        language: str,
        config: PretrainConfig,
        *,
        batch_size: int | None = None,
        seed: int,
    ):
        self._name = f"{split}/{language}"
        self._language = language
        self._tokenizer = prepared.tokenizer
        self._probability = config.mask_probability
        self._seed = seed
        self._stream = Stream(
            prepared.store(language, split),
            batch_size=batch_size or config.batch_size,
            sequence_length=config.sequence_length,
            seed=seed,
            name=self._name,
        )

    def batch(self, index: int) -> Batch:
        """The batch of this index, from 0, of an endless shuffled pass."""
        return self._masked(self._stream.batch(index), index)

    def in_order(self, max_batches: int) -> list[Batch]:
        """At most so many batches, in the order of the text, spread evenly over it."""
        return [self._masked(tokens, index) for index, tokens in enumerate(self._stream.in_order(max_batches))]

    def _masked(self, tokens: Tensor, index: int) -> Batch:
        """The batch with its masks: of one token at least, for a small batch could miss."""
        special_ids = self._tokenizer.special_ids
        random = generator(self._seed, "masking", self._name, index)
        inputs, labels = mask_tokens(
            tokens,
            mask_id=self._tokenizer.mask_id,
            vocab_size=self._tokenizer.vocab_size,
            special_ids=special_ids,
            probability=self._probability,
            generator=random,
        )
        if not bool((labels != IGNORED).any()):
            known = (~torch.isin(tokens.flatten(), torch.tensor(sorted(special_ids)))).nonzero().squeeze(1)
            if not len(known):
                raise InputError(
                    f"{self._name}: batch {index} has no masked token: all its {tokens.numel()} tokens are unknown to "
                    "the tokenizer or special; larger or longer batches, or a tokenizer trained on such text, would do"
                )
            chosen = known[torch.randint(len(known), (), generator=random)]
            labels.view(-1)[chosen] = tokens.flatten()[chosen]
            inputs.view(-1)[chosen] = self._tokenizer.mask_id
        return Batch(self._language, inputs, labels)
