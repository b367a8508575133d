"""Which rows of a manifest are equal, which of them the dataset has, and which are left to make.

DuckDB answers these questions about sets within a bound of memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

MAX_FAILURES = 3
"""A row whose melody or generation has failed in this many runs is held back: its input is the same each time."""

_MEMORY_MB = 512  # beyond it DuckDB uses the disk; 300 are enough for ten million rows with ids
_THREADS = 2


@dataclass(frozen=True, slots=True)
class RowCounts:
    """The numbers of a manifest's distinct rows."""

    distinct: int
    made: int  # the dataset has them
    removed: int  # their clips were removed from the dataset, and are not made again
    unasked: int  # clips of the dataset that are of no row here
    failed: int  # not made, and failed before
    held_back: dict[str, int]  # failed and not tried again, by the class of their last failure
    missing: int  # to make now
    missing_s: float  # their seconds of audio
    longest_s: float  # of one of them


class MissingRows:
    """The keys of a spill (`spill.ROW_KEY_SCHEMA`) compared with what `History` wrote beside them."""

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

    def find_repeated_ids(self) -> tuple[int, int]:
        """Find the rows whose id an earlier row of the manifest has; returns their numbers of samples and of rows.

        A row of several samples is as many rows here, of which sample 0 comes first. These are left out from then on.
        """
        self._db.execute(
            """
            CREATE TABLE refused AS
            WITH keys AS (SELECT row_index, i1, i2, sample FROM read_parquet($keys) WHERE i1 IS NOT NULL),
                first AS (
                    SELECT i1, i2, min(row_index) AS first_index FROM keys
                    WHERE sample = 0 GROUP BY i1, i2 HAVING count(*) > 1
                ),
                second AS (
                    SELECT i1, i2, first_index, min(row_index) AS second_index FROM keys JOIN first USING (i1, i2)
                    WHERE sample = 0 AND row_index > first_index GROUP BY i1, i2, first_index
                )
            SELECT row_index, sample, first_index FROM keys JOIN second USING (i1, i2) WHERE row_index >= second_index
            """,
            {"keys": self._path("row_keys.parquet")},
        )
        samples, rows = self._fetch_one("SELECT count(*), count(*) FILTER (sample = 0) FROM refused")
        return samples, rows

    def read_repeating(self) -> Iterator[NDArray[np.int64]]:
        """Read the indices of the rows with a repeated id and of the first ones of these ids, in order, in pieces."""
        query = """
            SELECT row_index FROM refused WHERE sample = 0 UNION SELECT first_index AS row_index FROM refused
        """
        return self._export_indices(query, "repeating.parquet")

    def pair_repeating(self, sources: Path) -> Iterator[pa.RecordBatch]:
        """Yield the rows of `sources` (`row_index`, `source`, ...) that repeat an id, with the column `first_source`.

        `sources` has the rows of `read_repeating`.
        """
        path = self._path("paired.parquet")
        quoted, quoted_sources = (str(name).replace("'", "''") for name in (path, sources))
        self._db.execute(
            f"""
            COPY (
                SELECT own.*, first.source AS first_source FROM refused
                JOIN read_parquet('{quoted_sources}') AS own USING (row_index)
                JOIN read_parquet('{quoted_sources}') AS first ON first.row_index = refused.first_index
                WHERE refused.sample = 0 ORDER BY row_index
            ) TO '{quoted}' (FORMAT parquet)
            """
        )
        yield from pq.ParquetFile(path).iter_batches(1 << 13)

    def keep_distinct(self) -> tuple[int, str]:
        """Keep the first of equal rows, of those that `find_repeated_ids` left; it comes before.

        Returns how many are left, and a fingerprint of them in any order.
        """
        self._db.execute(
            """
            CREATE TABLE rows AS
            SELECT min(row_index) AS row_index, k1, k2, any_value(duration_s) AS duration_s, count(*) AS copies
            FROM read_parquet(?) ANTI JOIN refused USING (row_index) GROUP BY k1, k2
            """,
            [self._path("row_keys.parquet")],
        )
        sums = self._fetch_one(
            "SELECT count(*), coalesce(sum(k1), 0), coalesce(sum(k2), 0), bit_xor(k1), bit_xor(k2) FROM rows"
        )
        return sums[0], ":".join(str(value) for value in sums)

    def find_missing(self, retried_classes: frozenset[str]) -> RowCounts:
        """Compare the distinct rows with what was made, removed and failed; what is left is missing.

        A row is held back, unless `retried_classes` has the class of its last failure, if that is `crash`, or if it is
        `melody` or `generation` and the row has failed so in `MAX_FAILURES` runs. Rows that failed otherwise are tried
        again. The last failure is that of the latest run (`RunListing.ranks`).
        """
        self._db.execute(
            "CREATE OR REPLACE TABLE kept AS SELECT rows.* FROM rows ANTI JOIN read_parquet(?) USING (k1, k2)",
            [self._path("removed.parquet")],
        )
        self._db.execute(
            "CREATE OR REPLACE TABLE unmade AS SELECT kept.* FROM kept ANTI JOIN read_parquet(?) USING (k1, k2)",
            [self._paths("made")],
        )
        self._db.execute(
            """
            CREATE OR REPLACE TABLE failures AS
            SELECT row_index, error_class,
                error_class NOT IN (SELECT unnest(?))
                AND (error_class = 'crash' OR error_class = 'melody' AND melody_failures >= ?
                     OR error_class = 'generation' AND generation_failures >= ?) AS held_back
            FROM (
                SELECT unmade.row_index, arg_max(failed.error_class, failed.run_rank) AS error_class,
                    count(*) FILTER (failed.error_class = 'melody') AS melody_failures,
                    count(*) FILTER (failed.error_class = 'generation') AS generation_failures
                FROM unmade JOIN read_parquet(?) AS failed USING (k1, k2) GROUP BY unmade.row_index
            )
            """,
            [sorted(retried_classes), MAX_FAILURES, MAX_FAILURES, self._paths("failed")],
        )
        self._db.execute(
            """
            CREATE OR REPLACE TABLE missing AS SELECT row_index, duration_s FROM unmade
            ANTI JOIN (SELECT row_index FROM failures WHERE held_back) USING (row_index)
            """
        )
        distinct, kept, unmade, failed, missing = (
            self._fetch_one(f"SELECT count(*) FROM {table}")[0]
            for table in ("rows", "kept", "unmade", "failures", "missing")
        )
        held_back = self._db.execute(
            "SELECT error_class, count(*) FROM failures WHERE held_back GROUP BY error_class ORDER BY error_class"
        ).fetchall()
        missing_s, longest_s = self._fetch_one(
            "SELECT coalesce(sum(duration_s), 0.0), coalesce(max(duration_s), 0.0) FROM missing"
        )
        (clips,) = self._fetch_one(
            "SELECT count(*) FROM read_parquet(?) ANTI JOIN read_parquet(?) USING (k1, k2)",
            self._paths("made"),
            self._path("removed.parquet"),
        )
        made, removed = kept - unmade, distinct - kept
        return RowCounts(distinct, made, removed, clips - made, failed, dict(held_back), missing, missing_s, longest_s)

    def read_indices(self) -> Iterator[NDArray[np.int64]]:
        """Read the indices of the missing rows, in the manifest's order, in pieces."""
        return self._export_indices("SELECT row_index FROM missing", "missing.parquet")

    def read_distinct(self) -> Iterator[NDArray[np.int64]]:
        """Read the indices of all distinct rows, in the manifest's order, in pieces."""
        return self._export_indices("SELECT row_index FROM rows", "distinct.parquet")

    def read_repeated(self) -> Iterator[NDArray[np.int64]]:
        """Read the indices of all rows that have an equal one, in the manifest's order, in pieces."""
        self._db.execute(
            """
            CREATE OR REPLACE TABLE repeated AS
            SELECT keys.row_index, rows.row_index AS kept FROM read_parquet(?) AS keys JOIN rows USING (k1, k2)
            ANTI JOIN refused ON refused.row_index = keys.row_index WHERE rows.copies > 1
            """,
            [self._path("row_keys.parquet")],
        )
        return self._export_indices("SELECT row_index FROM repeated", "repeated.parquet")

    def count_conflicting(self, values: Path) -> int:
        """Count the repeated rows whose value, in a Parquet file of (row_index, value), is not that of the kept row."""
        return self._fetch_one(
            """
            SELECT count(*) FROM repeated JOIN read_parquet(?) AS own USING (row_index)
            JOIN read_parquet(?) AS kept ON kept.row_index = repeated.kept WHERE own.value <> kept.value
            """,
            str(values),
            str(values),
        )[0]

    def count_made_pending(self) -> int:
        """Count the rows in `pending_keys.parquet` that the dataset has."""
        return self._fetch_one(
            "SELECT count(*) FROM read_parquet(?) AS pending SEMI JOIN read_parquet(?) USING (k1, k2)",
            self._path("pending_keys.parquet"),
            self._paths("made"),
        )[0]

    def _export_indices(self, query: str, name: str) -> Iterator[NDArray[np.int64]]:
        path = self._path(name)
        quoted = path.replace("'", "''")  # COPY takes no parameters
        self._db.execute(f"COPY ({query} ORDER BY row_index) TO '{quoted}' (FORMAT parquet)")
        for batch in pq.ParquetFile(path).iter_batches(1 << 16):
            yield batch.column(0).to_numpy()

    def count_new_invalid(self) -> int:
        """Count the invalid rows that no earlier plan has recorded (`known_invalid-*.parquet`).

        Of equal ones, as many are known as the plan that recorded most of them has.
        """
        return self._fetch_one(
            """
            WITH known AS (
                SELECT h1, h2, max(count) AS count
                FROM (SELECT h1, h2, count(*) AS count FROM read_parquet(?) GROUP BY part, h1, h2) GROUP BY h1, h2
            )
            SELECT coalesce(sum(greatest(now.count - coalesce(known.count, 0), 0)), 0)::BIGINT
            FROM (SELECT h1, h2, count(*) AS count FROM read_parquet(?) GROUP BY h1, h2) AS now
            LEFT JOIN known USING (h1, h2)
            """,
            self._paths("known_invalid"),
            self._path("invalid.parquet"),
        )[0]

    def _fetch_one(self, sql: str, *values: str | list[str]) -> tuple[int, ...]:
        row: tuple[int, ...] = self._db.execute(sql, values).fetchall()[0]
        return row

    def _paths(self, name: str) -> list[str]:
        """Return the files that `History` has written under a name."""
        return [str(path) for path in sorted(self.folder.glob(f"{name}-*.parquet"))]

    def _path(self, name: str) -> str:
        return str(self.folder / name)
