"""Which rows are there twice, which the dataset has, which are left: set questions, answered by DuckDB within a memory
bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Of the manifest's distinct rows."""

    distinct: int
    made: int
    failed: int
    held_back: int  # failed rows that are not tried again
    missing: int
    missing_s: float  # their seconds of audio
    longest_s: float  # of one of them


class MissingRows:
    """The ledger of a spill (`spill.LEDGER`) against what the dataset has. Spills to `folder` beyond `memory_mb`."""

    def __init__(self, folder: Path, memory_mb: int = 1024, threads: int = 2):
        self.folder = folder
        self._db = duckdb.connect(str(folder / "ledger.duckdb"))
        self._db.execute(f"SET memory_limit = '{memory_mb}MB'")
        self._db.execute(f"SET threads = {threads}")
        self._db.execute("SET preserve_insertion_order = false")
        self._db.execute("SET temp_directory = ?", [str(folder / "duckdb")])

    def __enter__(self) -> "MissingRows":
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def _fetch_one(self, sql: str, *values: Any) -> tuple[Any, ...]:
        return self._db.execute(sql, values).fetchall()[0]

    def find_repeated_id(self) -> tuple[int, int] | None:
        """The places of two rows with one (id, sample), the earliest such pair; None if all are different."""
        rows = self._db.execute(
            """
            SELECT min(place), min(place, 2)[2] FROM read_parquet(?)
            WHERE i1 IS NOT NULL GROUP BY i1, i2 HAVING count(*) > 1 ORDER BY 1 LIMIT 1
            """,
            [self._path("ledger.parquet")],
        ).fetchall()
        return rows[0] if rows else None

    def keep_distinct(self) -> tuple[int, str]:
        """Keep the first of equal rows. Returns how many are left, and a fingerprint of them in whatever order."""
        self._db.execute(
            "CREATE TABLE rows AS SELECT min(place) AS place, k1, k2, any_value(seconds) AS seconds FROM "
            "read_parquet(?) GROUP BY k1, k2",
            [self._path("ledger.parquet")],
        )
        sums = self._fetch_one(
            "SELECT count(*), coalesce(sum(k1), 0), coalesce(sum(k2), 0), bit_xor(k1), bit_xor(k2) FROM rows"
        )
        return sums[0], ":".join(str(value) for value in sums)

    def compare_with_dataset(self, tried_again: frozenset[str]) -> RowCounts:
        """Against `made.parquet` and `failed.parquet`: what is there, and which rows are left to make.

        Only `crash` rows are ever held back: those whose last failure is one, unless "crash" is in `tried_again`.
        """
        made, failed = self._path("made.parquet"), self._path("failed.parquet")
        self._db.execute(
            "CREATE TABLE missing AS SELECT rows.* FROM rows ANTI JOIN read_parquet(?) USING (k1, k2)", [made]
        )
        self._db.execute(
            """
            CREATE TABLE failures AS
            SELECT missing.place, arg_max(past.error_class, past.created_at) AS error_class
            FROM missing JOIN read_parquet(?) AS past USING (k1, k2) GROUP BY missing.place
            """,
            [failed],
        )
        held_back = [] if "crash" in tried_again else ["crash"]
        self._db.execute(
            """
            CREATE TABLE todo AS SELECT place, seconds FROM missing
            ANTI JOIN (SELECT place FROM failures WHERE error_class IN (SELECT unnest(?))) USING (place)
            """,
            [held_back],
        )
        distinct, missing, failures, todo = (
            self._fetch_one(f"SELECT count(*) FROM {table}")[0] for table in ("rows", "missing", "failures", "todo")
        )
        todo_s, longest_s = self._fetch_one("SELECT coalesce(sum(seconds), 0.0), coalesce(max(seconds), 0.0) FROM todo")
        return RowCounts(distinct, distinct - missing, failures, missing - todo, todo, todo_s, longest_s)

    def read_places(self) -> Iterator[NDArray[np.int64]]:
        """The places of the rows to make, in the manifest's order, in pieces."""
        path = self._path("todo.parquet")
        quoted = path.replace("'", "''")  # COPY takes no parameters
        self._db.execute(f"COPY (SELECT place FROM todo ORDER BY place) TO '{quoted}' (FORMAT parquet)")
        for batch in pq.ParquetFile(path).iter_batches(1 << 16):
            yield batch.column(0).to_numpy()

    def count_new_invalid(self) -> int:
        """How many refused rows no earlier run has recorded (`known_refused.parquet`)."""
        return self._fetch_one(
            "SELECT count(*) FROM (SELECT DISTINCT h1, h2 FROM read_parquet(?)) AS now ANTI JOIN read_parquet(?) "
            "USING (h1, h2)",
            self._path("refused.parquet"),
            self._path("known_refused.parquet"),
        )[0]

    def _path(self, name: str) -> str:
        return str(self.folder / name)
