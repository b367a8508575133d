"""Writes `metadata.parquet`, the rows of the index with the paths of their files."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.earlier_table import IndexedRun
from musicgen.dataset.index_columns import fill_columns
from musicgen.dataset.reader import Dataset
from musicgen.dataset.table_by_run import write_by_run
from musicgen.dataset.tombstones import Tombstones
from musicgen.dataset.visible_rows import read_visible
from musicgen.parallel import map_ordered
from musicgen.storage import FileInfo, Store

_THREADS = 8


def write_metadata(dataset: Dataset, schema: pa.Schema, path: Path) -> None:
    """Write the index's rows with the columns of `schema`, in the index's order, to a local file."""
    index_columns = dataset.schema()

    def read_run(run: IndexedRun, tombstones: Tombstones) -> Iterator[pa.Table]:
        return read_run_rows(dataset.store, run, tombstones, index_columns)

    write_by_run(dataset, paths.METADATA, schema, path, read_run)


def read_run_rows(store: Store, run: IndexedRun, tombstones: Tombstones, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the visible rows of a run, part by part, with all columns of the index."""

    def read(part: FileInfo) -> pa.Table:
        return fill_columns(read_visible(store, part.path, tombstones.hidden_in(part.path), schema.names), schema)

    return map_ordered(read, run.parts, threads=_THREADS)
