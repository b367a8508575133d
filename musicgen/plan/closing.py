"""Closing an unfinished run: every shard that it has not committed gets an empty part in the index, put if absent.

A driver of the run that still lives then loses each of these shards, as it does to an attempt that was faster. A note
in the run's folder comes first, so that a planner that finds a run half closed knows to go on. docs/commit.md says why
a run must be closed before its missing rows are planned anew.
"""

import io
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.index_part import Footer, schema_with, write_part
from musicgen.dataset.info import DatasetInfo
from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import index_schema
from musicgen.errors import StoreError, first_line
from musicgen.own_checksum import dump_json
from musicgen.parallel import map_ordered
from musicgen.plan.planned_runs import PlannedRun
from musicgen.plan.row_schema import select_carried
from musicgen.run_plan import format_time
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader

_THREADS = 32

ShardsClosed = Callable[[str, int, int], None]
"""Called with a run, how many of its shards are closed, and how many there are to close; first with 0."""


def close_run(
    store: Store, info: DatasetInfo, run: PlannedRun, closed_by: str, on_shards_closed: ShardsClosed | None = None
) -> None:
    """Close the pending shards of a run, or go on closing them; `closed_by` is the run for which it is done.

    Afterwards the run is finished: what it has committed in the meantime has to be read. Raises `StoreError`; then the
    next planner goes on.
    """
    pending = run.pending
    if not run.closing:
        note = {"superseded_at": format_time(datetime.now(UTC)), "closed_by": closed_by, "pending_shards": len(pending)}
        store.put_if_absent(paths.superseded_note(run.run), dump_json(note))
    schema = _find_schema(store, info, run)
    attempt = f"closed-{uuid4().hex[:12]}"

    def close_shard(shard: int) -> None:
        footer = Footer(
            run=run.run,
            shard=shard,
            attempt=attempt,
            rows=run.outline.shard_rows[shard],
            made=0,
            failed=0,
            failures=None,
            audio_s=0.0,
            closed=closed_by,
        )
        content = _empty_part(schema_with(schema, footer))
        # Whoever is first settles the shard; if it was the run itself, its rows are made.
        store.commit_if_absent(paths.index_part(run.run, shard), content, is_ours=lambda: True)

    if on_shards_closed:
        on_shards_closed(run.run, 0, len(pending))
    for closed, _ in enumerate(map_ordered(close_shard, pending, threads=_THREADS), 1):
        if on_shards_closed:
            on_shards_closed(run.run, closed, len(pending))


def _empty_part(schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    write_part(sink, schema, [])
    return sink.getvalue()


def _find_schema(store: Store, info: DatasetInfo, run: PlannedRun) -> pa.Schema:
    """Return the columns that the run's parts have: those of its manifest; without that, those of the dataset's index.

    Raises `StoreError` for a manifest that cannot be read.
    """
    for path in run.outline.manifest_files:
        try:
            with store.open(path) as file:
                rows = ParquetReader(file).schema_arrow.empty_table()
        except FileNotFoundError:
            continue
        except pa.ArrowException as error:
            raise StoreError(f"{store.join(path)} is damaged: {first_line(error)}") from None
        carried = select_carried(rows).replace_schema_metadata(None).schema
        return index_schema(info.layout, carried, info.codes, info.schema_version)
    return Dataset(store, info).schema()
