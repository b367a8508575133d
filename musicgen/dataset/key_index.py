"""Keys and objects seen while verifying, on disk: a set of a hundred million keys does not fit in memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa

_BATCH = 50_000
_SEEN = pa.schema([("key", pa.string()), ("object", pa.string()), ("part", pa.string())])
_FOUND = pa.schema([("path", pa.string())])


class KeyIndex:
    """Which keys and objects the index names. DuckDB with bounded memory, in a folder of the caller's."""

    def __init__(self, folder: Path, memory: str = "512MB"):
        import duckdb

        self._db = duckdb.connect(str(folder / "ledger.duckdb"))
        self._db.execute(f"SET memory_limit='{memory}'; SET temp_directory='{folder}'; SET enable_progress_bar=false")
        self._db.execute(
            "CREATE TABLE seen (key VARCHAR, object VARCHAR, part VARCHAR); CREATE TABLE found (path VARCHAR)"
        )
        self._rows: list[tuple[str, str | None, str]] = []

    def __enter__(self) -> "KeyIndex":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def add(self, keys: list[str], objects: list[str | None], part: str) -> None:
        """Note the rows of an index part."""
        self._rows.extend((key, name, part) for key, name in zip(keys, objects, strict=True))
        if len(self._rows) >= _BATCH:
            self._flush()

    def duplicates(self) -> Iterator[tuple[str, list[str]]]:
        """The keys that were noted more than once, each with the parts that hold it."""
        self._flush()
        query = "SELECT key, list(part ORDER BY part) FROM seen GROUP BY key HAVING count(*) > 1 ORDER BY key"
        cursor = self._db.execute(query)
        while row := cursor.fetchone():
            yield row[0], row[1]

    def orphans(self, found: Iterable[str]) -> int:
        """How many of these objects no row names."""
        self._flush()
        batch: list[str] = []
        for path in found:
            batch.append(path)
            if len(batch) >= _BATCH:
                self._found(batch)
                batch = []
        self._found(batch)
        row = self._db.execute("SELECT count(*) FROM found ANTI JOIN seen ON found.path = seen.object").fetchone()
        return int(row[0]) if row else 0

    def _flush(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._insert("seen", pa.table(columns, schema=_SEEN))
            self._rows = []

    def _found(self, batch: list[str]) -> None:
        self._insert("found", pa.table([batch], schema=_FOUND))

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._db.register("incoming", rows)
        self._db.execute(f"INSERT INTO {table} SELECT * FROM incoming")
        self._db.unregister("incoming")
