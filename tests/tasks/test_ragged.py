from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raylab.tasks.ragged import Ragged, split_by_offsets

ROWS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=8)


def ragged(rows: list[list[int]]) -> Ragged:
    flat = np.array([value for row in rows for value in row], dtype=np.int64)
    return Ragged(flat, np.cumsum([0, *map(len, rows)]))


@given(ROWS, st.data())
def test_padded_rows_are_the_rows_and_the_fill(rows: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=5))
    padded = ragged(rows).padded(np.array(chosen), fill=-7)
    longest = max(len(rows[i]) for i in chosen)
    assert padded.tolist() == [rows[i] + [-7] * (longest - len(rows[i])) for i in chosen]


@given(ROWS)
def test_positions_address_the_flat_values(rows: list[list[int]]) -> None:
    table = ragged(rows)
    order = np.arange(len(rows))[::-1]
    positions, inside = table.positions(order)
    assert table.values[positions[inside]].tolist() == [value for row in reversed(rows) for value in row]
    assert table.lengths.tolist() == [len(row) for row in rows]


@given(ROWS)
def test_split_by_offsets_undoes_joining(rows: list[list[int]]) -> None:
    words = [[str(value) for value in row] for row in rows]
    assert split_by_offsets([word for row in words for word in row], ragged(rows).offsets) == words
