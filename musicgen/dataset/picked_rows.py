"""Reads rows by their keys from several Parquet files, in the order of the keys."""

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from musicgen.dataset.index_columns import fill_columns
from musicgen.parallel import map_ordered
from musicgen.storage.parquet_reader import ParquetReader

_THREADS = 8

ReadPart = Callable[[int, pa.Array], pa.Table]
"""Reads the rows of these keys from the part of this number, in the order of the keys."""


def gather_rows(places: pa.Table, read_part: ReadPart) -> pa.Table:
    """Read the rows of these places (`key`, `part`), in their order. `read_part` is called in several threads."""
    numbers = places["part"].to_numpy()

    def read(number: int) -> tuple[pa.Table, NDArray[np.int64]]:
        ranks = np.flatnonzero(numbers == number)
        return read_part(number, places["key"].take(pa.array(ranks)).combine_chunks()), ranks

    pieces = list(map_ordered(read, [int(number) for number in np.unique(numbers)], threads=_THREADS))
    table = pa.concat_tables([piece for piece, _ in pieces])
    order = np.argsort(np.concatenate([ranks for _, ranks in pieces]))
    return table.take(pa.array(order)).combine_chunks()


def pick_rows(
    file: ParquetReader, row_groups: Iterable[int], keys: pa.Array, schema: pa.Schema, key_column: str = "key"
) -> pa.Table:
    """Read the rows of these keys, in the order of `keys`; no more of the row groups than needed."""
    own = [name for name in schema.names if name in file.schema_arrow.names]
    pieces: list[pa.Table] = []
    ranks: list[NDArray[np.int64]] = []
    for row_group in row_groups:
        group_keys = file.read_row_group(row_group, [key_column])[key_column]
        positions = pc.index_in(group_keys, value_set=keys).combine_chunks()
        rows = np.flatnonzero(positions.is_valid())
        if len(rows):
            table = file.read_row_group(row_group, own).replace_schema_metadata(None)
            pieces.append(fill_columns(table.take(pa.array(rows)), schema))
            ranks.append(positions.drop_null().to_numpy())
    table = pa.concat_tables(pieces)
    return table.take(pa.array(np.argsort(np.concatenate(ranks))))
