"""Masked language modelling: which tokens are predicted, and what stands in their place."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

IGNORED = -100  # the label of a position that is not predicted: what cross_entropy ignores by default
_MASKED, _REPLACED = 0.8, 0.1  # of the predicted tokens; the others stay as they are


def mask_tokens(
    tokens: Tensor,
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: Collection[int],
    probability: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict; 80% of them become <mask>, 10% a random token, 10% stay (Devlin et al. 2019, sec. 3.1).

    Each token is chosen on its own, so a small batch may have none.

    Args:
        tokens: Ids, LongTensor [B, T]; not changed.
        mask_id: Id of <mask>.
        vocab_size: Ids are below it.
        special_ids: Ids that are never chosen and never drawn as a replacement; `mask_id` counts as one.
        probability: Share of the other tokens to choose, from 0 to 1.
        generator: Random stream, on the device of `tokens`; by default torch's global one.

    Returns:
        (inputs, labels), LongTensors [B, T]: the tokens as the model sees them, and the original token where it is to
        be predicted, -100 elsewhere.

    Raises:
        ValueError: `probability` is not from 0 to 1, or there is no ordinary token to draw.

    Example:
        >>> tokens = torch.tensor([[2, 7, 8, 3]])
        >>> inputs, labels = mask_tokens(tokens, mask_id=4, vocab_size=9, special_ids=range(5), probability=1.0)
        >>> labels
        tensor([[-100,    7,    8, -100]])
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; from 0 to 1 is expected")
    special = sorted(identifier for identifier in {*special_ids, mask_id} if 0 <= identifier < vocab_size)
    num_ordinary = vocab_size - len(special)
    if num_ordinary <= 0:
        raise ValueError(f"none of {vocab_size} ids is ordinary: {len(special)} are special")

    is_special = torch.zeros(vocab_size, dtype=torch.bool)
    is_special[special] = True
    draw = torch.rand(tokens.shape, dtype=torch.float64, device=tokens.device, generator=generator)  # [B, T]
    draw = draw.masked_fill_(is_special.to(tokens.device)[tokens], 2.0)  # [B, T]
    labels = tokens.masked_fill(draw >= probability, IGNORED)  # [B, T]

    replacements = torch.randint(num_ordinary, tokens.shape, device=tokens.device, generator=generator)  # [B, T]
    for identifier in special:  # the n-th ordinary id, in ascending order of the special ones
        replacements += replacements >= identifier
    replaced = (draw >= probability * _MASKED) & (draw < probability * (_MASKED + _REPLACED))  # [B, T]
    inputs = tokens.masked_fill(draw < probability * _MASKED, mask_id)  # [B, T]
    return torch.where(replaced, replacements, inputs), labels


def predicted(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where tokens are to be predicted, and which.

    Args:
        labels: [..., T] the ids to predict, -100 elsewhere.

    Returns:
        Indices into the flattened labels, ascending, and the ids there; both [M].
    """
    flat = labels.flatten()
    positions = (flat != IGNORED).nonzero().squeeze(1)
    return positions, flat[positions]
