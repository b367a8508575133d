"""Rows of a dataset in a Parquet file on the local disk, found by their keys instead of in the index."""

import threading
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset.key_places import ROWS_AT_ONCE, KeyPlaces
from musicgen.dataset.picked_rows import gather_rows, pick_rows
from musicgen.dataset.run_keys import split_keys
from musicgen.storage.parquet_reader import ParquetReader

_BYTES_AT_ONCE = 64 << 20


class LocalRows:
    """The rows of a table that may be taken from it: of the runs `runs`, None: all. Thread-safe."""

    def __init__(self, reader: ParquetReader, runs: Set[str] | None = None):
        self.reader = reader
        self.key_column = "__key__" if "__key__" in reader.schema_arrow.names else "key"
        self._runs = runs
        self._lock = threading.Lock()

    def has_columns(self, schema: pa.Schema) -> bool:
        """Return whether the table has these columns, with these types."""
        own = self.reader.schema_arrow
        return all(field.name in own.names and own.field(field.name).type == field.type for field in schema)

    def read_keys(self) -> Iterator[pa.Table]:
        """Yield the keys of the rows as `read_index_keys` does; the part is -1 minus the number of the row group."""
        columns = [self.key_column, *([] if self._runs is None else ["run"])]
        for number in range(self.reader.num_row_groups):
            table = self.reader.read_row_group(number, columns)
            if self._runs is not None:
                table = table.filter(pc.is_in(table["run"], value_set=pa.array(sorted(self._runs), pa.string())))
            parts = pa.array(np.full(table.num_rows, -1 - number, np.int32))
            yield pa.table([*split_keys(table[self.key_column]), parts], names=["k1", "k2", "part"])

    def read_part(self, part: int, keys: pa.Array, schema: pa.Schema) -> pa.Table:
        """Read the rows of these keys, for which `read_keys` gave this part, in the order of the keys."""
        with self._lock:
            return pick_rows(self.reader, [-1 - part], keys, schema, self.key_column)

    def read_ordered(self, keys: Iterable[pa.Array], folder: Path) -> Iterator[pa.Table]:
        """Yield the rows of those keys that it has, in the order of the keys. `folder` is for temporary files."""
        metadata, schema = self.reader.metadata, self.reader.schema_arrow
        byte_count = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
        rows_at_once = int(metadata.num_rows * _BYTES_AT_ONCE / max(1, byte_count))
        with KeyPlaces(folder) as places:
            places.add_wanted(keys)
            places.add_indexed(self.read_keys())
            for piece in places.read_ordered(max(1, min(rows_at_once, ROWS_AT_ONCE))):
                yield gather_rows(piece, lambda part, wanted: self.read_part(part, wanted, schema))
