"""The keys and audio objects that the index names, on disk, because a hundred million of them do not fit in memory."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from musicgen.dataset.reader import Dataset
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.temporary_folder import temporary_folder

Stored = tuple[str, str | None, int]
"""An audio object: its path, the key in its name (None: it is a tar), its size."""

_MEMORY = "512MB"
_BATCH_ROWS = 50_000


class NamedAudio:
    """Answers which audio objects no row of the index names."""

    def __init__(self, database: duckdb.DuckDBPyConnection):
        self._database = database

    def add(self, rows: pa.Table) -> None:
        """Add rows of the index: `key`, `object`."""
        self._database.register("incoming", rows)
        self._database.execute("INSERT INTO named SELECT key, object FROM incoming")
        self._database.unregister("incoming")

    def find_unnamed(self, stored: Iterable[Stored]) -> Iterator[tuple[str, str | None, int, bool]]:
        """Yield those of the stored objects that no row names.

        With each comes whether the index has its key, under another object.
        """
        batch: list[Stored] = []
        for entry in stored:
            batch.append(entry)
            if len(batch) >= _BATCH_ROWS:
                yield from self._find_unnamed(batch)
                batch = []
        yield from self._find_unnamed(batch)

    def _find_unnamed(self, batch: list[Stored]) -> list[tuple[str, str | None, int, bool]]:
        columns = [list(column) for column in zip(*batch, strict=True)] or [[], [], []]
        schema = pa.schema([("path", pa.string()), ("key", pa.string()), ("size", pa.int64())])
        self._database.register("stored", pa.table(columns, schema=schema))
        query = """
            SELECT path, key, size, key IN (SELECT key FROM named) FROM stored
            WHERE path NOT IN (SELECT object FROM named WHERE object IS NOT NULL) ORDER BY path
        """
        rows = self._database.execute(query).fetchall()
        self._database.unregister("stored")
        return [(path, key, size, bool(has_key)) for path, key, size, has_key in rows]


@contextmanager
def read_named_audio(dataset: Dataset) -> Iterator[NamedAudio]:
    """Read the keys and the audio objects of all rows of the index, removed ones too."""
    with temporary_folder() as folder, duckdb.connect(str(Path(folder, "named.duckdb"))) as database:
        database.execute(f"SET memory_limit = '{_MEMORY}'")
        database.execute("SET temp_directory = ?", [str(folder / "duckdb")])
        database.execute("CREATE TABLE named (key VARCHAR, object VARCHAR)")
        named = NamedAudio(database)
        has_objects = dataset.info.layout != "parquet"
        for part_path in dataset.parts():
            with dataset.store.open(part_path) as file:
                rows = ParquetReader(file).read(["key", "audio"] if has_objects else ["key"])
            objects = rows["audio"] if has_objects else pa.nulls(rows.num_rows, pa.string())
            named.add(pa.table({"key": rows["key"], "object": objects}))
        yield named
