"""Rows are cut into shards once each, in order, within the limits."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicgen.job import Job
from musicgen.plan.expected_actors import ExpectedActors
from musicgen.plan.shards import MAX_BYTES, ShardLimits, choose_limits, cut_tables
from tests.fixtures.planning import SMALL

DURATIONS = st.lists(st.floats(0.1, 50), max_size=60)


@given(DURATIONS, st.integers(1, 10), st.floats(1, 100), st.integers(1, 7))
def test_rows_are_cut_once_each_in_order_and_within_the_limits(
    durations: list[float], rows: int, seconds: float, chunk: int
) -> None:
    limits = ShardLimits(rows, seconds)
    tables = [
        pa.table({"duration_s": pa.array(durations[i : i + chunk], pa.float64())})
        for i in range(0, len(durations), chunk)
    ]
    shards = [table["duration_s"].to_pylist() for table in cut_tables(tables, limits)]
    assert [duration for shard in shards for duration in shard] == durations
    assert all(shard and len(shard) <= rows and (sum(shard) <= seconds + 1e-6 or len(shard) == 1) for shard in shards)
    assert shards == cut_one_by_one(durations, rows, seconds)


def cut_one_by_one(durations: list[float], rows: int, seconds: float) -> list[list[float]]:
    shards: list[list[float]] = []
    total = 0.0
    for duration in durations:
        if not shards or len(shards[-1]) >= rows or total + duration > seconds:
            shards.append([])
            total = 0.0
        shards[-1].append(duration)
        total += duration
    return shards


def test_a_shard_may_have_more_rows_than_are_looked_at_together() -> None:
    durations = [0.1 * (number % 13) for number in range(5000)]
    tables = [pa.table({"duration_s": durations[:3333]}), pa.table({"duration_s": durations[3333:]})]
    for limits in (ShardLimits(1200, 10_000.0), ShardLimits(10_000, 777.7)):
        shards = [table["duration_s"].to_pylist() for table in cut_tables(tables, limits)]
        assert shards == cut_one_by_one(durations, limits.rows, limits.audio_s)


def make_job(*overrides: str) -> Job:
    return Job.load(None, list(overrides), manifest="a.csv", output="out")


@pytest.mark.parametrize(("rows", "actors"), [(96, 2), (1000, 1), (10_000, 8), (5, 4)])
def test_auto_shards_give_every_actor_work(rows: int, actors: int) -> None:
    limits = choose_limits(make_job(), SMALL, ExpectedActors(actors, actors), rows, rows * 2.0)
    shards = len(list(cut_tables([pa.table({"duration_s": [2.0] * rows})], limits)))
    assert shards >= min(4 * actors, -(-rows // 8))
    assert limits.audio_s <= SMALL.estimate_speed(on_gpu=False) * 180 + 16


def test_a_shard_is_bounded_in_bytes_however_many_rows_are_asked_for() -> None:
    job = make_job("cluster.shard_rows=100000", "audio.format=wav")
    limits = choose_limits(job, SMALL, ExpectedActors(gpus_each=1.0), 10**6, 10**7)
    assert limits.audio_s * 32000 * 2 <= MAX_BYTES


def test_a_shard_is_bounded_in_the_bytes_of_its_rows() -> None:
    table = pa.table({"duration_s": [1.0] * 100, "text": ["x" * 1000] * 99 + ["y" * 30_000]})
    shards = list(cut_tables([table.slice(0, 30), table.slice(30)], ShardLimits(50, 1000.0, row_bytes=20_000)))
    assert [shard.num_rows for shard in shards] == [19] * 5 + [4, 1]
    assert pa.concat_tables(shards).equals(table)
