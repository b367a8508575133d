"""What an actor takes beside its model: its rate with an engine that takes no time, as a share of the work itself."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.feeding import count_writers
from actors.messages import ShardAttempt
from musicgen.audio import encode_audio
from musicgen.clip import Clip
from musicgen.dataset import paths
from musicgen.dataset.index_part import write_part
from musicgen.request import Request
from tests.actors.in_process import ActorInProcess

SHARDS, SHARD_ROWS, SAMPLES = 8, 500, 3200
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (1, SAMPLES)).astype(np.float32)


def make_clip(request: Request) -> Clip:
    return Clip(request, np.zeros((4, 5), np.int16), NOISE, 32000)


def list_parts(actor: ActorInProcess, folder: Path) -> Iterator[Path]:
    """The parts of the index, each as soon as it is there, made by two attempts at a time."""
    with ThreadPoolExecutor(2) as pool:
        reports = pool.map(actor.generator.make_shard, map(ShardAttempt, actor.plan.shards))
        for shard, report in enumerate(reports):
            assert report.made == SHARD_ROWS
            yield folder / paths.index_part(actor.plan.run, shard)


def encode_and_write(table: pa.Table, path: Path) -> None:
    """Encode the audio of a part's rows, and write them with it."""
    with ThreadPoolExecutor(count_writers(8)) as pool:
        files = list(pool.map(lambda _: encode_audio(NOISE, 32000, "flac").data, range(table.num_rows)))
    cells = [{"bytes": file, "path": f"{number}.flac"} for number, file in enumerate(files)]
    index = table.schema.get_field_index("audio")
    audio = pa.array(cells, table.schema.field("audio").type)
    write_part(path, table.schema, table.set_column(index, table.schema.field("audio"), audio).to_batches())


@pytest.mark.slow
def test_an_actor_reaches_most_of_what_encoding_and_parquet_alone_do(tmp_path: Path) -> None:
    cluster = {"shard_rows": SHARD_ROWS, "slots": 8}
    output = tmp_path / "out"
    actor = ActorInProcess(
        tmp_path,
        SHARDS * SHARD_ROWS,
        str(output),
        make_clip,
        audio={"layout": "parquet"},
        generation={"duration_s": 0.1},
        cluster=cluster,
    )
    made = list_parts(actor, output)
    encode_and_write(pq.read_table(next(made)), tmp_path / "alone.parquet")  # what is imported and cached at first
    started = time.process_time(), time.monotonic()
    parts = list(made)
    cpu_s, wall_s = time.process_time() - started[0], time.monotonic() - started[1]
    tables = [pq.read_table(part) for part in parts]
    started = time.process_time(), time.monotonic()
    for table in tables:
        encode_and_write(table, tmp_path / "alone.parquet")
    alone_cpu_s, alone_wall_s = time.process_time() - started[0], time.monotonic() - started[1]
    rows = (SHARDS - 1) * SHARD_ROWS
    print(
        f"{rows / cpu_s:.0f} of {rows / alone_cpu_s:.0f} rows per second of processor time: {alone_cpu_s / cpu_s:.0%}; "
        f"{rows / wall_s:.0f} of {rows / alone_wall_s:.0f} rows/s: {alone_wall_s / wall_s:.0%}"
    )
    assert alone_cpu_s / cpu_s >= 0.7
