"""Random streams: every seed in raylab is made here.

A stream is named by what it is for and where it is (`generator(seed, "masking", step)`), and holds no state between
calls. So a job that resumes at step k draws what it would have drawn, and no stream depends on how often another was
read.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed for the random stream of this name, equal on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator at the start of the random stream of this name."""
    import torch  # a driver draws seeds alone, and need not wait for it

    return torch.Generator().manual_seed(seed_of(*parts))
