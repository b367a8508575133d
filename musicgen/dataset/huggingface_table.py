"""Writes the table that Hugging Face's `load_dataset` needs for some layouts (musicgen/dataset/huggingface.py).

The table bears a mark. A file of its name without the mark is neither written over nor deleted.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.earlier_release import is_earlier_table
from musicgen.dataset.earlier_table import EarlierTable, IndexedRun
from musicgen.dataset.huggingface import COLUMNS_NOT_IN_TARS
from musicgen.dataset.index_part import with_audio
from musicgen.dataset.metadata_columns import choose_metadata_types, metadata_schema
from musicgen.dataset.metadata_table import read_run_rows, write_metadata
from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import AUDIO_STRUCT
from musicgen.dataset.status import RunStatus, run_statuses, sum_audio_bytes
from musicgen.dataset.table_by_run import GROUP_BYTES, write_by_run
from musicgen.dataset.tombstones import Tombstones
from musicgen.manifest.json_columns import member_type, to_json_table
from musicgen.own_checksum import PARQUET_KEY
from musicgen.storage import Store
from musicgen.version import package_version

SMALL_BYTES = 256 << 20
"""Datasets with up to this much audio are copied into one Parquet file for `load_dataset`."""

MAX_TABLE_ROWS = 1_000_000
"""A dataset or manifest of more rows gets no table, which would be written anew after every run."""

TABLES = (paths.HUGGINGFACE_COPY, paths.METADATA)
_MARK = b"musicgen"  # in the Parquet metadata of the tables that we wrote
_WRITTEN_BY = "musicgen-batch "
_FOOTER_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class TableChoice:
    """Which table `load_dataset` is to read, None if it reads the dataset itself; and tables that are not ours."""

    path: str | None
    foreign: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()  # audio files that cannot be read, whose rows the table was written without
    rows: int = 0  # of the dataset
    reads_index: bool = False  # layout files, and too many rows for a table: the index itself is read
    file: Path | None = None  # the table on the local disk, once it has been written


def choose_table(dataset: Dataset, runs: Sequence[RunStatus] | None = None) -> TableChoice:
    """Choose the table that `load_dataset` needs; a name that somebody else's file has is not chosen.

    `runs` are the dataset's, if they are known already.
    """
    runs = run_statuses(dataset) if runs is None else runs
    rows = sum(run.made for run in runs)
    foreign = tuple(path for path in TABLES if _is_foreign(dataset, path))
    reads_index = dataset.info.layout == "files" and rows > MAX_TABLE_ROWS
    wanted = [paths.METADATA] if dataset.info.layout == "files" and not reads_index else []
    if rows <= MAX_TABLE_ROWS and _is_small(dataset, sum_audio_bytes(runs)):
        wanted.insert(0, paths.HUGGINGFACE_COPY)
    path = next((path for path in wanted if path not in foreign), None)
    return TableChoice(path, foreign, rows=rows, reads_index=reads_index)


def write_table(dataset: Dataset, folder: Path, runs: Sequence[RunStatus] | None = None) -> TableChoice:
    """Write the table that `load_dataset` needs, if any, and delete an obsolete one. Returns the choice.

    A file without our mark is neither written over nor deleted. What was published before is not read again
    (`write_by_run`). The choice's `file` lies in `folder`, which is for temporary files.
    """
    choice = choose_table(dataset, runs)
    if (path := choice.path) is not None:
        file = folder / "table.parquet"
        choice = replace(choice, file=file)
        if path == paths.HUGGINGFACE_COPY:
            choice = replace(choice, unreadable=tuple(_write_embedded(dataset, file)))
        else:
            write_metadata(dataset, mark(choose_metadata_types(dataset, runs)), file)
        dataset.store.write(path, file)
    for obsolete_path in {*TABLES} - {choice.path, *choice.foreign}:
        dataset.store.delete(obsolete_path)
    return choice


def _is_small(dataset: Dataset, audio_bytes: int | None) -> bool:
    """Return whether a dataset has its audio outside the index, and at most `SMALL_BYTES` of it."""
    if dataset.info.layout == "parquet":
        return False
    return (_count_audio_bytes(dataset) if audio_bytes is None else audio_bytes) <= SMALL_BYTES


def is_marked(store: Store, path: str) -> bool | None:
    """Return whether a table bears our mark, also if it was damaged since; None if there is no such file."""
    try:
        with store.open(path) as file:
            try:
                return _MARK in (pq.read_schema(file).metadata or {}) or _bears_mark(file)
            except (pa.ArrowException, ValueError, OSError):
                return _bears_mark(file)
    except FileNotFoundError:
        return None


def is_parquet(store: Store, path: str) -> bool:
    """Return whether a file can be read as Parquet, as far as its footer tells."""
    try:
        with store.open(path) as file:
            pq.read_schema(file)
    except (pa.ArrowException, ValueError, OSError):
        return False
    return True


def _is_foreign(dataset: Dataset, path: str) -> bool:
    """Return whether there is a file of this name that no release of ours has written."""
    try:
        with dataset.store.open(path) as file:
            return not is_own_table(dataset, path, file)
    except FileNotFoundError:
        return False


def is_own_table(dataset: Dataset, path: str, file: BinaryIO) -> bool:
    """Return whether a release of ours has written the file at `path`, also if it was damaged since."""
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, ValueError, OSError):
        return _bears_mark(file)
    if _MARK in (schema.metadata or {}) or _bears_mark(file):
        return True
    if path == paths.METADATA:
        expected, key_column = metadata_schema(dataset), "key"
    else:
        expected, key_column = embedded_schema(dataset), "key" if dataset.info.layout == "files" else "__key__"
    return is_earlier_table(dataset, path, schema, expected, key_column)


def _bears_mark(file: BinaryIO) -> bool:
    """Return whether the end of a file has a mark of ours that no other program writes."""
    file.seek(max(0, file.seek(0, 2) - _FOOTER_BYTES))
    end = file.read()
    return PARQUET_KEY.encode() in end or _WRITTEN_BY.encode() in end


def _count_audio_bytes(dataset: Dataset) -> int:
    byte_count = 0
    for batch in dataset.batches(["audio_bytes"]):
        byte_count += pc.sum(batch.column("audio_bytes")).as_py() or 0
        if byte_count > SMALL_BYTES:
            break
    return byte_count


def _write_embedded(dataset: Dataset, path: Path) -> list[str]:
    """Write those of the index's rows whose audio can be read, with it; returns the audio files that cannot."""
    unreadable: list[str] = []
    incomplete: set[str] = set()
    index_columns = dataset.schema()

    def read_run(run: IndexedRun, tombstones: Tombstones) -> Iterator[pa.Table]:
        for part in read_run_rows(dataset.store, run, tombstones, index_columns):
            rows_per_piece = max(1, int(GROUP_BYTES / max(1.0, pc.mean(part["audio_bytes"]).as_py() or 1.0)))
            for start in range(0, part.num_rows, rows_per_piece):
                rows = part.slice(start, rows_per_piece)
                cells = dataset.cells(rows, missing=unreadable)
                if cells.null_count:
                    rows, cells = rows.filter(cells.is_valid()), cells.drop_null()
                    incomplete.add(run.run)
                yield _embed(dataset, rows, cells)

    stored = {paths.parse_audio_file(info.path) or info.path for info in dataset.store.list(paths.AUDIO)}
    place_column = "key" if dataset.info.layout == "files" else "__url__"

    def has_audio(earlier: EarlierTable, run: str) -> bool:
        places = earlier.read_column(run, place_column)
        return all(place in stored for piece in places for place in piece.to_pylist())

    schema = mark(embedded_schema(dataset))
    write_by_run(dataset, paths.HUGGINGFACE_COPY, schema, path, read_run, incomplete, has_audio)
    return unreadable


def embedded_schema(dataset: Dataset) -> pa.Schema:
    """Return the columns that the layout's own loader gives, with each clip as Hugging Face's {bytes, path}."""
    empty_table = _embed(dataset, dataset.schema().empty_table(), pa.array([], AUDIO_STRUCT))
    return with_audio(empty_table.schema, _audio_column(dataset))


def _embed(dataset: Dataset, rows: pa.Table, cells: pa.Array) -> pa.Table:
    if dataset.info.layout == "parquet":
        return rows
    if dataset.info.layout == "files":
        return rows.set_column(rows.schema.get_field_index("audio"), "audio", cells)
    return _arrange_as_webdataset(rows, cells, dataset.info.format, dataset.info.schema_version)


def _audio_column(dataset: Dataset) -> str:
    return dataset.info.format if dataset.info.layout == "webdataset" else "audio"


def mark(schema: pa.Schema) -> pa.Schema:
    """Add to the schema's metadata that we wrote the file, so that a later run may write over it."""
    note = json.dumps({"written_by": f"{_WRITTEN_BY}{package_version()}"}).encode()
    return schema.with_metadata({**(schema.metadata or {}), _MARK: note})


def _arrange_as_webdataset(rows: pa.Table, cells: pa.Array, column: str, version: int) -> pa.Table:
    names = [name for name in rows.column_names if name not in COLUMNS_NOT_IN_TARS]
    values = _as_version_1(rows.select(names)) if version == 1 else to_json_table(rows.select(names))
    members = values.combine_chunks().to_struct_array().combine_chunks()
    return pa.table({column: cells, "json": members, "__key__": rows.column("key"), "__url__": rows.column("audio")})


def _as_version_1(rows: pa.Table) -> pa.Table:
    """Return the columns with the texts that datasets of version 1 have had: Arrow's, where it has any."""

    def convert(name: str) -> pa.ChunkedArray:
        try:
            return rows.column(name).cast(member_type(rows.column(name).type, version=1))
        except pa.ArrowException:
            return to_json_table(rows.select([name])).column(0)

    return pa.table({name: convert(name) for name in rows.column_names})
