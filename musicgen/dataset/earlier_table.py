"""Takes rows from the table that was published before, so that publishing a run reads that run's parts and no others.

A table's footer says, for each run, which parts its rows are of and how many there are. A run whose parts and removed
clips are still the same has the same rows. Anything that does not fit is read from the index instead.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset.local_rows import LocalRows
from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_keys import group_parts
from musicgen.dataset.tombstones import Tombstones
from musicgen.dataset.whole_file import open_whole_if_there
from musicgen.own_checksum import check_parquet
from musicgen.storage import FileInfo
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import JsonObject
from musicgen.version import package_version

_FOOTER_KEY = b"musicgen.runs"
_SOURCES_KEY = b"musicgen.sources"


@dataclass(frozen=True, slots=True)
class IndexedRun:
    """The index parts of a run, and a hash of their names, sizes and ETags and of the run's removed clips."""

    run: str
    parts: tuple[FileInfo, ...]
    digest: str


class _TableRun(NamedTuple):
    digest: str
    start: int
    rows: int


def list_indexed_runs(dataset: Dataset, tombstones: Tombstones) -> list[IndexedRun]:
    """List the runs of the index in its order."""
    removed: dict[str, list[str]] = {}
    for place, entry in tombstones:
        if entry.state != "undone":
            removed.setdefault(place.run, []).append(f"{place.key} {place.shard}")
    runs = []
    for run, parts in group_parts(dataset.part_files()).items():
        digest = hashlib.sha256()
        for info in parts:
            digest.update(f"{info.path} {info.size} {info.etag}\n".encode())
        for name in sorted(removed.get(run, ())):
            digest.update(f"{name}\n".encode())
        runs.append(IndexedRun(run, tuple(parts), digest.hexdigest()[:32]))
    return runs


class EarlierTable:
    """The rows of a table that was published before, by run. `file` is None if there is none that can be used."""

    def __init__(self, file: BinaryIO | None = None, schema: pa.Schema | None = None):
        self._reader = ParquetReader(file) if file is not None else None
        self._runs: Mapping[str, _TableRun] = {}
        self._group = (-1, pa.table({}))
        if self._reader is None:
            return
        if schema is not None and self._reader.schema_arrow.equals(schema):
            self._runs = _parse_runs(_read_document(self._reader, _FOOTER_KEY), self._reader.metadata.num_rows)

    def covers(self, run: IndexedRun) -> bool:
        """Return whether the table has the rows of this run as it is now."""
        own = self._runs.get(run.run)
        return own is not None and own.digest == run.digest

    def read_rows(self, run: str) -> Iterator[pa.Table]:
        """Yield the rows of a run that is covered, in pieces of at most a row group."""
        for number, start, rows in self._locate_rows(run):
            yield self._read_group(number).slice(start, rows)

    def read_column(self, run: str, name: str) -> Iterator[pa.ChunkedArray]:
        """Yield the values of a column for the rows of a run that is covered."""
        for number, start, rows in self._locate_rows(run):
            if self._reader is not None:
                yield self._reader.read_row_group(number, [name])[name].slice(start, rows)

    def _locate_rows(self, run: str) -> Iterator[tuple[int, int, int]]:
        """Yield the row groups that have rows of a run, each with the first of them and their number."""
        assert self._reader is not None
        own = self._runs[run]
        start = 0
        for number in range(self._reader.num_row_groups):
            end = start + self._reader.metadata.row_group(number).num_rows
            first, last = max(start, own.start), min(end, own.start + own.rows)
            if first < last:
                yield number, first - start, last - first
            start = end

    def _read_group(self, number: int) -> pa.Table:
        if self._group[0] != number:  # small runs share one
            self._group = (number, self._reader.read_row_group(number) if self._reader is not None else pa.table({}))
        return self._group[1]


@contextmanager
def open_earlier_rows(
    dataset: Dataset, path: str, runs: Sequence[IndexedRun], folder: Path
) -> Iterator[LocalRows | None]:
    """Open the table at `path`, for those of its rows whose run is as it was when the table was made; None: for none.

    `name_sources` has named the runs. `folder` is for a copy of an object of a bucket.
    """
    with open_whole_if_there(dataset.store, path, folder) as file:
        if file is None or check_parquet(file) != "right":
            yield None
            return
        file.seek(0)
        reader = ParquetReader(file)
        sources = _read_document(reader, _SOURCES_KEY).get("runs", {})
        same = {run.run for run in runs if sources.get(run.run) == run.digest}
        yield LocalRows(reader, same) if same and "run" in reader.schema_arrow.names else None


@contextmanager
def open_earlier_table(dataset: Dataset, path: str, schema: pa.Schema, folder: Path) -> Iterator[EarlierTable]:
    """Open the table at `path`, if it has these columns and its bytes are those that were written.

    `folder` is for a copy of an object of a bucket.
    """
    with open_whole_if_there(dataset.store, path, folder) as file:
        if file is None or check_parquet(file) != "right":
            yield EarlierTable()
            return
        file.seek(0)
        yield EarlierTable(file, schema)


def name_runs(writer: pq.ParquetWriter, runs: Sequence[tuple[str, str, int]]) -> None:
    """Write into a table's footer the runs that it has, in order: name, digest (empty: not covered) and rows."""
    _add_document(writer, _FOOTER_KEY, runs)


def name_sources(writer: pq.ParquetWriter, runs: Sequence[IndexedRun]) -> None:
    """Write into the footer of a table, whose rows are in any order, how the runs are that it was made of."""
    _add_document(writer, _SOURCES_KEY, {run.run: run.digest for run in runs})


def _add_document(writer: pq.ParquetWriter, key: bytes, runs: object) -> None:
    writer.add_key_value_metadata({key: json.dumps({"version": package_version(), "runs": runs})})


def _read_document(reader: ParquetReader, key: bytes) -> JsonObject:
    """Return what `_add_document` wrote; nothing if another release wrote it, whose rows may have other values."""
    content: JsonObject = json.loads((reader.metadata.metadata or {}).get(key, b"{}"))
    return content if content.get("version") == package_version() else {}


def _parse_runs(document: JsonObject, rows: int) -> dict[str, _TableRun]:
    """Return the runs of a table; none if they are not all of its rows."""
    runs: dict[str, _TableRun] = {}
    start = 0
    for run, digest, count in document.get("runs", ()):
        runs[run] = _TableRun(digest, start, count)
        start += count
    return runs if start == rows else {}
