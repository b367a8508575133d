"""Rows are cut into shards, which are bounded in rows, in bytes of audio, and to a few minutes of work."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
_WINDOW_ROWS = 512  # are looked at together


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


class _OpenShard:
    """A shard that rows are added to, as long as it has room."""

    def __init__(self, limits: ShardLimits):
        self.limits = limits
        self.rows = 0
        self.audio_s = 0.0
        self.row_bytes = 0

    def add(self, durations_s: NDArray[np.float64], row_bytes: NDArray[np.int64]) -> int:
        """Add rows up to the first that it has no room for; return how many were added."""
        added = 0
        while added < len(durations_s):
            window = slice(added, added + _WINDOW_ROWS)
            audio_s = np.cumsum(np.concatenate([[self.audio_s], durations_s[window]]))[1:]
            total_bytes = self.row_bytes + np.cumsum(row_bytes[window])
            rows = self.rows + np.arange(1, len(audio_s) + 1)
            fits = (rows <= self.limits.rows) & (audio_s <= self.limits.audio_s)
            fits &= total_bytes <= self.limits.row_bytes
            fits[0] |= self.rows == 0
            count = len(fits) if fits.all() else int(fits.argmin())
            if count:
                self.rows += count
                self.audio_s, self.row_bytes = float(audio_s[count - 1]), int(total_bytes[count - 1])
            added += count
            if count < len(fits):
                break
        return added


def cut_tables(tables: Iterable[pa.Table], limits: ShardLimits) -> Iterator[pa.Table]:
    """Yield the rows of a stream of tables in shards. Memory holds one shard and one table at a time."""
    shard = _OpenShard(limits)
    pieces: list[pa.Table] = []
    for table in tables:
        durations_s, row_bytes = table["duration_s"].to_numpy(), measure_rows(table)
        start = 0
        while start < len(table):
            added = shard.add(durations_s[start:], row_bytes[start:])
            pieces.append(table.slice(start, added))
            start += added
            if start < len(table):
                yield pa.concat_tables(pieces)
                shard, pieces = _OpenShard(limits), []
    if shard.rows:
        yield pa.concat_tables(pieces)
