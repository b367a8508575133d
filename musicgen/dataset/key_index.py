"""Keeps the keys and objects of a verification on disk, because a hundred million keys do not fit in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa

_BATCH_ROWS = 50_000
_SEEN_SCHEMA = pa.schema([("key", pa.string()), ("object", pa.string()), ("part", pa.string()), ("ends", pa.int64())])
_STORED_SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64())])


class KeyIndex:
    """The keys and objects that the index names, in a DuckDB database in `folder`, with bounded memory."""

    def __init__(self, folder: Path, memory: str = "512MB"):
        import duckdb

        self._database = duckdb.connect(str(folder / "keys.duckdb"))
        self._database.execute(
            f"SET memory_limit='{memory}'; SET temp_directory='{folder}'; SET enable_progress_bar=false"
        )
        self._database.execute(
            "CREATE TABLE seen (key VARCHAR, object VARCHAR, part VARCHAR, ends BIGINT);"
            "CREATE TABLE stored (path VARCHAR, size BIGINT)"
        )
        self._pending_rows: list[tuple[str, str | None, str, int]] = []

    def __enter__(self) -> "KeyIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add(self, keys: list[str], object_paths: list[str | None], part: str, ends: list[int]) -> None:
        """Add the rows of an index part; an object path is None where the index holds the audio itself.

        `ends` say how many bytes an object must have for the row: the clip's, and those before it in a tar.
        """
        rows = zip(keys, object_paths, ends, strict=True)
        self._pending_rows.extend((key, object_path, part, end) for key, object_path, end in rows)
        if len(self._pending_rows) >= _BATCH_ROWS:
            self._flush()

    def duplicates(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the keys that were added more than once, each with the parts that hold it."""
        self._flush()
        query = "SELECT key, list(part ORDER BY part) FROM seen GROUP BY key HAVING count(*) > 1 ORDER BY key"
        cursor = self._database.execute(query)
        while row := cursor.fetchone():
            yield row[0], row[1]

    def orphans(self, stored: Iterable[tuple[str, int]]) -> int:
        """Count the objects of `stored`, paths and sizes, that no row names."""
        self._flush()
        batch: list[tuple[str, int]] = []
        for path_and_size in stored:
            batch.append(path_and_size)
            if len(batch) >= _BATCH_ROWS:
                self._insert_stored(batch)
                batch = []
        self._insert_stored(batch)
        query = "SELECT count(*) FROM stored ANTI JOIN seen ON stored.path = seen.object"
        row = self._database.execute(query).fetchone()
        return int(row[0]) if row else 0

    def lost_objects(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield key, object, part and a description of each row whose object was not listed, or has another size.

        `orphans` has listed them. Files have exactly the size of their clip, tars are not shorter than their last one.
        """
        query = (
            "SELECT key, object, part, ends, size FROM seen LEFT JOIN stored ON stored.path = seen.object "
            "WHERE object IS NOT NULL AND (size IS NULL OR size < ends OR (size > ends AND object NOT LIKE '%.tar')) "
            "ORDER BY part, object, ends"
        )
        cursor = self._database.execute(query)
        while row := cursor.fetchone():
            key, path, part, ends, size = row
            sizes = f"the object has {size} bytes, the index says {ends}"
            yield key, path, part, "the audio object is missing" if size is None else sizes

    def _flush(self) -> None:
        if self._pending_rows:
            columns = [list(column) for column in zip(*self._pending_rows, strict=True)]
            self._insert("seen", pa.table(columns, schema=_SEEN_SCHEMA))
            self._pending_rows = []

    def _insert_stored(self, batch: list[tuple[str, int]]) -> None:
        if batch:
            self._insert(
                "stored", pa.table([list(column) for column in zip(*batch, strict=True)], schema=_STORED_SCHEMA)
            )

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._database.register("incoming", rows)
        self._database.execute(f"INSERT INTO {table} SELECT * FROM incoming")
        self._database.unregister("incoming")
