from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from raylab.seeding import generator
from raylab.train.batching import evaluation_batches, training_batches

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=60).map(np.array)


@given(LENGTHS, st.integers(1, 16), st.integers(0, 3))
def test_every_sequence_is_in_one_training_batch(lengths: np.ndarray, batch_size: int, seed: int) -> None:
    batches = training_batches(lengths, batch_size, generator(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert len(batches) == -(-len(lengths) // batch_size)


@given(LENGTHS, st.integers(1, 1000))
@example(np.array([2, 2]), 4)  # just enough
def test_every_sequence_is_in_one_evaluation_batch(lengths: np.ndarray, most_tokens: int) -> None:
    batches = evaluation_batches(lengths, most_tokens)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= most_tokens
        if following is not None:  # none has room for the next sequence
            assert (len(batch) + 1) * lengths[following[0]] > most_tokens


def test_epochs_differ_and_little_is_padded() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, size=800)
    first, again, second = (training_batches(lengths, 16, generator(epoch)) for epoch in (1, 1, 2))
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]
    assert {frozenset(batch.tolist()) for batch in first}.isdisjoint(frozenset(batch.tolist()) for batch in second)
    padded = sum(len(batch) * lengths[batch].max() for batch in first)
    assert padded < 1.25 * lengths.sum()  # in random batches it is about 1.8
    means = [lengths[batch].mean() for batch in first]
    assert means != sorted(means)
