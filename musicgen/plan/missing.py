"""Which rows of a manifest are equal, which of them the dataset has, and which are left to make.

DuckDB answers these questions about sets within a bound of memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

_MEMORY_MB = 1024  # beyond it DuckDB uses the disk
_THREADS = 2


@dataclass(frozen=True, slots=True)
class RowCounts:
    """The numbers of a manifest's distinct rows."""

    distinct: int
    made: int  # the dataset has them
    failed: int  # not made, and failed before
    held_back: int  # failed, and not tried again
    missing: int  # to make now
    missing_s: float  # their seconds of audio
    longest_s: float  # of one of them


class MissingRows:
    """The keys of a spill (`spill.ROW_KEY_SCHEMA`) compared with what `history.read_history` wrote beside them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._db = duckdb.connect(str(folder / "rows.duckdb"))
        self._db.execute(f"SET memory_limit = '{_MEMORY_MB}MB'")
        self._db.execute(f"SET threads = {_THREADS}")
        self._db.execute("SET preserve_insertion_order = false")
        self._db.execute("SET temp_directory = ?", [str(folder / "duckdb")])

    def __enter__(self) -> "MissingRows":
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def find_repeated_id(self) -> tuple[int, int] | None:
        """Find the indices of two rows with one (id, sample), the earliest such pair; None if all are different."""
        rows = self._db.execute(
            """
            SELECT min(row_index), min(row_index, 2)[2] FROM read_parquet(?)
            WHERE i1 IS NOT NULL GROUP BY i1, i2 HAVING count(*) > 1 ORDER BY 1 LIMIT 1
            """,
            [self._path("row_keys.parquet")],
        ).fetchall()
        return rows[0] if rows else None

    def keep_distinct(self) -> tuple[int, str]:
        """Keep the first of equal rows. Returns how many are left, and a fingerprint of them in any order."""
        self._db.execute(
            "CREATE TABLE rows AS SELECT min(row_index) AS row_index, k1, k2, any_value(duration_s) AS duration_s "
            "FROM read_parquet(?) GROUP BY k1, k2",
            [self._path("row_keys.parquet")],
        )
        sums = self._fetch_one(
            "SELECT count(*), coalesce(sum(k1), 0), coalesce(sum(k2), 0), bit_xor(k1), bit_xor(k2) FROM rows"
        )
        return sums[0], ":".join(str(value) for value in sums)

    def find_missing(self, retried_classes: frozenset[str]) -> RowCounts:
        """Compare the distinct rows with `made.parquet` and `failed.parquet`; what is left is missing.

        A row whose last failure is of class `crash` is held back, unless `retried_classes` has "crash". Rows that
        failed otherwise are tried again.
        """
        self._db.execute(
            "CREATE TABLE unmade AS SELECT rows.* FROM rows ANTI JOIN read_parquet(?) USING (k1, k2)",
            [self._path("made.parquet")],
        )
        self._db.execute(
            """
            CREATE TABLE failures AS
            SELECT unmade.row_index, arg_max(failed.error_class, failed.created_at) AS error_class
            FROM unmade JOIN read_parquet(?) AS failed USING (k1, k2) GROUP BY unmade.row_index
            """,
            [self._path("failed.parquet")],
        )
        held_back = [] if "crash" in retried_classes else ["crash"]
        self._db.execute(
            """
            CREATE TABLE missing AS SELECT row_index, duration_s FROM unmade
            ANTI JOIN (SELECT row_index FROM failures WHERE error_class IN (SELECT unnest(?))) USING (row_index)
            """,
            [held_back],
        )
        distinct, unmade, failed, missing = (
            self._fetch_one(f"SELECT count(*) FROM {table}")[0] for table in ("rows", "unmade", "failures", "missing")
        )
        missing_s, longest_s = self._fetch_one(
            "SELECT coalesce(sum(duration_s), 0.0), coalesce(max(duration_s), 0.0) FROM missing"
        )
        return RowCounts(distinct, distinct - unmade, failed, unmade - missing, missing, missing_s, longest_s)

    def read_indices(self) -> Iterator[NDArray[np.int64]]:
        """Read the indices of the missing rows, in the manifest's order, in pieces."""
        path = self._path("missing.parquet")
        quoted = path.replace("'", "''")  # COPY takes no parameters
        self._db.execute(f"COPY (SELECT row_index FROM missing ORDER BY row_index) TO '{quoted}' (FORMAT parquet)")
        for batch in pq.ParquetFile(path).iter_batches(1 << 16):
            yield batch.column(0).to_numpy()

    def count_new_invalid(self) -> int:
        """Count the invalid rows that no earlier plan has recorded (`known_invalid.parquet`)."""
        return self._fetch_one(
            "SELECT count(*) FROM (SELECT DISTINCT h1, h2 FROM read_parquet(?)) AS now ANTI JOIN read_parquet(?) "
            "USING (h1, h2)",
            self._path("invalid.parquet"),
            self._path("known_invalid.parquet"),
        )[0]

    def _fetch_one(self, sql: str, *values: str) -> tuple[int, ...]:
        row: tuple[int, ...] = self._db.execute(sql, values).fetchall()[0]
        return row

    def _path(self, name: str) -> str:
        return str(self.folder / name)
