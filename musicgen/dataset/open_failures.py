"""Reads `failures/`, and tells the failures that are still to be mended from those that later runs have settled."""

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset.schema import FAILURES
from musicgen.parallel import map_ordered
from musicgen.run_plan import Plan
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

_THREADS = 16


def read_failures(store: Store, files: Iterable[str]) -> pa.Table:
    """Read all rows of these files of `failures/`, with the columns of `FAILURES`."""

    def read(path: str) -> pa.Table:
        with store.open(path) as file:
            return ParquetReader(file).read().select(FAILURES.names).cast(FAILURES)

    return pa.concat_tables([FAILURES.empty_table(), *map_ordered(read, files, threads=_THREADS)])


def read_first_failures(store: Store, files: Iterable[str], count: int) -> list[TableRow]:
    """Read the first rows of these files of `failures/`, and no more files than needed."""
    rows: list[TableRow] = []
    for path in files:
        with store.open(path) as file:
            for batch in ParquetReader(file).iter_batches(count, columns=FAILURES.names):
                rows += batch.to_pylist()
                if len(rows) >= count:
                    return rows[:count]
    return rows


def select_open_failures(history: pa.Table, made: pa.ChunkedArray, last_runs: Iterable[str]) -> pa.Table:
    """Return the rows of `history` (schema `FAILURES`) that are still open, in its order.

    A row with a key is open if no run has made it (`made` are the index's keys); of its failures the last one counts.
    A row without a key was refused while planning: it is open if that was in one of `last_runs`, since a later plan of
    the same manifest has looked at it again.
    """
    keyed = history.filter(pc.is_valid(history["key"]))
    keyed = keyed.filter(pc.invert(pc.is_in(keyed["key"], value_set=pa.array(made.combine_chunks(), pa.string()))))
    newest: dict[str, int] = {}
    times = keyed["created_at"].to_pylist()
    for index, key in enumerate(keyed["key"].to_pylist()):
        if key not in newest or times[index] >= times[newest[key]]:
            newest[key] = index
    keyed = keyed.take(pa.array(sorted(newest.values()), pa.int64()))
    refused = history.filter(pc.is_null(history["key"]))
    refused = refused.filter(pc.is_in(refused["run"], value_set=pa.array(list(last_runs), pa.string())))
    return pa.concat_tables([keyed, refused])


def find_last_runs(plans: Mapping[str, Plan | None]) -> list[str]:
    """Return the run that was planned last of each manifest, and the runs whose plan cannot be read (None)."""
    last: dict[str, tuple[tuple[str, int], str]] = {}
    for run, plan in plans.items():
        if plan is None:
            continue
        manifest = plan.job.get("manifest")
        uri = str(manifest.get("uri")) if isinstance(manifest, dict) else ""
        last[uri] = max(last.get(uri, (("", 0), "")), ((plan.created_at, plan.order), run))
    return [*(run for _, run in last.values()), *(run for run, plan in plans.items() if plan is None)]
