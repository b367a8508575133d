"""Cutting rows into shards: bounded in rows, in bytes of audio, and to a few minutes of work."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from musicgen.job import Job
from musicgen.model.spec import ModelSpec

SHARDS_PER_FILE = 128
MAX_ROWS = 10_000
MAX_BYTES = 1 << 30  # of encoded audio: what `layout: parquet` and `webdataset` gather before they commit
_WORK_PER_SHARD_S = 180.0
_MIN_ROWS = 8  # below that, the commit's own cost shows
_MAX_SHARDS = 10_000  # of a job whose rows are small and many: every later plan lists them all
_SHARDS_PER_ACTOR = 4  # enough that the last actor does not work alone for long
_LOSSY_BYTES_PER_S = 24_000  # mp3, ogg


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """A shard ends before it would pass either of these; one row always fits."""

    rows: int
    audio_s: float


def choose_limits(job: Job, spec: ModelSpec, rows: int, audio_s: float, speed: float) -> ShardLimits:
    """How large shards may be, for `rows` rows of `audio_s` seconds in all and actors of `speed` audio-seconds per
    second.
    """
    lossless = job.audio.format in ("flac", "wav")
    bytes_per_s = spec.sample_rate * 2 * spec.channels if lossless else _LOSSY_BYTES_PER_S
    bound_s = MAX_BYTES / bytes_per_s
    if job.cluster.shard_rows != "auto":
        return ShardLimits(min(job.cluster.shard_rows, 10 * MAX_ROWS), bound_s)
    fair = math.ceil(rows / (_SHARDS_PER_ACTOR * job.cluster.max_actors))
    work_s = max(speed * _WORK_PER_SHARD_S, audio_s / _MAX_SHARDS)
    return ShardLimits(
        max(_MIN_ROWS, min(fair, MAX_ROWS)), min(bound_s, max(work_s, _MIN_ROWS * audio_s / max(rows, 1)))
    )


def estimate_speed(job: Job, spec: ModelSpec) -> float:
    """A guess at one actor's audio-seconds per second, from the decoder's size and whether it has a GPU.

    Half of the bounds of docs/architecture.md for an H100; a CPU is taken as a hundredth of it. Only shard sizes and a
    first estimate of time hang on it, and neither changes a clip.
    """
    parameters = (
        spec.layers * (6 * spec.hidden**2 + 2 * spec.hidden * spec.ffn)
        + 2 * spec.codebooks * spec.codebook_size * spec.hidden
    )
    on_gpu = job.model.device.startswith("cuda") or (job.cluster.gpus_per_actor not in ("auto", 0))
    return min(400.0, 60.0 * 1.4e9 / parameters) if on_gpu else min(60.0, 6.0 * 4e8 / parameters)


def cut_shards(durations: Iterable[float], limits: ShardLimits) -> Iterator[tuple[int, float]]:
    """The (rows, seconds of audio) of each shard, for rows in order."""
    rows, seconds = 0, 0.0
    for duration in durations:
        if rows and (rows >= limits.rows or seconds + duration > limits.audio_s):
            yield rows, seconds
            rows, seconds = 0, 0.0
        rows += 1
        seconds += duration
    if rows:
        yield rows, seconds


def cut_tables(tables: Iterable[pa.Table], limits: ShardLimits) -> Iterator[pa.Table]:
    """The rows of a stream of tables in shards. Holds one shard and one table at a time."""
    held: list[pa.Table] = []
    rows, seconds = 0, 0.0
    for table in tables:
        start = 0
        for position, duration in enumerate(table["duration_s"].to_pylist()):
            if rows and (rows >= limits.rows or seconds + duration > limits.audio_s):
                held.append(table.slice(start, position - start))
                yield pa.concat_tables(held)
                held, start, rows, seconds = [], position, 0, 0.0
            rows += 1
            seconds += duration
        held.append(table.slice(start))
    if rows:
        yield pa.concat_tables(held)
