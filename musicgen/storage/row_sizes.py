"""How many bytes the rows of a table really take, where a dictionary or a view makes them look smaller."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def measure_rows(table: pa.Table | pa.RecordBatch) -> NDArray[np.int64]:
    """Return the bytes of each row: of texts and bytes exactly, of other columns the mean of the column."""
    sizes = np.zeros(table.num_rows, np.float64)
    for column in table.columns:
        data_type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if _is_text(data_type):
            sizes += _measure_texts(column)
        elif table.num_rows:
            sizes += column.nbytes / table.num_rows
    return np.ceil(sizes).astype(np.int64)


def _is_text(data_type: pa.DataType) -> bool:
    return any(
        is_kind(data_type)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _measure_texts(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    measured = [
        pc.binary_length(chunk.dictionary).take(chunk.indices)
        if pa.types.is_dictionary(chunk.type)
        else pc.binary_length(chunk)
        for chunk in chunks
    ]
    lengths = [pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False).astype(np.int64) for lengths in measured]
    return np.concatenate([np.empty(0, np.int64), *lengths])
