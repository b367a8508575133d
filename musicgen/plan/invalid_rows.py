"""Rows that are refused while planning: kept on local disk, recognized in later plans, written to `failures/`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.refused_rows import hash_refused_row, split_hashes
from musicgen.dataset.schema import FAILURES
from musicgen.run_plan import Plan, parse_time
from musicgen.storage import Store
from musicgen.storage.parquet_writer import open_parquet_writer

_HASHES = (pa.field("h1", pa.int64()), pa.field("h2", pa.int64()))
INVALID_ROW_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("source", "id", "prompt", "error_class", "reason")), *_HASHES]
)
KNOWN_INVALID_SCHEMA = pa.schema([pa.field("part", pa.int64()), *_HASHES])  # `part` tells the plans apart
SHOWN_CHARACTERS = 1000  # of a prompt or an id in failures/


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A row of a manifest that cannot be made, and why."""

    number: int  # in its file
    source: str
    id: str | None
    prompt: str | None
    error_class: str
    reason: str


def build_invalid_table(rows: Sequence[InvalidRow]) -> pa.Table:
    """Return invalid rows as a table of `INVALID_ROW_SCHEMA`."""
    names = INVALID_ROW_SCHEMA.names[: -len(_HASHES)]
    columns = [pa.array([getattr(row, name) for row in rows], pa.string()) for name in names]
    digests = [hash_refused_row(row.id, row.prompt, row.error_class, row.reason) for row in rows]
    return pa.Table.from_arrays([*columns, *split_hashes(digests)], schema=INVALID_ROW_SCHEMA)


def build_known_table(hashes: Sequence[pa.Array | pa.ChunkedArray], plan: int) -> pa.Table:
    """Return the hashes of the rows that one plan has refused (`musicgen.dataset.refused_rows`)."""
    plans = pa.array([plan] * len(hashes[0]), pa.int64())
    return pa.Table.from_arrays([plans, *hashes], schema=KNOWN_INVALID_SCHEMA)


def write_invalid_rows(store: Store, plan: Plan, spilled: Path, folder: Path) -> None:
    """Write the run's `failures/<run>/plan.parquet`, unless it exists, from a file of `INVALID_ROW_SCHEMA`.

    A driver that adopts the run calls it again, since the one that planned it may have died before it could. `folder`
    is for a temporary file.
    """
    path = paths.plan_failures(plan.run)
    if not store.exists(path):
        store.put_if_absent(path, build_invalid_rows(plan, spilled, folder))


def build_invalid_rows(plan: Plan, spilled: Path, folder: Path) -> Path:
    """Return a file of `folder` that is a run's `plan.parquet`. Its time is the plan's, so it is the same each time."""
    temporary = folder / "plan-failures.parquet"
    created_at = parse_time(plan.created_at) or datetime.now(UTC)
    same_for_all = {"attempts": 0, "run": plan.run, "created_at": created_at}
    with open_parquet_writer(temporary, FAILURES) as writer:
        for batch in pq.ParquetFile(spilled).iter_batches():
            own = dict(zip(batch.schema.names, batch.columns, strict=True))
            own["error"] = own.pop("reason")
            columns = [
                own[field.name]
                if field.name in own
                else pa.repeat(pa.scalar(same_for_all.get(field.name), field.type), batch.num_rows)
                for field in FAILURES
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=FAILURES))
    return temporary
