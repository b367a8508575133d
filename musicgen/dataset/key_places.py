"""Finds in which parts of the index the keys of a manifest lie, within a bound of memory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset.run_keys import split_keys

ROWS_AT_ONCE = 1 << 16
_MEMORY_MB = 512  # beyond it DuckDB uses the disk
_WANTED = pa.schema([("rank", pa.int64()), ("key", pa.string()), ("k1", pa.int64()), ("k2", pa.int64())])
_INDEXED = pa.schema([("k1", pa.int64()), ("k2", pa.int64()), ("part", pa.int32())])


class KeyPlaces:
    """Keys in an order, and the index parts that hold them; both in files of a local folder, joined by DuckDB."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._database = duckdb.connect()  # it has no tables; joins and sorts spill
        self._database.execute(f"SET memory_limit = '{_MEMORY_MB}MB'")
        self._database.execute("SET threads = 2")
        self._database.execute("SET preserve_insertion_order = false")
        self._database.execute("SET temp_directory = ?", [str(folder / "duckdb")])

    def __enter__(self) -> "KeyPlaces":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add_wanted(self, keys: Iterable[pa.Array]) -> None:
        """Take the keys that are wanted, in their order."""
        rank = 0
        with self._writer("wanted", _WANTED) as writer:
            for piece in keys:
                ranks = pa.array(np.arange(rank, rank + len(piece)))
                writer.write_table(pa.Table.from_arrays([ranks, piece, *split_keys(piece)], schema=_WANTED))
                rank += len(piece)

    def add_indexed(self, keys: Iterable[pa.Table]) -> None:
        """Take the keys of the index, as `read_index_keys` gives them."""
        with self._writer("indexed", _INDEXED) as writer:
            for table in keys:
                writer.write_table(table.cast(_INDEXED))

    def read_ordered(self, rows_at_once: int) -> Iterator[pa.Table]:
        """Yield the wanted keys that a part holds (`key`, `part`), in their order, `rows_at_once` at most."""
        target = str(self.folder / "places.parquet").replace("'", "''")  # COPY takes no parameters
        wanted, indexed = (str(self.folder / f"{name}.parquet") for name in ("wanted", "indexed"))
        self._database.execute(
            f"""
            COPY (
                SELECT any_value(wanted.key) AS key, min(part) AS part
                FROM read_parquet($wanted) AS wanted JOIN read_parquet($indexed) USING (k1, k2)
                GROUP BY rank ORDER BY rank
            ) TO '{target}' (FORMAT parquet)
            """,
            {"wanted": wanted, "indexed": indexed},
        )
        for batch in pq.ParquetFile(target).iter_batches(rows_at_once):
            yield pa.Table.from_batches([batch])

    def _writer(self, name: str, schema: pa.Schema) -> pq.ParquetWriter:
        return pq.ParquetWriter(self.folder / f"{name}.parquet", schema, compression="none", use_dictionary=False)
