"""Reads a dataset: `musicgen.dataset.open_dataset(uri)`.

A dataset can also be read without this package: the index is plain Parquet, and its `audio` column locates the audio.
"""

import hashlib
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
from musicgen.dataset.clip_audio import PLACE_COLUMNS, decode_clip, find_audio, read_audio_bytes, read_cells
from musicgen.dataset.current_rows import CurrentRows
from musicgen.dataset.index_columns import fill_columns, index_schema_of, select_columns
from musicgen.dataset.index_part import Footer, read_footer
from musicgen.dataset.info import DatasetInfo, require_dataset_info
from musicgen.dataset.manifest_rows import find_current_run
from musicgen.dataset.open_failures import find_last_runs, read_failures, read_first_failures, select_open_failures
from musicgen.dataset.schema import AUDIO_STRUCT
from musicgen.dataset.tombstones import Tombstones, read_tombstones
from musicgen.dataset.visible_rows import HiddenRows, iterate_visible, measure_hidden, read_visible
from musicgen.errors import StoreError
from musicgen.parallel import map_ordered
from musicgen.run_plan import Plan
from musicgen.storage import FileInfo, Store, open_store
from musicgen.value_types import TableRow

if TYPE_CHECKING:
    import datasets

_THREADS = 16


@dataclass(frozen=True)
class Dataset:
    """A dataset, or with `only_run` the rows of one run. Each method reads what is committed when it is called."""

    store: Store
    info: DatasetInfo
    only_run: str | None = None

    def __len__(self) -> int:
        return sum(footer.made for _, footer in self.footers()) - sum(
            hidden.rows for hidden in self.measure_hidden().values()
        )

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

    def current(self) -> CurrentRows:
        """Return the rows that the latest manifest asks for, in its order, made by whichever run.

        The latest manifest is that of the last run that was planned and is finished. Raises `StoreError` if no run has
        kept the keys of its manifest, as in a dataset that only releases before 0.2 have written.
        """
        run = find_current_run(self.store)
        if run is None:
            raise StoreError(f"{self.uri} does not say what its latest manifest is; run the job once to its end")
        return CurrentRows(Dataset(self.store, self.info), run)

    def parts(self) -> Iterator[str]:
        """Yield the paths of the index parts, in order."""
        return (path for _, _, path in self._list_parts())

    def fingerprint(self) -> str:
        """Return 16 hex digits that name the state of the index: equal if the same parts of the same sizes are there.

        A run's name is a hash of what it makes, so parts of equal names and sizes have equal rows, of which the same
        clips may be removed. Takes two listings.
        """
        digest = hashlib.sha256()
        for file_info in self.part_files():
            digest.update(f"{file_info.path} {file_info.size}\n".encode())
        for name in self.tombstones().names():
            digest.update(f"{name}\n".encode())
        return digest.hexdigest()[:16]

    def footers(self) -> Iterator[tuple[str, Footer]]:
        """Yield the index parts with their footers, in order, without reading rows.

        Raises `ValueError` for a file that is not an index part.
        """
        yield from map_ordered(lambda path: (path, read_footer(self.store, path)), self.parts(), threads=_THREADS)

    def tombstones(self) -> Tombstones:
        """Return which clips are removed. Their rows are in no result of this class, but in `parts` until `gc`."""
        return read_tombstones(self.store)

    def measure_hidden(self) -> dict[str, HiddenRows]:
        """Count the rows that are in the index and left out, because their clips are removed, by run."""
        sums: dict[str, HiddenRows] = {}
        tombstones = self.tombstones()
        if tombstones.of_parts:
            for run, _, path in self._list_parts():
                rows, audio_s = measure_hidden(self.store, path, tombstones.hidden_in(path))
                before = sums.get(run, HiddenRows())
                sums[run] = HiddenRows(before.rows + rows, before.audio_s + audio_s)
        return sums

    def schema(self) -> pa.Schema:
        """Return the index's columns and types: those of a part, and the carried columns that later runs have added."""
        schema: pa.Schema | None = None
        looked_at: set[str] = set()
        for run, _, part_path in self._list_parts():
            if schema is not None and (run in looked_at or set(self.info.carried) <= set(schema.names)):
                continue  # all parts of a run have the same columns
            looked_at.add(run)
            with self.store.open(part_path) as file:
                own = pq.read_schema(file).remove_metadata()
            schema = own if schema is None else pa.unify_schemas([schema, own])
        return index_schema_of(self.info) if schema is None else schema

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the index in record batches, part by part, for datasets that do not fit in memory.

        A column that a part lacks, because a later run has added it, is null.
        """
        schema, tombstones = select_columns(self.schema(), columns), self.tombstones()
        for part_path in self.parts():
            hidden = tombstones.hidden_in(part_path)
            for batch in iterate_visible(self.store, part_path, hidden, schema.names):
                yield from fill_columns(pa.Table.from_batches([batch]), schema).to_batches()

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the index as one table, in the order of runs and shards; with `columns`, only these."""

        tombstones = self.tombstones()

        def read(path: str) -> pa.Table:
            return read_visible(self.store, path, tombstones.hidden_in(path), columns)

        tables = list(map_ordered(read, self.parts(), threads=_THREADS))
        if not tables:
            return select_columns(self.schema(), columns).empty_table()
        table = pa.concat_tables(tables, promote_options="default")  # a part may have columns that others lack
        is_asked = columns is None or table.column_names == list(columns)
        return table if is_asked else fill_columns(table, select_columns(self.schema(), columns))

    def audio(self, clip: str | TableRow) -> tuple[NDArray[np.float32], int]:
        """Decode a clip: float32 [channels, samples], and its sample rate in Hz.

        `clip` is a key, which is searched in the index, or a row of the index, which needs no search. Raises `KeyError`
        for a key that the index does not have.
        """
        content = self.audio_bytes(clip)
        if not isinstance(clip, str) and clip.get("duration_s") is not None:
            return decode_clip(clip, content)
        return decode_audio(content)

    def audio_bytes(self, clip: str | TableRow) -> bytes:
        """Read a clip's audio file, by its key or its row. Raises `KeyError` for a key that the index does not have."""
        if not isinstance(clip, str):
            return read_audio_bytes(self.store, clip)
        place = find_audio(self.store, self.parts(), clip)
        if place is not None:
            return read_audio_bytes(self.store, place)
        raise KeyError(f"{self.uri} has no clip with the key {clip}; your own ids are in the index column `id`")

    def failures(self, all: bool = False) -> pa.Table:
        """Read the rows that could not be made, and those refused while planning, as far as they are still open.

        With `all` the table is the history: a row that failed in one run and was made in a later one, or failed again,
        is listed with every run in which it failed. The failures of one run (`run`) are always all.
        """
        history = read_failures(self.store, self._failure_files())
        removed = pa.array(self.tombstones().hidden_keys(), pa.string())
        history = history.filter(pc.invert(pc.is_in(history["key"], value_set=removed)))
        if all or self.only_run is not None or not history.num_rows:
            return history
        last_runs = find_last_runs({run: self._read_plan(run) for run in self.runs()})
        return select_open_failures(history, self.to_arrow(["key"])["key"], last_runs)

    def _read_plan(self, run: str) -> Plan | None:
        """Read a run's plan; None if it is missing or of another release."""
        try:
            return Plan.from_json(self.store.read(paths.plan_file(run)))
        except (FileNotFoundError, StoreError):
            return None

    def first_failures(self, count: int) -> list[TableRow]:
        """Read the first rows of `failures(all=True)`, and no more files than needed."""
        return read_first_failures(self.store, self._failure_files(), count)

    def _failure_files(self) -> Iterator[str]:
        yield from (footer.failures for _, footer in self.footers() if footer.failures is not None)
        yield from (path for run in self.runs() if self.store.exists(path := paths.plan_failures(run)))

    def to_huggingface(self) -> "datasets.Dataset":
        """Return the index as a `datasets.Dataset` whose column `audio` is an `Audio` feature.

        Needs torchcodec and FFmpeg only when a clip is decoded; `cast_column("audio", Audio(decode=False))` gives each
        clip as {bytes, path}. Clips of a local dataset in `layout: files` stay on disk; others are read into memory.
        """
        return self.to_features(self.to_arrow())

    def to_features(self, table: pa.Table) -> "datasets.Dataset":
        """Return rows of the index as a `datasets.Dataset` (see `to_huggingface`)."""
        import datasets

        if self.info.layout != "parquet":
            keep_local = self.info.layout == "files" and self.store.location.scheme == "file"
            table = table.set_column(table.column_names.index("audio"), "audio", self.cells(table, keep_local))
        return datasets.Dataset(table).cast_column("audio", datasets.Audio())

    def cells(self, rows: pa.Table, as_local_paths: bool = False, missing: list[str] | None = None) -> pa.Array:
        """Return the clips of index rows as Hugging Face's {bytes, path}; with `as_local_paths` without bytes.

        A clip whose audio file is missing raises `FileNotFoundError`, unless `missing` is given: then it is null, and
        its file is added to the list.
        """
        places = rows.select([*PLACE_COLUMNS, "audio_format"]).to_pylist()
        if as_local_paths:
            return pa.array(
                [{"bytes": None, "path": self.store.join(place["audio"])} for place in places], AUDIO_STRUCT
            )

        return read_cells(self.store, places, missing)

    def _list_parts(self) -> Iterator[tuple[str, int, str]]:
        for file_info in self.part_files():
            run_and_shard = paths.parse_index_part(file_info.path)
            if run_and_shard is not None:
                yield (*run_and_shard, file_info.path)

    def part_files(self) -> Iterator[FileInfo]:
        """Yield the index parts as the store lists them."""
        folder = paths.INDEX if self.only_run is None else paths.index_folder(self.only_run)
        return (info for info in self.store.list(folder) if paths.parse_index_part(info.path) is not None)


def open_dataset(uri: str) -> Dataset:
    """Open the dataset in a folder or at an `s3://` URI. Raises `StoreError` if there is none."""
    store = open_store(uri)
    store.check()
    return read_dataset(store)


def read_dataset(store: Store) -> Dataset:
    """Return the dataset in a store that has been checked. Raises `StoreError` if there is none."""
    return Dataset(store, require_dataset_info(store))


open = open_dataset  # the name before 0.2, which scripts use
