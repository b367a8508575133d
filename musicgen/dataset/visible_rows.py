"""Reads the rows of an index part, without those of clips that were removed."""

from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader


def iterate_visible(
    store: Store, part_path: str, hidden: Set[str], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an index part in batches, without those whose key is in `hidden`.

    With `columns`, only those of these that the part has.
    """
    with store.open(part_path) as file:
        part = ParquetReader(file)
        names = [name for name in part.schema_arrow.names if columns is None or name in columns]
        if not hidden:
            yield from part.iter_batches(columns=names)
            return
        for batch in part.iter_batches(columns=sorted({"key", *names})):
            yield batch.filter(select_visible(batch.column("key"), hidden)).select(names)


def read_visible(store: Store, part_path: str, hidden: Set[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read an index part as a table, as `iterate_visible` does."""
    with store.open(part_path) as file:
        reader = ParquetReader(file)
        if not hidden:
            return reader.read(None if columns is None else list(columns)).replace_schema_metadata(None)
        read_names = columns if columns is None or "key" in columns else ["key", *columns]
        table = reader.read(read_names).replace_schema_metadata(None)
    visible = table.filter(select_visible(table.column("key"), hidden))
    return visible if columns is None else visible.select([name for name in table.column_names if name in columns])


class HiddenRows(NamedTuple):
    """Rows of the index that are left out, and the seconds of their audio."""

    rows: int = 0
    audio_s: float = 0.0


def measure_hidden(store: Store, part_path: str, hidden: Set[str]) -> HiddenRows:
    """Count the rows of an index part whose key is in `hidden`."""
    if not hidden:
        return HiddenRows()
    with store.open(part_path) as file:
        table = ParquetReader(file).read(["key", "duration_s"])
    table = table.filter(pc.invert(select_visible(table.column("key"), hidden)))
    return HiddenRows(table.num_rows, pc.sum(table.column("duration_s")).as_py() or 0.0)


def select_visible(keys: pa.Array | pa.ChunkedArray, hidden: Set[str]) -> pa.Array | pa.ChunkedArray:
    """Return for each key whether it is not in `hidden`."""
    return pc.invert(pc.is_in(keys, value_set=pa.array(sorted(hidden), pa.string())))
