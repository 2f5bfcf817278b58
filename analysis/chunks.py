"""Chunks of tags, counted sentence by sentence for a whole test set at once, as seqeval counts them.

seqeval (1.2.2, `metrics/sequence_labeling.py`, `get_entities`) joins all sentences with an `O` behind each, and reads a
tag's first letter as its place in a chunk and the rest as the chunk's type. The rules below are its own, those included
that only matter for tags that are not IOB: a chunk of the tag `X` that stands first in a sentence begins where the last
chunk began, maybe in the sentence before, and one that stands last is none. So the counts add up to its F1, to the
last digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_OUTSIDE = "O"
# (place before, place here) at which a chunk ends, or starts, whatever the types.
_ENDS = {("B", "B"), ("B", "S"), ("B", "O"), ("I", "B"), ("I", "S"), ("I", "O")}
_STARTS = {("E", "E"), ("E", "I"), ("S", "E"), ("S", "I"), ("O", "E"), ("O", "I")}
_OUTSIDE_PLACES = ("O", ".")


class TagRules:
    """What seqeval makes of two tags in a row, for the tags of a data set.

    Args:
        tags: The tags; `O` need not be among them. The code of a tag is its place in `names`.
    """

    def __init__(self, tags: Sequence[str]) -> None:
        self.names = list(dict.fromkeys([_OUTSIDE, *tags]))
        places = [tag[0] for tag in self.names]
        types = [tag[1:].split("-", maxsplit=1)[-1] or "_" for tag in self.names]
        codes = {name: code for code, name in enumerate(dict.fromkeys(types))}
        self.types = np.array([codes[name] for name in types])
        count = len(self.names)
        self.ends, self.starts = np.zeros((2, count + 1, count), dtype=bool)  # the last row: before the first tag
        for before, (place_before, type_before) in enumerate([*zip(places, types, strict=True), (_OUTSIDE, "")]):
            for here, (place, type_) in enumerate(zip(places, types, strict=True)):
                pair, turn = (place_before, place), type_before != type_
                self.ends[before, here] = (
                    place_before in ("E", "S") or pair in _ENDS or (place_before not in _OUTSIDE_PLACES and turn)
                )
                self.starts[before, here] = (
                    place in ("B", "S") or pair in _STARTS or (place not in _OUTSIDE_PLACES and turn)
                )


def count_chunks(
    gold: np.ndarray, predicted: np.ndarray, lengths: np.ndarray, rules: TagRules
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chunks that are right, given and gold, in each sentence; a chunk belongs to the sentence in which it ends.

    Args:
        gold: Codes of the right tags of all words, in the order of the sentences. [words]
        predicted: Codes of the tags given. [words]
        lengths: Words of each sentence, none of them empty. [sentences]
        rules: Of the tags.

    Returns:
        Right, given and gold chunks. [sentences] all
    """
    behind = np.cumsum(lengths + 1)  # with an `O` behind each
    words = np.ones(behind[-1] if len(behind) else 0, dtype=bool)
    words[behind - 1] = False
    ends, begins, types = [], [], []
    for tags in (gold, predicted):
        here = np.zeros(len(words), dtype=np.int64)  # code 0 is `O`
        here[words] = tags
        before = np.concatenate([[len(rules.names)], here[:-1]])
        starts = np.where(rules.starts[before, here], np.arange(len(here)), 0)
        ends.append(rules.ends[before, here])  # a chunk ends before this place
        begins.append(np.concatenate([[0], np.maximum.accumulate(starts)[:-1]]))
        types.append(rules.types[np.minimum(before, len(rules.names) - 1)])
    right = ends[0] & ends[1] & (begins[0] == begins[1]) & (types[0] == types[1])
    # The place behind the chunk's end is in the same sentence, as its `O` is.
    first = behind - (lengths + 1)
    return tuple(np.add.reduceat(found, first, dtype=np.int64) for found in (right, ends[1], ends[0]))  # type: ignore[return-value]
