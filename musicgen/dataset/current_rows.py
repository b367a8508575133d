"""The dataset's rows of today: those that the latest manifest asks for, in its order (`Dataset.current`)."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from musicgen.dataset.index_columns import select_columns
from musicgen.dataset.index_keys import read_index_keys
from musicgen.dataset.info import DatasetInfo
from musicgen.dataset.key_places import ROWS_AT_ONCE, KeyPlaces
from musicgen.dataset.local_rows import LocalRows
from musicgen.dataset.manifest_rows import read_manifest_keys, read_rows_footer
from musicgen.dataset.picked_rows import gather_rows, pick_rows
from musicgen.dataset.tombstones import Tombstones
from musicgen.dataset.visible_rows import select_visible
from musicgen.storage import FileInfo, Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

if TYPE_CHECKING:
    import datasets

_LARGE_ROWS_AT_ONCE = 64  # where a row holds its audio or codes


class Index(Protocol):
    """What is read of a dataset (`musicgen.dataset.reader.Dataset`)."""

    @property
    def store(self) -> Store:
        """The folder or bucket."""

    @property
    def info(self) -> DatasetInfo:
        """What is pinned."""

    def part_files(self) -> Iterator[FileInfo]:
        """The index parts, as the store lists them."""

    def schema(self) -> pa.Schema:
        """The columns of the index."""

    def tombstones(self) -> Tombstones:
        """The clips that were removed."""

    def audio(self, clip: str | TableRow) -> tuple[NDArray[np.float32], int]:
        """A clip's samples, and its sample rate."""

    def to_features(self, table: pa.Table) -> "datasets.Dataset":
        """The rows for Hugging Face."""


@dataclass(frozen=True)
class CurrentRows:
    """The rows of the index that a run's manifest asks for, in its order.

    Rows that could not be made, and removed clips, are left out. Those that `copies` has are not read from the index;
    its keys are among the index's.
    """

    index: Index
    run: str  # whose manifest it is
    copies: LocalRows | None = None

    def __len__(self) -> int:
        return sum(places.num_rows for places in self._read_places(ROWS_AT_ONCE))

    def count_asked(self) -> int:
        """Return the number of the manifest's distinct rows, made or not."""
        return read_rows_footer(self.index.store, self.run).rows

    def keys(self) -> Iterator[str]:
        """Yield the keys of the rows."""
        for places in self._read_places(ROWS_AT_ONCE):
            yield from places["key"].to_pylist()

    def schema(self) -> pa.Schema:
        """Return the columns and types: those of the whole index."""
        return self.index.schema()

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the rows in record batches. Memory is bounded, whatever the size of the manifest and the dataset.

        Where the manifest's order is that of the index, each part is read once, or a few times.
        """
        schema = select_columns(self.schema(), columns)
        is_large = any(pa.types.is_nested(field.type) and field.name in ("audio", "codes") for field in schema)
        parts = list(self.index.part_files())
        copies = self.copies if self.copies is not None and self.copies.has_columns(schema) else None

        def read(number: int, keys: pa.Array) -> pa.Table:
            if number < 0 and copies is not None:
                return copies.read_part(number, keys, schema)
            return _read_part_rows(self.index.store, parts[number].path, keys, schema)

        for places in self._read_places(_LARGE_ROWS_AT_ONCE if is_large else ROWS_AT_ONCE, parts, copies):
            yield from gather_rows(places, read).to_batches()

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the rows as one table; with `columns`, only these."""
        schema = select_columns(self.schema(), columns)
        return pa.Table.from_batches(self.batches(columns), schema)

    def audio(self, clip: str | TableRow) -> tuple[NDArray[np.float32], int]:
        """Decode a clip, by its key or its row, as `Dataset.audio` does."""
        return self.index.audio(clip)

    def to_huggingface(self) -> "datasets.Dataset":
        """Return the rows as a `datasets.Dataset` whose column `audio` is an `Audio` feature."""
        return self.index.to_features(self.to_arrow())

    def _read_places(
        self, rows_at_once: int, parts: Sequence[FileInfo] | None = None, copies: LocalRows | None = None
    ) -> Iterator[pa.Table]:
        """Yield the keys of the rows in their order, each with the number of the index part that holds it."""
        with tempfile.TemporaryDirectory() as folder, KeyPlaces(Path(folder)) as places:
            hidden = frozenset(self.index.tombstones().hidden_keys())
            keys = read_manifest_keys(self.index.store, self.run)
            places.add_wanted(piece.filter(select_visible(piece, hidden)) for piece in keys)
            infos = self.index.part_files() if parts is None else parts
            copied = copies.read_keys() if copies is not None else ()
            places.add_indexed(chain(read_index_keys(self.index.store, infos, places.folder), copied))
            yield from places.read_ordered(rows_at_once)


def _read_part_rows(store: Store, path: str, keys: pa.Array, schema: pa.Schema) -> pa.Table:
    """Read the rows of these keys from an index part, in the order of `keys`."""
    with store.open(path) as file:
        part = ParquetReader(file)
        return pick_rows(part, range(part.num_row_groups), keys, schema)
