from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from raylab.errors import InputError
from raylab.tasks import squad
from raylab.tasks.ner import read_conll
from raylab.tasks.pairs import read_pairs
from raylab.tasks.pos import read_conllu
from raylab.tasks.squad import read_squad


@pytest.mark.parametrize("read", [read_conll, read_conllu, read_pairs, read_squad])
def test_one_line_of_a_gibibyte_does_not_fill_the_memory(
    tmp_path: Path, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)  # holes: it takes no room on the disk
    monkeypatch.setattr(squad, "LARGEST_FILE", 1 << 20)
    tracemalloc.start()
    with pytest.raises(InputError):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
