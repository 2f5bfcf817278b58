"""How alike masks are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from raylab.probes.masks import Masks
from raylab.train.gradients import Vector, cosines, pairs


def compare_masks(
    log_alpha: Mapping[Vector, Tensor], mask: Mapping[Vector, Tensor], masks: Masks, languages: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of `cosines.parquet`, but for their step.

    Args:
        log_alpha: [G] of each language and repeat, on the CPU.
        mask: Likewise, without noise.
        masks: The groups.
        languages: In their order.
    """
    vectors = list(log_alpha)
    for place, numbers in masks.places().items():
        chosen = torch.stack([log_alpha[vector][numbers] for vector in vectors]).double()  # [K, g]
        without_noise = torch.stack([mask[vector][numbers] for vector in vectors]).double()  # [K, g]
        centred = chosen - chosen.mean(dim=1, keepdim=True)
        cosine, correlation, mask_cosine = (cosines(rows @ rows.T) for rows in (chosen, centred, without_noise))
        for (first, second), compared in pairs(languages, vectors).items():
            for i, j in compared:
                yield {
                    "first": first,
                    "second": second,
                    "first_repeat": vectors[i].repeat,
                    "second_repeat": vectors[j].repeat,
                    "layer": place.layer,
                    "module": place.module,
                    "cosine": cosine[i, j].item(),
                    "first_norm": chosen[i].norm().item(),
                    "second_norm": chosen[j].norm().item(),
                    "correlation": correlation[i, j].item(),
                    "mask_cosine": mask_cosine[i, j].item(),
                    "opposed": ((chosen[i] > 0) != (chosen[j] > 0)).double().mean().item(),
                    "groups": len(numbers),
                }


def language_specific(
    log_alpha: Mapping[Vector, Tensor], names: Sequence[str], languages: Sequence[str], most: int
) -> dict[str, list[dict[str, Any]]]:
    """For each pair of languages the groups that all masks of one of them keep and all of the other's do not.

    Those with the largest difference of their mean log alpha come first (paper, Figure 4, middle).

    Args:
        log_alpha: [G] of each language and repeat, on the CPU; a group is kept where it is over 0.
        names: Of the groups.
        languages: In their order.
        most: Of one pair, at most so many.
    """
    all_of = {
        name: torch.stack([log_alpha[v] for v in log_alpha if v.language == name]) for name in languages
    }  # [R, G]
    found = {}
    for first, second in combinations(languages, 2):
        kept, removed = (
            [(all_of[name] > 0).all(0) for name in (first, second)],
            [(all_of[name] <= 0).all(0) for name in (first, second)],
        )
        opposed = (kept[0] & removed[1]) | (removed[0] & kept[1])  # [G]
        means = [all_of[name].mean(0) for name in (first, second)]
        difference = torch.where(opposed, (means[0] - means[1]).abs(), -1.0)  # [G]
        order = difference.argsort(descending=True, stable=True)[: min(most, int(opposed.sum()))]
        found[f"{first}-{second}"] = [
            {"group": names[number], first: means[0][number].item(), second: means[1][number].item()}
            for number in order.tolist()
        ]
    return found
