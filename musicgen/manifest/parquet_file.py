"""Parquet manifests: columns keep their types, rows are counted from 1."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.errors import ManifestError, first_line
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.files import ManifestFile, open_file
from musicgen.manifest.source_batch import BATCH_BYTES, BATCH_ROWS, SourceBatch, UnparsableRow
from musicgen.storage.parquet_reader import ParquetReader

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # an unnamed index that `to_parquet` wrote along: nobody's column
NOT_UTF8 = "is not valid UTF-8"


def read_parquet(file: ManifestFile, columns: ColumnMap) -> Iterator[SourceBatch]:
    """The rows of a Parquet file in batches. Raises `ManifestError`: not Parquet, damaged, a missing column."""
    with open_file(file) as raw:
        try:
            parquet = ParquetReader(raw)
            header = parquet.schema_arrow.names
            columns.check(header, file.uri)
            number = 1
            for batch in parquet.iter_batches(batch_size=_choose_batch_rows(parquet.metadata)):
                yield _build_batch(file, columns, batch, number)
                number += len(batch)
        except pa.ArrowException as error:
            reason = first_line(error)
            raise ManifestError(f"{file.uri}: not a readable Parquet file: {reason}") from None


def _choose_batch_rows(metadata: pq.FileMetaData) -> int:
    """How many rows to read at a time, by the size of a row in the largest row group."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
    return int(min(BATCH_ROWS, max(1, BATCH_BYTES / max(row_bytes, 1))))


def _build_batch(file: ManifestFile, columns: ColumnMap, batch: pa.RecordBatch, first: int) -> SourceBatch:
    meaning = columns.fields()
    table = pa.Table.from_batches([batch])
    bad: set[int] = set()
    fields = {meaning[name]: _read_values(table[name], bad) for name in table.column_names if name in meaning}
    carried = {
        name: to_plain_column(table[name])
        for name in table.column_names
        if name not in meaning and not _PANDAS_INDEX.fullmatch(name)
    }
    for column in carried.values():
        _find_invalid_utf8(column, bad)
    numbers: Any = range(first, first + len(batch))
    broken = [UnparsableRow(first + i, NOT_UTF8) for i in sorted(bad)]
    rest = pa.table(carried)
    if bad:
        keep = [i for i in range(len(batch)) if i not in bad]
        numbers = [first + i for i in keep]
        fields = {name: [column[i] for i in keep] for name, column in fields.items()}
        rest = rest.take(pa.array(keep, pa.int64())) if carried else rest
    return SourceBatch(file, numbers, fields, rest, broken)


def _read_values(column: pa.ChunkedArray, bad: set[int]) -> list[Any]:
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        # 0.9 stored as float32 is meant as 0.9, not as 0.8999999761581421: its shortest spelling.
        return [None if value is None else float(str(value)) for value in _read_floats(column)]
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        values: list[Any] = []
        for i, scalar in enumerate(column):
            try:
                values.append(scalar.as_py())
            except UnicodeDecodeError:
                bad.add(i)
                values.append(None)
        return values


def _read_floats(column: pa.ChunkedArray) -> list[Any]:
    kind = np.float16 if pa.types.is_float16(column.type) else np.float32
    return [None if value is None else kind(value) for value in column.to_pylist()]


def _find_invalid_utf8(column: pa.ChunkedArray, bad: set[int]) -> None:
    """Arrow takes a file's word that its strings are UTF-8; look, before somebody downstream trips over them."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        _read_values(column, bad)


def to_plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in the type that any writer of the same data would give it: no dictionaries, no `large_` offsets."""
    return column.cast(to_plain_type(column.type)) if to_plain_type(column.type) != column.type else column


def to_plain_type(kind: pa.DataType) -> pa.DataType:
    """`plain` of a type. Nulls stay nulls: another file may know what they are of."""
    if pa.types.is_dictionary(kind):
        return to_plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(pa.field("element", to_plain_type(kind.value_type)))  # as Parquet itself calls it
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, to_plain_type(field.type)) for field in kind])
    return kind
