"""Computes an SQL condition on the rows of the index, for the commands that choose clips by `--where`."""

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import index_columns
from musicgen.errors import JobError, first_line
from musicgen.manifest.carried_types import to_texts
from musicgen.storage.parquet_reader import ParquetReader

_PLACE = "musicgen_place"


@dataclass(frozen=True, slots=True)
class ClipCondition:
    """A condition on the columns of the index, and the database that computes it."""

    database: duckdb.DuckDBPyConnection
    where: str

    def check_row_group(self, part: ParquetReader, row_group: int, dataset: Dataset) -> pa.Array:
        """Return for each row of a row group of an index part whether the condition holds. Raises `JobError`.

        The condition is on all columns but `audio`, because that one may hold the files, and `codes`.
        """
        own = index_columns()
        names = [name for name in part.schema_arrow.names if name in own or name in dataset.info.carried]
        return self.check_rows(part.read_row_group(row_group, [name for name in names if name != "audio"]))

    def check_rows(self, table: pa.Table) -> pa.Array:
        """Return for each row whether the condition holds. Raises `JobError`."""
        known = pa.table({name: _to_known(table[name]) for name in table.column_names})
        try:
            self.database.register("clips", known.append_column(_PLACE, pa.array(range(table.num_rows), pa.int64())))
            places = self.database.execute(f"select {_PLACE} from clips where ({self.where}\n)").fetchnumpy()[_PLACE]
        except duckdb.Error as error:
            hint = "; columns of a CSV are text: write CAST(bpm AS DOUBLE) > 120" if "VARCHAR" in str(error) else ""
            raise JobError(f"--where {self.where!r} is no condition on the clips: {first_line(error)}{hint}") from None
        is_met = np.zeros(table.num_rows, np.bool_)
        is_met[places] = True
        return pa.array(is_met)


def _to_known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column with a type that DuckDB knows: that of new datasets, for what earlier releases carried."""
    if pa.types.is_float16(column.type):
        return column.cast(pa.float32())
    return to_texts(column) if _is_unknown(column.type) else column


def _is_unknown(data_type: pa.DataType) -> bool:
    children = [data_type.field(number).type for number in range(data_type.num_fields)]
    return pa.types.is_float16(data_type) or pa.types.is_decimal256(data_type) or any(map(_is_unknown, children))
