"""Rows are cut into shards, which are bounded in rows, in bytes of audio, and to a few minutes of work."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from musicgen.generator_spec import GeneratorSpec
from musicgen.job import Job
from musicgen.plan.expected_actors import ExpectedActors
from musicgen.storage.row_sizes import measure_rows

SHARDS_PER_FILE = 128
MAX_ROWS = 10_000
MAX_ROW_BYTES = 64 << 20  # of the rows themselves, which the driver and an actor hold in memory
MAX_BYTES = 1 << 30  # of encoded audio: what `layout: parquet` and `webdataset` gather before they commit
_WORK_PER_SHARD_S = 180.0
_MIN_ROWS = 8  # with fewer, the time of the commit shows
_MAX_SHARDS = 10_000  # of a job with many short clips, since every later plan lists all of them
_SHARDS_PER_ACTOR = 4  # enough that the last actor does not work alone for long
_LOSSY_BYTES_PER_S = 24_000  # mp3, ogg


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """A shard ends before it would exceed one of these; it has at least one row."""

    rows: int
    audio_s: float
    row_bytes: int = MAX_ROW_BYTES


def choose_limits(job: Job, spec: GeneratorSpec, actors: ExpectedActors, rows: int, audio_s: float) -> ShardLimits:
    """Choose how large shards may be, for `rows` rows of `audio_s` seconds of audio in all."""
    lossless = job.audio.format in ("flac", "wav")
    bytes_per_s = spec.sample_rate * 2 * spec.channels if lossless else _LOSSY_BYTES_PER_S
    max_audio_s = MAX_BYTES / bytes_per_s
    if job.cluster.shard_rows != "auto":
        return ShardLimits(min(job.cluster.shard_rows, 10 * MAX_ROWS), max_audio_s)
    fair_rows = math.ceil(rows / (_SHARDS_PER_ACTOR * actors.most))
    speed = spec.estimate_speed(on_gpu=actors.gpus_each > 0)
    work_audio_s = max(speed * _WORK_PER_SHARD_S, audio_s / _MAX_SHARDS)
    min_audio_s = _MIN_ROWS * audio_s / max(rows, 1)
    return ShardLimits(
        rows=max(_MIN_ROWS, min(fair_rows, MAX_ROWS)), audio_s=min(max_audio_s, max(work_audio_s, min_audio_s))
    )


class _ShardCutter:
    """The rule by which rows are cut into shards."""

    def __init__(self, limits: ShardLimits):
        self.limits = limits
        self.rows = 0  # of the current shard
        self.audio_s = 0.0
        self.row_bytes = 0

    def begins_shard(self, duration_s: float, row_bytes: int) -> bool:
        """Take the next row; return whether the current shard ends before it."""
        full = (
            self.rows >= self.limits.rows
            or self.audio_s + duration_s > self.limits.audio_s
            or self.row_bytes + row_bytes > self.limits.row_bytes
        )
        begins = full and self.rows > 0
        if begins:
            self.rows, self.audio_s, self.row_bytes = 0, 0.0, 0
        self.rows += 1
        self.audio_s += duration_s
        self.row_bytes += row_bytes
        return begins


def cut_shards(rows_of: Iterable[tuple[float, int]], limits: ShardLimits) -> Iterator[tuple[int, float]]:
    """Yield the rows and the seconds of audio of each shard, for the durations and bytes of rows in order."""
    cutter = _ShardCutter(limits)
    rows, audio_s = 0, 0.0
    for duration_s, row_bytes in rows_of:
        if cutter.begins_shard(duration_s, row_bytes):
            yield rows, audio_s
        rows, audio_s = cutter.rows, cutter.audio_s
    if rows:
        yield rows, audio_s


def cut_tables(tables: Iterable[pa.Table], limits: ShardLimits) -> Iterator[pa.Table]:
    """Yield the rows of a stream of tables in shards. Memory holds one shard and one table at a time."""
    cutter = _ShardCutter(limits)
    pieces: list[pa.Table] = []
    for table in tables:
        start = 0
        for position, (duration_s, row_bytes) in enumerate(list_rows(table)):
            if cutter.begins_shard(duration_s, row_bytes):
                pieces.append(table.slice(start, position - start))
                yield pa.concat_tables(pieces)
                pieces, start = [], position
        pieces.append(table.slice(start))
    if cutter.rows:
        yield pa.concat_tables(pieces)


def list_rows(table: pa.Table) -> Iterator[tuple[float, int]]:
    """Yield the seconds of audio and the bytes of each row."""
    return zip(table["duration_s"].to_pylist(), measure_rows(table).tolist(), strict=True)
