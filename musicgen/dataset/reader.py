"""Reads a dataset: `musicgen.dataset.open_dataset(uri)`.

A dataset can also be read without this package: the index is plain Parquet, and its `audio` column locates the audio.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from musicgen.audio import decode_audio
from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer, read_footer
from musicgen.dataset.info import DatasetInfo, read_dataset_info
from musicgen.dataset.schema import AUDIO_STRUCT, FAILURES, index_schema
from musicgen.errors import StoreError
from musicgen.parallel import map_ordered
from musicgen.storage import Store, open_store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

if TYPE_CHECKING:
    import datasets

_THREADS = 16
_PLACE_COLUMNS = ["key", "audio", "audio_offset", "audio_bytes"]


@dataclass(frozen=True)
class Dataset:
    """A dataset, or with `only_run` the rows of one run. Each method reads what is committed when it is called."""

    store: Store
    info: DatasetInfo
    only_run: str | None = None

    def __len__(self) -> int:
        return sum(footer.made for _, footer in self.footers())

    @property
    def uri(self) -> str:
        """Return the URI of the dataset."""
        return self.store.uri

    def runs(self) -> list[str]:
        """Return the sorted names of the runs that were planned or have committed a shard."""
        planned = {run for file_info in self.store.list(paths.RUNS) if (run := paths.parse_plan(file_info.path))}
        committed = {run for run, _, _ in self._list_parts()}
        return sorted({run for run in planned | committed if self.only_run is None or run == self.only_run})

    def run(self, run: str) -> "Dataset":
        """Return the rows that one run made, as a dataset. Raises `KeyError` for an unknown run."""
        if run not in self.runs():
            raise KeyError(f"{self.uri} has no run {run!r}; it has {', '.join(self.runs()) or 'none'}")
        return Dataset(self.store, self.info, run)

    def parts(self) -> Iterator[str]:
        """Yield the paths of the index parts, in order."""
        return (path for _, _, path in self._list_parts())

    def footers(self) -> Iterator[tuple[str, Footer]]:
        """Yield the index parts with their footers, in order, without reading rows.

        Raises `ValueError` for a file that is not an index part.
        """
        yield from map_ordered(lambda path: (path, read_footer(self.store, path)), self.parts(), threads=_THREADS)

    def schema(self) -> pa.Schema:
        """Return the index's columns and types."""
        for part_path in self.parts():
            with self.store.open(part_path) as file:
                return pq.read_schema(file).remove_metadata()
        carried = pa.schema(
            [
                (name, pa.type_for_alias(type_name))
                for name, type_name in self.info.carried.items()
                if _is_type_alias(type_name)
            ]
        )
        return index_schema(self.info.layout, carried, self.info.codes)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the index in record batches, part by part, for datasets that do not fit in memory."""
        for part_path in self.parts():
            with self.store.open(part_path) as file:
                yield from ParquetReader(file).iter_batches(columns=None if columns is None else list(columns))

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the index as one table, in the order of runs and shards; with `columns`, only these."""

        def read(path: str) -> pa.Table:
            with self.store.open(path) as file:
                return (
                    ParquetReader(file).read(None if columns is None else list(columns)).replace_schema_metadata(None)
                )

        tables = list(map_ordered(read, self.parts(), threads=_THREADS))
        if tables:
            return pa.concat_tables(tables)
        empty = self.schema().empty_table()
        return empty if columns is None else empty.select(list(columns))

    def audio(self, clip: str | TableRow) -> tuple[NDArray[np.float32], int]:
        """Decode a clip: float32 [channels, samples], and its sample rate in Hz.

        `clip` is a key, which is searched in the index, or a row of the index, which needs no search. Raises `KeyError`
        for a key that the index does not have.
        """
        return decode_audio(self.audio_bytes(clip))

    def audio_bytes(self, clip: str | TableRow) -> bytes:
        """Read a clip's audio file, by its key or its row. Raises `KeyError` for a key that the index does not have."""
        if not isinstance(clip, str):
            return read_audio_bytes(self.store, clip)
        for part_path in self.parts():
            with self.store.open(part_path) as file:
                index_part = ParquetReader(file)
                for row_group in range(index_part.num_row_groups):
                    row_index = pc.index(
                        index_part.read_row_group(row_group, columns=["key"]).column("key"), clip
                    ).as_py()
                    if row_index >= 0:
                        return read_audio_bytes(
                            self.store,
                            index_part.read_row_group(row_group, columns=_PLACE_COLUMNS)
                            .slice(row_index, 1)
                            .to_pylist()[0],
                        )
        raise KeyError(f"{self.uri} has no clip {clip}")

    def failures(self) -> pa.Table:
        """Read the rows that failed, from the files that the index parts name, and those refused while planning.

        A row that failed in one run and was made in a later one is still listed with the run in which it failed.
        """

        def read(path: str) -> pa.Table:
            with self.store.open(path) as file:
                return ParquetReader(file).read().select(FAILURES.names).cast(FAILURES)

        return pa.concat_tables([FAILURES.empty_table(), *map_ordered(read, self._failure_files(), threads=_THREADS)])

    def first_failures(self, count: int) -> list[TableRow]:
        """Read the first rows of `failures`, and no more files than needed."""
        rows: list[TableRow] = []
        for path in self._failure_files():
            with self.store.open(path) as file:
                for batch in ParquetReader(file).iter_batches(count, columns=FAILURES.names):
                    rows += batch.to_pylist()
                    if len(rows) >= count:
                        return rows[:count]
        return rows

    def _failure_files(self) -> Iterator[str]:
        yield from (footer.failures for _, footer in self.footers() if footer.failures is not None)
        yield from (path for run in self.runs() if self.store.exists(path := paths.plan_failures(run)))

    def to_huggingface(self) -> "datasets.Dataset":
        """Return the index as a `datasets.Dataset` whose column `audio` is an `Audio` feature.

        Needs torchcodec and FFmpeg only when a clip is decoded; `cast_column("audio", Audio(decode=False))` gives each
        clip as {bytes, path}. Clips of a local dataset in `layout: files` stay on disk; others are read into memory.
        """
        import datasets

        table = self.to_arrow()
        if self.info.layout != "parquet":
            keep_local = self.info.layout == "files" and self.store.location.scheme == "file"
            table = table.set_column(table.column_names.index("audio"), "audio", self.cells(table, keep_local))
        return datasets.Dataset(table).cast_column("audio", datasets.Audio())

    def cells(self, rows: pa.Table, as_local_paths: bool = False) -> pa.Array:
        """Return the clips of index rows as Hugging Face's {bytes, path}; with `as_local_paths` without bytes."""
        places = rows.select([*_PLACE_COLUMNS, "audio_format"]).to_pylist()
        if as_local_paths:
            return pa.array(
                [{"bytes": None, "path": self.store.join(place["audio"])} for place in places], AUDIO_STRUCT
            )
        contents = map_ordered(lambda place: read_audio_bytes(self.store, place), places, threads=_THREADS)
        file_names = (f"{place['key']}.{place['audio_format']}" for place in places)
        return pa.array(
            [{"bytes": content, "path": name} for content, name in zip(contents, file_names, strict=True)], AUDIO_STRUCT
        )

    def _list_parts(self) -> Iterator[tuple[str, int, str]]:
        folder = paths.INDEX if self.only_run is None else paths.index_folder(self.only_run)
        for file_info in self.store.list(folder):
            run_and_shard = paths.parse_index_part(file_info.path)
            if run_and_shard is not None:
                yield (*run_and_shard, file_info.path)


def open_dataset(uri: str) -> Dataset:
    """Open the dataset in a folder or at an `s3://` URI. Raises `StoreError` if there is none."""
    store = open_store(uri)
    store.check()
    return read_dataset(store)


def read_dataset(store: Store) -> Dataset:
    """Return the dataset in a store that has been checked. Raises `StoreError` if there is none."""
    info = read_dataset_info(store)
    if info is None:
        raise StoreError(f"{store.uri} is not a dataset (it has no {paths.INFO}); check the path")
    return Dataset(store, info)


open = open_dataset  # the name before 0.2, which scripts use


def read_audio_bytes(store: Store, row: TableRow) -> bytes:
    """Read the audio file of an index row with `audio`, `audio_offset` and `audio_bytes`, in any layout."""
    cell = row["audio"]
    if isinstance(cell, dict):
        return cell["bytes"]
    if row["audio_offset"] is not None:
        return store.read(cell, row["audio_offset"], row["audio_bytes"])
    return store.read(cell)


def _is_type_alias(type_name: str) -> bool:
    try:
        pa.type_for_alias(type_name)
    except ValueError:
        return False
    return True
