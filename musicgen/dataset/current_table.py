"""The table of the card's second configuration: `load_dataset(folder, "current")` gives the latest manifest's rows.

All configurations of a card are read by one loader, that of the first: the Parquet loader, or AudioFolder for large
datasets of layout files. A large dataset of layout webdataset has no such configuration, since its loader takes whole
tars; its `current.parquet` names tars and offsets.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset import huggingface_table, paths
from musicgen.dataset.current_rows import CurrentRows
from musicgen.dataset.huggingface import INDEX_PATTERN, CurrentTable
from musicgen.dataset.huggingface_table import TableChoice, is_marked, mark, write_embedded
from musicgen.dataset.manifest_rows import find_current_run, read_manifest_keys, read_rows_footer
from musicgen.dataset.metadata_columns import choose_metadata_types
from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_keys import read_index_keys, split_keys
from musicgen.storage.parquet_writer import open_parquet_writer


def write_current_table(dataset: Dataset, table: TableChoice) -> CurrentTable | None:
    """Write `current.parquet`, if the configuration needs it; returns the choice, None for a dataset without one.

    `table` is the one of the first configuration, which has been written.
    """
    choice = choose_current_table(dataset, table)
    if choice is None or not choice.is_foreign:
        is_needed = choice is not None and _is_written(dataset, table, choice)
        if choice is not None and is_needed:
            with tempfile.TemporaryDirectory() as folder:
                temporary_path = Path(folder, "table.parquet")
                _write(dataset, CurrentRows(dataset, choice.run), temporary_path)
                dataset.store.write(paths.CURRENT_COPY, temporary_path)
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
    for table in read_index_keys(dataset.store, dataset.part_files()):
        indexed = zip(table["k1"].to_pylist(), table["k2"].to_pylist(), strict=True)
        if any(key != next(keys, None) for key in indexed):
            return False
    return next(keys, None) is None


def _write(dataset: Dataset, current: CurrentRows, path: Path) -> None:
    byte_count = 0
    for batch in current.batches(["audio_bytes"]):
        byte_count += pc.sum(batch.column(0)).as_py() or 0
    if byte_count <= huggingface_table.SMALL_BYTES:
        write_embedded(dataset, current.batches(), path)
        return
    schema = choose_metadata_types(dataset) if dataset.info.layout == "files" else dataset.schema()
    columns = [name for name in dataset.schema().names if not _holds_audio(dataset, name)]
    schema = pa.schema([schema.field(dataset.schema().names.index(name)) for name in columns])
    with open_parquet_writer(path, mark(schema)) as writer:
        for batch in _without_metadata(current.batches(columns)):
            writer.write_table(pa.Table.from_batches([batch]).rename_columns(schema.names).cast(schema))


def _holds_audio(dataset: Dataset, column: str) -> bool:
    return column == "audio" and dataset.info.layout == "parquet"


def _without_metadata(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch.replace_schema_metadata(None) for batch in batches)
