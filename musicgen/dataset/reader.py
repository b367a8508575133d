"""Reading a dataset: `musicgen.dataset.open_dataset(uri)`.

Nothing here is needed to read one: the index is plain Parquet, and its `audio` column says where the sound is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from musicgen.storage import Store, open_store
from musicgen.storage.parquet_reader import ParquetReader

if TYPE_CHECKING:
    import datasets

_THREADS = 16
_PLACE = ["key", "audio", "audio_offset", "audio_bytes"]


@dataclass(frozen=True)
class Dataset:
    """A dataset, or the part of it that one run made. Reads what is committed at the time of each call."""

    store: Store
    info: DatasetInfo
    only: str | None = None

    def __len__(self) -> int:
        return sum(footer.made for _, footer in self.footers())

    @property
    def uri(self) -> str:
        """Where it is."""
        return self.store.uri

    def runs(self) -> list[str]:
        """The names of the runs, in order: those planned and those that committed anything."""
        planned = {run for info in self.store.list(paths.RUNS) if (run := paths.parse_plan(info.path))}
        committed = {run for run, _, _ in self._shards()}
        return sorted({run for run in planned | committed if self.only is None or run == self.only})

    def run(self, run: str) -> "Dataset":
        """The rows that one run made. Raises `KeyError` for a run that the dataset does not have."""
        if run not in self.runs():
            raise KeyError(f"{self.uri} has no run {run!r}; it has {', '.join(self.runs()) or 'none'}")
        return Dataset(self.store, self.info, run)

    def parts(self) -> Iterator[str]:
        """The paths of the index parts, in order."""
        return (path for _, _, path in self._shards())

    def footers(self) -> Iterator[tuple[str, Footer]]:
        """The index parts with their footers, in order; reads no rows.

        Raises `ValueError` for a part that is not ours.
        """
        yield from _in_parallel(lambda path: (path, read_footer(self.store, path)), self.parts())

    def schema(self) -> pa.Schema:
        """The index's columns and types."""
        for path in self.parts():
            with self.store.open(path) as file:
                return pq.read_schema(file).remove_metadata()
        carried = pa.schema(
            [(name, pa.type_for_alias(kind)) for name, kind in self.info.carried.items() if _is_simple(kind)]
        )
        return index_schema(self.info.layout, carried, self.info.codes)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The index in record batches, part by part: for datasets that do not fit in memory."""
        for path in self.parts():
            with self.store.open(path) as file:
                yield from ParquetReader(file).iter_batches(columns=None if columns is None else list(columns))

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The index as one table, in the order of runs and shards; with `columns`, these only."""

        def read(path: str) -> pa.Table:
            with self.store.open(path) as file:
                return (
                    ParquetReader(file).read(None if columns is None else list(columns)).replace_schema_metadata(None)
                )

        tables = list(_in_parallel(read, self.parts()))
        if tables:
            return pa.concat_tables(tables)
        empty = self.schema().empty_table()
        return empty if columns is None else empty.select(list(columns))

    def audio(self, clip: str | Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
        """A clip's sound, float32 [channels, samples], and its sample rate in Hz. Raises `KeyError`.

        `clip` is a key, which has to be looked for in the index, or a row of it, which has not.
        """
        return decode_audio(self.audio_bytes(clip))

    def audio_bytes(self, clip: str | Mapping[str, Any]) -> bytes:
        """A clip's audio file, by its key or its row. Raises `KeyError` for a key that the index does not have."""
        if not isinstance(clip, str):
            return read_audio(self.store, clip)
        for path in self.parts():
            with self.store.open(path) as file:
                part = ParquetReader(file)
                for group in range(part.num_row_groups):
                    found = pc.index(part.read_row_group(group, columns=["key"]).column("key"), clip).as_py()
                    if found >= 0:
                        return read_audio(
                            self.store, part.read_row_group(group, columns=_PLACE).slice(found, 1).to_pylist()[0]
                        )
        raise KeyError(f"{self.uri} has no clip {clip}")

    def failures(self) -> pa.Table:
        """The rows that could not be made, as the index parts name them, and those refused while planning.

        A row that failed in one run and was made in a later one is still listed with the run where it failed.
        """

        def read(path: str) -> pa.Table:
            with self.store.open(path) as file:
                return ParquetReader(file).read().select(FAILURES.names).cast(FAILURES)

        return pa.concat_tables([FAILURES.empty_table(), *_in_parallel(read, self._failure_files())])

    def first_failures(self, count: int) -> list[dict[str, Any]]:
        """The first rows of `failures`, without reading more files than that takes."""
        rows: list[dict[str, Any]] = []
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
        """The index as a `datasets.Dataset` whose column `audio` is an `Audio` feature.

        Needs neither torchcodec nor FFmpeg until a clip is decoded; `cast_column("audio", Audio(decode=False))` gives
        each clip as {bytes, path}. Clips of a local dataset in `layout: files` stay on disk; others are read into
        memory.
        """
        import datasets

        table = self.to_arrow()
        if self.info.layout != "parquet":
            stay = self.info.layout == "files" and self.store.location.scheme == "file"
            table = table.set_column(table.column_names.index("audio"), "audio", self.cells(table, stay))
        return datasets.Dataset(table).cast_column("audio", datasets.Audio())

    def cells(self, rows: pa.Table, stay: bool = False) -> pa.Array:
        """The clips of these rows of the index as Hugging Face's {bytes, path}; with `stay`, as local paths only."""
        places = rows.select([*_PLACE, "audio_format"]).to_pylist()
        if stay:
            return pa.array(
                [{"bytes": None, "path": self.store.join(place["audio"])} for place in places], AUDIO_STRUCT
            )
        data = _in_parallel(lambda place: read_audio(self.store, place), places)
        names = (f"{place['key']}.{place['audio_format']}" for place in places)
        return pa.array([{"bytes": d, "path": name} for d, name in zip(data, names, strict=True)], AUDIO_STRUCT)

    def _shards(self) -> Iterator[tuple[str, int, str]]:
        folder = paths.INDEX if self.only is None else paths.index_folder(self.only)
        for info in self.store.list(folder):
            parsed = paths.parse_index_part(info.path)
            if parsed is not None:
                yield (*parsed, info.path)


def open_dataset(uri: str) -> Dataset:
    """Open the dataset at a folder or `s3://` URI. Raises `StoreError` if there is none."""
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


def read_audio(store: Store, row: Mapping[str, Any]) -> bytes:
    """The audio file of an index row with `audio`, `audio_offset` and `audio_bytes`, in any layout."""
    audio = row["audio"]
    if isinstance(audio, dict):
        return audio["bytes"]
    if row["audio_offset"] is not None:
        return store.read(audio, row["audio_offset"], row["audio_bytes"])
    return store.read(audio)


def _in_parallel(function: Any, items: Iterable[Any]) -> Iterator[Any]:
    """Map over threads, in order, with a bounded number of items in hand."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: list[Any] = []
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 4 * _THREADS:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _is_simple(kind: str) -> bool:
    try:
        pa.type_for_alias(kind)
    except ValueError:
        return False
    return True
