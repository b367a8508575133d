"""Reads Parquet manifests: columns keep their types, rows are numbered from 1."""

import re
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.errors import ManifestError, first_line
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.files import ManifestFile, open_file
from musicgen.manifest.source_batch import BATCH_BYTES, BATCH_ROWS, SourceBatch, UnparsableRow
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.row_sizes import measure_rows

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")  # the index of a pandas frame, which `to_parquet` writes too
_PAGE_BUFFER_BYTES = 1 << 20  # pyarrow reads a whole column of a row group where it has no buffer
NOT_UTF8 = "is not valid UTF-8"


def read_parquet(file: ManifestFile, columns: ColumnMap) -> Iterator[SourceBatch]:
    """Yield the rows of a Parquet file in batches. Raises `ManifestError`: not Parquet, damaged, a missing column."""
    with open_file(file) as raw:
        try:
            parquet = ParquetReader(raw)
            schema = parquet.schema_arrow
            columns.check(schema.names, file.uri, file.partitions)
            repeated = _find_repeated(raw, parquet.metadata, schema)
            if repeated:  # as they are stored: 10 KB may hold one text for a million rows
                parquet = ParquetReader(raw, repeated)
            first_number = 1
            for batch in parquet.iter_batches(batch_size=_choose_batch_rows(parquet.metadata)):
                for piece in _split_batch(batch):
                    yield _build_batch(file, columns, _decode(piece, schema), first_number)
                    first_number += len(piece)
        except pa.ArrowException as error:
            raise ManifestError(f"{file.uri}: not a readable Parquet file: {first_line(error)}") from None


def _choose_batch_rows(metadata: pq.FileMetaData) -> int:
    """Choose how many rows to read at a time, by the size of a row in the row group with the largest rows."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
    return int(min(BATCH_ROWS, max(1, BATCH_BYTES / max(row_bytes, 1))))


def _find_repeated(raw: IO[bytes], metadata: pq.FileMetaData, schema: pa.Schema) -> list[str]:
    """Return the columns of texts to read as they are stored, since decoded a batch of them may be too large.

    Those are the columns with the longest values in a dictionary, which may each occur in every row, down to where
    `BATCH_ROWS` rows of the others fit into `BATCH_BYTES`. To read a column in this way costs time and memory where
    its values are short or hardly repeat.
    """
    lengths = _measure_longest(raw, metadata, schema)
    room = BATCH_BYTES // BATCH_ROWS
    repeated = []
    for name, length in sorted(lengths.items(), key=lambda item: item[1]):
        room -= length
        if room < 0:
            repeated.append(name)
    return sorted(repeated)


def _measure_longest(raw: IO[bytes], metadata: pq.FileMetaData, schema: pa.Schema) -> dict[str, int]:
    """Return the length in bytes of the longest value in any dictionary of each column of texts that has some."""
    texts = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    names = {field.name for field in schema if field.type in texts}
    lengths: dict[str, int] = {}
    parquet = ParquetReader(raw, sorted(names), buffer_bytes=_PAGE_BUFFER_BYTES) if names else None
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(i) for i in range(group.num_columns)]
        stored = [chunk.path_in_schema for chunk in chunks if chunk.has_dictionary_page]
        columns = [name for name in stored if name in names]
        if parquet is None or not columns or not group.num_rows:
            continue
        # A batch of one row brings the column's whole dictionary.
        row = next(parquet.iter_batches(1, row_groups=[number], columns=columns))
        for name, column in zip(row.schema.names, row.columns, strict=True):
            longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
            lengths[name] = max(lengths.get(name, 0), longest)
    return lengths


def _split_batch(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield the batch in pieces of at most `BATCH_BYTES`, if a row is not larger."""
    ends = np.cumsum(measure_rows(batch))
    start = 0
    while start < len(batch):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, side="right")))
        yield batch.slice(start, end - start)
        start = end


def _decode(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with the column types that its file has."""
    columns = [
        column if column.type == field.type else column.dictionary_decode().cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _build_batch(file: ManifestFile, columns: ColumnMap, batch: pa.RecordBatch, first_number: int) -> SourceBatch:
    field_of = columns.fields()
    table = pa.Table.from_batches([batch])
    invalid: set[int] = set()
    fields = {field_of[name]: _read_values(table[name], invalid) for name in table.column_names if name in field_of}
    carried = {
        name: to_plain_column(table[name])
        for name in table.column_names
        if name not in field_of and not _PANDAS_INDEX.fullmatch(name)
    }
    for column in carried.values():
        _find_invalid_utf8(column, invalid)
    numbers: Sequence[int] = range(first_number, first_number + len(batch))
    unparsable = [UnparsableRow(numbers[row], NOT_UTF8) for row in sorted(invalid)]
    carried_table = pa.table(carried)
    if invalid:  # the other rows stay
        kept = [row for row in range(len(batch)) if row not in invalid]
        numbers = [numbers[row] for row in kept]
        fields = {name: [column[row] for row in kept] for name, column in fields.items()}
        carried_table = carried_table.take(pa.array(kept, pa.int64())) if carried else carried_table
    return SourceBatch(file, numbers, fields, carried_table, unparsable)


def _read_values(column: pa.ChunkedArray, invalid: set[int]) -> list[object]:
    """Return a column's values; the rows of those that are not UTF-8 are added to `invalid`."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        # A user who stored 0.9 as float32 means 0.9, not 0.8999999761581421, so the shortest spelling counts.
        return [None if value is None or value != value else float(str(value)) for value in _read_floats(column)]
    if pa.types.is_float64(column.type):
        return [None if value != value else value for value in column.to_pylist()]
    try:
        return column.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        values: list[object] = []
        for row, scalar in enumerate(column):
            try:
                values.append(scalar.as_py())
            except (ValueError, OverflowError, pa.ArrowException):  # no UTF-8, or a date that Python cannot hold
                invalid.add(row)
                values.append(None)
        return values


def _read_floats(column: pa.ChunkedArray) -> list[np.float16 | np.float32 | None]:
    float_type: type[np.float16 | np.float32] = np.float16 if pa.types.is_float16(column.type) else np.float32
    return [None if value is None else float_type(value) for value in column.to_pylist()]


def _find_invalid_utf8(column: pa.ChunkedArray, invalid: set[int]) -> None:
    """Add the rows whose strings are not UTF-8 to `invalid`: Arrow does not check this when it reads a file."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        _read_values(column, invalid)


def to_plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column in its plain type: other writers of the same data use dictionaries or `large_` offsets."""
    plain_type = to_plain_type(column.type)
    try:
        return column.cast(plain_type) if plain_type != column.type else column
    except pa.ArrowNotImplementedError:  # as of a dictionary within a struct
        return column


def is_list_view(data_type: pa.DataType) -> bool:
    """Whether a type is a list whose elements need not be in order."""
    return pa.types.is_list_view(data_type) or pa.types.is_large_list_view(data_type)


def to_plain_type(data_type: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, views and `large_` offsets. Null stays: another file may have its type."""
    if pa.types.is_dictionary(data_type):
        return to_plain_type(data_type.value_type)
    if pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return pa.string()
    if pa.types.is_large_binary(data_type) or pa.types.is_binary_view(data_type):
        return pa.binary()
    if pa.types.is_large_list(data_type) or pa.types.is_list(data_type) or is_list_view(data_type):
        return pa.list_(pa.field("element", to_plain_type(data_type.value_type)))  # the name in the Parquet format
    if pa.types.is_struct(data_type):
        return pa.struct([pa.field(field.name, to_plain_type(field.type)) for field in data_type])
    return data_type
