"""Writes a table of the whole index run by run: from the table that was published before, and the parts of new runs."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pyarrow as pa

from musicgen.dataset.earlier_table import EarlierTable, IndexedRun, list_indexed_runs, name_runs, open_earlier_table
from musicgen.dataset.reader import Dataset
from musicgen.dataset.table_pieces import join_pieces
from musicgen.dataset.tombstones import Tombstones
from musicgen.storage.parquet_writer import open_parquet_writer

GROUP_ROWS = 10_000
GROUP_BYTES = 64 << 20

RunReader = Callable[[IndexedRun, Tombstones], Iterator[pa.Table]]
"""Reads the visible rows of a run's parts, with the columns of the table, in pieces of at most `GROUP_BYTES`."""


def write_by_run(
    dataset: Dataset,
    table: str,
    schema: pa.Schema,
    path: Path,
    read_run: RunReader,
    incomplete: Collection[str] = (),
    is_usable: Callable[[EarlierTable, str], bool] = lambda earlier, run: True,
) -> None:
    """Write the index's rows, in its order, to a local file that becomes the dataset's object `table`.

    Runs that the earlier object has as they are now, and that `is_usable` allows, are copied from it. `incomplete` are
    runs of which `read_run` had to leave out rows: they are read anew the next time. Memory is bounded, whatever the
    number of rows. A copy of the earlier table is kept beside the file meanwhile.
    """
    tombstones = dataset.tombstones()
    written: list[tuple[str, str, int]] = []
    with (
        open_earlier_table(dataset, table, schema, path.parent) as earlier,
        open_parquet_writer(path, schema) as writer,
    ):

        def read_rows() -> Iterator[pa.Table]:
            for run in list_indexed_runs(dataset, tombstones):
                rows = 0
                is_covered = earlier.covers(run) and is_usable(earlier, run.run)
                for piece in earlier.read_rows(run.run) if is_covered else read_run(run, tombstones):
                    rows += piece.num_rows
                    yield piece.rename_columns(schema.names).cast(schema)
                written.append((run.run, "" if run.run in incomplete else run.digest, rows))

        for group in join_pieces(read_rows(), GROUP_ROWS, GROUP_BYTES):  # the loader reads a row group at a time
            writer.write_table(group, row_group_size=GROUP_ROWS)
        name_runs(writer, written)
