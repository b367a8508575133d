"""The table of the card's second configuration: `load_dataset(folder, "current")` gives the latest manifest's rows.

All configurations of a card are read by one loader, that of the first: the Parquet loader, or AudioFolder for large
datasets of layout files. A large dataset of layout webdataset has no such configuration, since its loader takes whole
tars; its `current.parquet` names tars and offsets.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset import huggingface_table, paths
from musicgen.dataset.current_rows import CurrentRows
from musicgen.dataset.earlier_table import list_indexed_runs, name_sources, open_earlier_rows
from musicgen.dataset.huggingface import INDEX_PATTERN, CurrentTable
from musicgen.dataset.huggingface_table import TableChoice, embedded_schema, is_marked, mark
from musicgen.dataset.index_keys import read_index_keys
from musicgen.dataset.local_rows import LocalRows
from musicgen.dataset.manifest_rows import find_current_run, read_manifest_keys, read_rows_footer
from musicgen.dataset.metadata_columns import choose_metadata_types
from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_keys import split_keys
from musicgen.dataset.table_by_run import GROUP_BYTES, GROUP_ROWS
from musicgen.dataset.table_pieces import join_pieces
from musicgen.dataset.visible_rows import select_visible
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.parquet_writer import open_parquet_writer
from musicgen.temporary_folder import temporary_folder


def write_current_table(dataset: Dataset, table: TableChoice, folder: Path) -> CurrentTable | None:
    """Write `current.parquet`, if the configuration needs it; returns the choice, None for a dataset without one.

    `table` is the one of the first configuration, which has been written. `folder` is for temporary files.
    """
    choice = choose_current_table(dataset, table)
    if choice is None or not choice.is_foreign:
        if choice is not None and _is_written(dataset, table, choice):
            path = folder / "current.parquet"
            if table.file is not None:
                _write_from_table(dataset, choice.run, table.file, path)
            else:
                _write_from_index(dataset, choice.run, path)
            dataset.store.write(paths.CURRENT_COPY, path)
        elif is_marked(dataset.store, paths.CURRENT_COPY):
            dataset.store.delete(paths.CURRENT_COPY)
    return choice


def choose_current_table(dataset: Dataset, table: TableChoice) -> CurrentTable | None:
    """Choose what the configuration `current` reads, beside or instead of the first one's table; writes nothing."""
    run = find_current_run(dataset.store)
    if run is None:
        return None
    rows = read_rows_footer(dataset.store, run).rows
    has_parquet_loader = dataset.info.layout == "parquet" or table.path == paths.HUGGINGFACE_COPY or table.reads_index
    if _is_large(table, rows):  # the keys, which are there
        return CurrentTable(run, rows, (paths.manifest_rows(run),) if has_parquet_loader else ())
    if has_parquet_loader and not table.unreadable and _is_whole_index(dataset, run):
        files = (paths.HUGGINGFACE_COPY,) if table.path else (INDEX_PATTERN,)
        return CurrentTable(run, rows, files)
    if is_marked(dataset.store, paths.CURRENT_COPY) is False:
        return CurrentTable(run, rows, is_foreign=True)
    if has_parquet_loader:
        return CurrentTable(run, rows, (paths.CURRENT_COPY,))
    if dataset.info.layout == "files" and table.path == paths.METADATA:
        options = {"metadata_filenames": [paths.CURRENT_COPY]}
        return CurrentTable(run, rows, (paths.CURRENT_COPY, f"{paths.AUDIO}/**"), options)
    return CurrentTable(run, rows)


def needs_current_table(dataset: Dataset, table: TableChoice) -> bool:
    """Return whether `current.parquet` is among what the dataset's card was published with."""
    choice = choose_current_table(dataset, table)
    return choice is not None and not choice.is_foreign and _is_written(dataset, table, choice)


def _is_large(table: TableChoice, rows: int) -> bool:
    return max(table.rows, rows) > huggingface_table.MAX_TABLE_ROWS


def _is_written(dataset: Dataset, table: TableChoice, choice: CurrentTable) -> bool:
    is_beside = dataset.info.layout != "parquet" and table.path != paths.HUGGINGFACE_COPY
    return paths.CURRENT_COPY in choice.files or (is_beside and not choice.files and not _is_large(table, choice.rows))


def _is_whole_index(dataset: Dataset, run: str) -> bool:
    """Whether all rows of the manifest were made, and are those of the index in its own order: they need no table."""
    if any(True for _ in dataset.tombstones().names()):
        return False
    pieces = (split_keys(piece) for piece in read_manifest_keys(dataset.store, run))
    keys = (key for k1, k2 in pieces for key in zip(k1.to_pylist(), k2.to_pylist(), strict=True))
    with temporary_folder() as folder:
        for table in read_index_keys(dataset.store, dataset.part_files(), folder):
            indexed = zip(table["k1"].to_pylist(), table["k2"].to_pylist(), strict=True)
            if any(key != next(keys, None) for key in indexed):
                return False
    return next(keys, None) is None


def _write_from_table(dataset: Dataset, run: str, table: Path, path: Path) -> None:
    """Write the rows of a run's manifest from the table of all rows, which has just been written."""
    hidden = frozenset(dataset.tombstones().hidden_keys())
    keys = (piece.filter(select_visible(piece, hidden)) for piece in read_manifest_keys(dataset.store, run))
    with table.open("rb") as file:
        rows = LocalRows(ParquetReader(file))
        with open_parquet_writer(path, rows.reader.schema_arrow) as writer:
            for piece in rows.read_ordered(keys, path.parent):
                writer.write_table(piece.cast(rows.reader.schema_arrow))


def _write_from_index(dataset: Dataset, run: str, path: Path) -> None:
    """Write the rows of a run's manifest from the earlier `current.parquet`, and those that it lacks from the index.

    With layout parquet they have their audio if it is small.
    """
    runs = list_indexed_runs(dataset, dataset.tombstones())
    with open_earlier_rows(dataset, paths.CURRENT_COPY, runs, path.parent) as earlier:
        current = CurrentRows(dataset, run, earlier)
        schema = dataset.schema()
        if dataset.info.layout == "parquet":
            byte_count = 0
            for batch in current.batches(["audio_bytes"]):
                byte_count += pc.sum(batch.column(0)).as_py() or 0
            is_small = byte_count <= huggingface_table.SMALL_BYTES
            schema = embedded_schema(dataset) if is_small else schema.remove(schema.get_field_index("audio"))
        names = schema.names
        if dataset.info.layout == "files":
            schema = choose_metadata_types(dataset)
        with open_parquet_writer(path, mark(schema)) as writer:
            pieces = (pa.Table.from_batches([batch]) for batch in current.batches(names))
            for rows in join_pieces(pieces, GROUP_ROWS, GROUP_BYTES):
                columns = rows.replace_schema_metadata(None).rename_columns(schema.names)
                writer.write_table(columns.cast(schema), row_group_size=GROUP_ROWS)
            name_sources(writer, runs)
