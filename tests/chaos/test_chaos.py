"""Twenty kills and more at random times, and nothing finished is lost, run twice or different."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.run import disturb, undisturbed
from chaos.world import STUDY, World

SMALL = {
    "variants": ["mono", "joint"],
    "finetune": {**STUDY["finetune"], "tasks": ["ner"], "grid": {"batch_size": [8], "learning_rate": [1e-3]}},
}
FROZEN = frozenset({"actor frozen", "training worker frozen"})
"""What takes `hang_seconds` to be seen."""


@pytest.mark.long
def test_a_sweep_that_is_disturbed_all_the_time_ends_as_one_that_is_not(
    corpus_folder: Path, empty_store: Path, tmp_path: Path
) -> None:
    world = World(tmp_path / "w", corpus_folder, empty_store, fields=SMALL)
    try:
        findings = disturb(world, undisturbed(world), seed=1, kills=20, pace=1.2, without=FROZEN)
    finally:
        world.close()
    report = "\n".join([*findings.wrong, *findings.log, world.log.read_text(encoding="utf-8")])
    assert not findings.wrong, report
    assert findings.kills >= 20, report
