"""Reads a manifest of any format, from any store, as a stream of batches."""

from collections.abc import Iterator
from dataclasses import replace

from musicgen.errors import ManifestError
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.csv_choice import DialectChoice
from musicgen.manifest.csv_file import read_csv
from musicgen.manifest.files import ManifestFile, find_files
from musicgen.manifest.jsonl_file import read_jsonl
from musicgen.manifest.parquet_file import read_parquet
from musicgen.manifest.partition_columns import PartitionColumns
from musicgen.manifest.source_batch import SourceBatch


def read_manifest(
    uri: str,
    columns: ColumnMap,
    limit: int | None = None,
    output: str = "",
    dialect: DialectChoice | None = None,
    partitions: PartitionColumns | None = None,
) -> Iterator[SourceBatch]:
    """Yield the rows of a manifest, a few thousand at a time, in the order of its files and rows; `limit` rows at most.

    `output` is the dataset that the rows are for. `dialect` is that of CSV files, by default the one that the first
    file has. `partitions` chooses which columns are taken from the names of folders, by default all. Raises
    `ManifestError`: there is no such manifest, it cannot be read, lacks a column, has no rows, or holds files of the
    output itself; and `DialectChanged`, if the rows that were given came from a misread CSV file.
    """
    rows_left = limit
    empty = True
    json_keys: set[str] = set()
    files = find_files(uri, output)
    dialect = dialect or DialectChoice(may_change=False)
    dialect.prepare(files, columns)
    partitions = partitions or PartitionColumns(columns)
    for file in files:
        json_keys.update(name for name, _ in file.partitions if file.format == "jsonl")
        for batch in _read_file(file, columns, json_keys, dialect):
            batch = partitions.add_to(batch)
            if rows_left is not None:
                batch = limit_batch(batch, rows_left)
                rows_left -= len(batch) + len(batch.unparsable)
            empty = empty and not len(batch) and not batch.unparsable
            yield batch
            if rows_left == 0:
                break
        if rows_left == 0:
            break
    if empty:
        raise ManifestError(f"{uri}: the manifest is empty: it holds no rows")
    if files[0].format == "jsonl" and json_keys:
        columns.check(sorted(json_keys), uri)


def _read_file(
    file: ManifestFile, columns: ColumnMap, json_keys: set[str], dialect: DialectChoice
) -> Iterator[SourceBatch]:
    if file.format == "csv":
        return read_csv(file, columns, dialect)
    if file.format == "jsonl":
        return read_jsonl(file, columns, json_keys)
    return read_parquet(file, columns)


def limit_batch(batch: SourceBatch, rows: int) -> SourceBatch:
    """Return the first rows of a batch; unparsable rows count too."""
    if len(batch) + len(batch.unparsable) <= rows:
        return batch
    numbers = sorted([*batch.numbers, *(row.number for row in batch.unparsable)])
    last_number = numbers[rows - 1]
    kept = sum(number <= last_number for number in batch.numbers)
    return replace(
        batch,
        numbers=batch.numbers[:kept],
        fields={name: column[:kept] for name, column in batch.fields.items()},
        carried=batch.carried[:kept] if isinstance(batch.carried, list) else batch.carried.slice(0, kept),
        unparsable=[row for row in batch.unparsable if row.number <= last_number],
    )
