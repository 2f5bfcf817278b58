"""Content addresses: every key and fingerprint in raylab is made here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_DIGEST_BYTES = 10  # 20 hexadecimal digits: collisions are out of reach for any number of jobs


def fingerprint(value: Any) -> str:
    """Hash a JSON-serialisable value, whatever the order of its dictionary keys.

    Returns:
        20 hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Hash the contents of files, in the order given; their names and dates do not count.

    Returns:
        20 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for path in paths:
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
