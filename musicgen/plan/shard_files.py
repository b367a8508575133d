"""The normalized manifest of a run: Parquet files whose row groups are the shards, written once and read by actors."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.errors import StoreError, first_line
from musicgen.plan.row_schema import make_requests, select_carried
from musicgen.plan.shards import SHARDS_PER_FILE, ShardLimits, cut_tables
from musicgen.run_plan import Plan, PlanPart
from musicgen.shard import ShardRows
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.parquet_writer import open_parquet_writer


def write_manifest_parts(
    store: Store, run: str, attempt: str, tables: Iterable[pa.Table], limits: ShardLimits, folder: Path
) -> Iterator[PlanPart]:
    """Write rows as shards, in files under the prefix of this attempt, and yield the files.

    Each file is complete in the local `folder` before it is sent.
    """
    shards = cut_tables(tables, limits)
    shard = next(shards, None)
    number = 0
    while shard is not None:
        path = paths.manifest_part(run, attempt, number)
        temporary = folder / f"part-{number:05d}.parquet"
        shard_rows: list[int] = []
        shard_audio_s: list[float] = []
        with open_shards_writer(temporary, shard.schema) as writer:
            while shard is not None and len(shard_rows) < SHARDS_PER_FILE:
                writer.write_table(shard, row_group_size=shard.num_rows)
                shard_rows.append(shard.num_rows)
                shard_audio_s.append(round(sum(shard["duration_s"].to_pylist()), 3))
                shard = next(shards, None)
        store.write(path, temporary)
        temporary.unlink()
        yield PlanPart(path, tuple(shard_rows), tuple(shard_audio_s))
        number += 1


def open_shards_writer(path: Path, schema: pa.Schema) -> AbstractContextManager[pq.ParquetWriter]:
    """Open a file of a normalized manifest; row groups are read whole, so statistics and dictionaries are of no use."""
    return open_parquet_writer(path, schema, use_dictionary=False, write_statistics=False)


def read_shard(store: Store, plan: Plan, shard: int) -> ShardRows:
    """Read the rows of a shard.

    Raises `IndexError` for a shard that the plan lacks, `StoreError` if its file is gone or damaged.
    """
    part, group = plan.locate(shard)
    try:
        with store.open(part.path) as file:
            table = ParquetReader(file).read_row_group(group)
    except FileNotFoundError:
        raise StoreError(f"{store.join(part.path)} is gone; run {plan.run} cannot go on without it") from None
    except pa.ArrowException as error:
        raise StoreError(f"{store.join(part.path)} is damaged: {first_line(error)}") from None
    return ShardRows(
        run=plan.run,
        shard=shard,
        requests=make_requests(table),
        keys=table["key"].to_pylist(),
        sources=table["source"].to_pylist(),
        carried=select_carried(table).replace_schema_metadata(None).combine_chunks(),
    )
