"""The demo can be learnt: alone far above the majority baseline, and across languages above chance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from raylab.data.source import Source, open_source
from raylab.search.execution import Execution
from raylab.search.plan import plan
from raylab.search.storage import Storage
from raylab.study import load_study
from raylab.tasks import get_task


def _scores(storage: Storage, source: Source, variant: str) -> dict[tuple[str, str, str], dict[str, float]]:
    """Test scores by task, training language and evaluation language, of one model of the demo study."""
    overrides = [
        "languages=[[en, fr]]",
        f"variants=[{variant}]",
        "search=null",
        "finetune.grid={batch_size: [16], learning_rate: [2.0e-3]}",
    ]
    found = {}
    for job in plan(load_study("demo", overrides), source).jobs.values():
        if not storage.is_finished(job.key):
            execution, done = Execution(job, storage, source), False
            while not done:
                _, done = execution.advance(10.0)
        if job.kind == "finetune":
            for language, metrics in storage.read_record(job.key)["result"]["scores"]["test"].items():
                found[job.labels["task"], job.labels["train_language"], language] = metrics
    return found


def _majority_accuracy(source: Source, language: str) -> float:
    """Percent of the words of the POS test set that have its most frequent tag."""
    path = source.dataset("pos", language, "test")
    assert path is not None
    tags = Counter(tag for sentence in get_task("pos").read(path) for tag in sentence.tags)
    return 100 * max(tags.values()) / tags.total()


@pytest.mark.slow
def test_the_demo_is_learnt_within_a_language_and_across_languages(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        storage = Storage.open(str(tmp_path))
        source = open_source(load_study("demo").data, storage.root)
        mono = _scores(storage, source, "mono")
        joint = _scores(storage, source, "joint")
    finally:
        torch.set_num_threads(threads)
    for language in ("en", "fr"):
        # Tagging every word with the majority tag gives an NER F1 of 0.
        assert mono["ner", language, language]["f1"] > 40
        assert mono["pos", language, language]["accuracy"] > _majority_accuracy(source, language) + 40
    assert joint["ner", "en", "fr"]["f1"] > 15
    assert joint["pos", "en", "fr"]["accuracy"] > _majority_accuracy(source, "fr") + 10
