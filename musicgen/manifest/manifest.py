"""A manifest as a stream of batches, whatever its format and wherever it lies."""

from collections.abc import Iterator
from dataclasses import replace

from musicgen.errors import ManifestError
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.csv_file import read_csv
from musicgen.manifest.files import ManifestFile, find_files
from musicgen.manifest.jsonl_file import read_jsonl
from musicgen.manifest.parquet_file import read_parquet
from musicgen.manifest.source_batch import SourceBatch


def read_manifest(uri: str, columns: ColumnMap, limit: int | None = None, output: str = "") -> Iterator[SourceBatch]:
    """The rows of a manifest, a few thousand at a time, in the order of its files and rows; `limit` rows at most.

    `output` is the dataset that the rows are for. Raises `ManifestError`: nothing there, unreadable, a missing column,
    no rows, or files of the output itself.
    """
    left = limit
    empty = True
    seen: set[str] = set()
    files = find_files(uri, output)
    for file in files:
        for batch in _read_file(file, columns, seen):
            if left is not None:
                batch = limit_batch(batch, left)
                left -= len(batch) + len(batch.unparsable)
            empty = empty and not len(batch) and not batch.unparsable
            yield batch
            if left == 0:
                break
        if left == 0:
            break
    if empty:
        raise ManifestError(f"{uri}: the manifest is empty: it holds no rows")
    if files[0].format == "jsonl" and seen:
        columns.check(sorted(seen), uri)


def _read_file(file: ManifestFile, columns: ColumnMap, seen: set[str]) -> Iterator[SourceBatch]:
    if file.format == "csv":
        return read_csv(file, columns)
    if file.format == "jsonl":
        return read_jsonl(file, columns, seen)
    return read_parquet(file, columns)


def limit_batch(batch: SourceBatch, rows: int) -> SourceBatch:
    """The first rows of a batch, broken ones counted."""
    if len(batch) + len(batch.unparsable) <= rows:
        return batch
    numbers = sorted([*batch.numbers, *(row.number for row in batch.unparsable)])
    last = numbers[rows - 1]
    good = sum(number <= last for number in batch.numbers)
    return replace(
        batch,
        numbers=batch.numbers[:good],
        fields={name: column[:good] for name, column in batch.fields.items()},
        carried=batch.carried[:good] if isinstance(batch.carried, list) else batch.carried.slice(0, good),
        unparsable=[row for row in batch.unparsable if row.number <= last],
    )
