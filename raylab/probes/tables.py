"""What probes leave for analysis: Parquet files, which need no torch to be read.

cosines.parquet: a row for each two vectors that were compared, at each step and place.
groups.parquet: of pruning, a row for each group of parameters, language and repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raylab.atomic import atomic_path

COSINES = pa.schema(
    [
        ("step", pa.int64()),  # of pretraining
        ("first", pa.string()),  # language
        ("second", pa.string()),  # language; the same as first: the baseline
        ("first_repeat", pa.int32()),
        ("second_repeat", pa.int32()),
        ("layer", pa.int32()),  # null: of no layer, or all of them
        ("module", pa.string()),  # null: all of them
        ("cosine", pa.float64()),
        ("first_norm", pa.float64()),
        ("second_norm", pa.float64()),
    ]
)

MASK_COSINES = pa.schema(
    [
        *COSINES,
        ("correlation", pa.float64()),  # the cosine once the means are taken off; 0 where one does not vary
        ("mask_cosine", pa.float64()),  # of the masks without noise
        ("opposed", pa.float64()),  # share of the groups whose log alpha differ in sign
        ("groups", pa.int64()),  # how many are compared
    ]
)

GROUPS = pa.schema(
    [
        ("group", pa.string()),
        ("layer", pa.int32()),
        ("module", pa.string()),
        ("language", pa.string()),
        ("repeat", pa.int32()),
        ("log_alpha", pa.float32()),
        ("mask", pa.float32()),  # deterministic, from 0 (removed) to 1
        ("parameters", pa.int64()),
    ]
)


def write_table(path: Path, rows: Sequence[dict[str, Any]] | dict[str, Any], schema: pa.Schema) -> None:
    """Write rows, or columns, as one Parquet file, which takes its name when it is whole."""
    make = pa.Table.from_pydict if isinstance(rows, dict) else pa.Table.from_pylist
    with atomic_path(path) as temporary:
        pq.write_table(make(rows, schema=schema), temporary)
