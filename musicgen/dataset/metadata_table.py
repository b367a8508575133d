"""Writes `metadata.parquet`, from the table that was published before and the parts of runs that it does not have."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.earlier_table import IndexedRun, list_indexed_runs, name_runs, open_earlier_table
from musicgen.dataset.index_columns import fill_columns
from musicgen.dataset.reader import Dataset
from musicgen.dataset.tombstones import Tombstones
from musicgen.dataset.visible_rows import read_visible
from musicgen.parallel import map_ordered
from musicgen.storage import FileInfo
from musicgen.storage.parquet_writer import open_parquet_writer

_GROUP_ROWS = 10_000
_THREADS = 8


def write_metadata(dataset: Dataset, schema: pa.Schema, path: Path) -> None:
    """Write the index's rows with the columns of `schema`, in the index's order, to a local file.

    Memory is bounded, whatever the number of rows. A copy of the earlier table is kept beside the file meanwhile.
    """
    tombstones = dataset.tombstones()
    index_columns = dataset.schema()
    written: list[tuple[str, str, int]] = []
    with (
        open_earlier_table(dataset, paths.METADATA, schema, path.parent) as earlier,
        open_parquet_writer(path, schema) as writer,
    ):

        def read_rows() -> Iterator[pa.Table]:
            for run in list_indexed_runs(dataset, tombstones):
                rows, is_covered = 0, earlier.covers(run)
                pieces = (
                    earlier.read_rows(run.run) if is_covered else _read_run(dataset, run, tombstones, index_columns)
                )
                for piece in pieces:
                    rows += piece.num_rows
                    yield piece.rename_columns(schema.names).cast(schema)
                written.append((run.run, run.digest, rows))

        for group in _group_rows(read_rows()):
            writer.write_table(group, row_group_size=_GROUP_ROWS)
        name_runs(writer, written)


def _read_run(dataset: Dataset, run: IndexedRun, tombstones: Tombstones, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the visible rows of a run's parts."""

    def read(part: FileInfo) -> pa.Table:
        hidden = tombstones.hidden_in(part.path)
        return fill_columns(read_visible(dataset.store, part.path, hidden, schema.names), schema)

    return map_ordered(read, run.parts, threads=_THREADS)


def _group_rows(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables of about ten thousand rows, because the loader reads a row group at a time."""
    pending: list[pa.Table] = []
    row_count = 0
    for piece in pieces:
        pending.append(piece)
        row_count += piece.num_rows
        if row_count >= _GROUP_ROWS:
            yield pa.concat_tables(pending)
            pending, row_count = [], 0
    if pending:
        yield pa.concat_tables(pending)
