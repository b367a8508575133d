"""Builds record batches of the index: its own columns, the codes, and the columns carried from the manifest."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from musicgen.value_types import TableRow

Codes = NDArray[np.int16]  # [codebooks, frames]


def make_index_batch(
    schema: pa.Schema, rows: Sequence[TableRow], codes: Sequence[Codes] | None, carried: pa.Table
) -> pa.RecordBatch:
    """Build a batch of the index's `schema` from `rows` with its own columns, and as many `codes` and `carried` rows.

    `codes` is None where the schema has no such column.
    """
    added = {*carried.column_names, "codes"}
    table = pa.Table.from_pylist(list(rows), schema=pa.schema([field for field in schema if field.name not in added]))
    if codes is not None:
        table = table.append_column("codes", nest_codes(codes))
    for name in carried.column_names:
        table = table.append_column(name, carried.column(name))
    return table.combine_chunks().to_batches()[0]


def nest_codes(codes: Sequence[Codes]) -> pa.Array:
    """Return codes as Arrow lists of lists, from their buffers: as Python lists they take many times the memory."""
    books = np.cumsum([0, *(array.shape[0] for array in codes)], dtype=np.int32)
    frames = np.cumsum([0, *(array.shape[1] for array in codes for _ in range(array.shape[0]))], dtype=np.int32)
    flat = np.concatenate([array.reshape(-1) for array in codes])
    return pa.ListArray.from_arrays(books, pa.ListArray.from_arrays(frames, pa.array(flat, pa.int16())))


def take_carried(carried: pa.Table, positions: Sequence[int]) -> pa.Table:
    """Return these rows of the carried columns; without carried columns, a table with as many rows and no columns."""
    if carried.num_columns:
        return carried.take(pa.array(positions, pa.int64()))
    return pa.table({"": pa.nulls(len(positions))}).select([])
