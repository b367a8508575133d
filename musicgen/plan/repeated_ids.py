"""Rows whose id an earlier row of the manifest has: they are invalid, and the first one stays."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from musicgen.dataset.refused_rows import REPEATED_ID
from musicgen.plan.invalid_rows import SHOWN_CHARACTERS, InvalidRow, build_invalid_table
from musicgen.plan.missing import MissingRows
from musicgen.plan.spill import Spill

_COLUMNS = ["source", "id", "prompt"]
_SCHEMA = pa.schema([("row_index", pa.int64()), *((name, pa.string()) for name in _COLUMNS)])


def refuse_repeated_ids(missing_rows: MissingRows, spill: Spill, folder: Path) -> int:
    """Make the rows with an id of an earlier row invalid; returns how many rows of the spill they were.

    Each reason names both rows. `folder` is for temporary files.
    """
    samples, rows = missing_rows.find_repeated_ids()
    if rows:
        sources = folder / "sources.parquet"
        _write_sources(missing_rows, spill, sources)
        spill.add_invalid(map(_build_invalid, missing_rows.pair_repeating(sources)))
    return samples


def _write_sources(missing_rows: MissingRows, spill: Spill, path: Path) -> None:
    read_ahead: deque[NDArray[np.int64]] = deque()

    def read_indices() -> Iterator[NDArray[np.int64]]:
        for piece in missing_rows.read_repeating():
            read_ahead.append(piece)
            yield piece

    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        for rows in spill.select_rows(read_indices()):
            indices = np.concatenate(list(read_ahead))
            read_ahead.clear()
            read_ahead.append(indices[rows.num_rows :])
            columns = [pa.array(indices[: rows.num_rows]), *(rows[name] for name in _COLUMNS)]
            writer.write_table(pa.Table.from_arrays(columns, schema=_SCHEMA))


def _build_invalid(batch: pa.RecordBatch) -> pa.Table:
    rows = [
        InvalidRow(
            0,
            row["source"],
            row["id"][:SHOWN_CHARACTERS],
            row["prompt"][:SHOWN_CHARACTERS],
            "invalid",
            f"{REPEATED_ID} {row['first_source']}",
        )
        for row in batch.to_pylist()
    ]
    return build_invalid_table(rows)
