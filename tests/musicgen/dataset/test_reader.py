"""Reading a dataset with our reader and with other Parquet readers."""

import io
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import soundfile

import musicgen.dataset
from musicgen.dataset.schema import FAILURES
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import RowError, StoreError

from .conftest import Maker, plan_of, shard_of

LAYOUTS = ["files", "parquet", "webdataset"]


def two_runs(make: Maker) -> Maker:
    """Two runs: five clips and a failure, then two clips; one shard made nothing."""
    make.shard("r1-1", 0, failing={1: RowError("generation", "no")})
    make.shard("r1-1", 1)
    make.shard("r1-1", 2, failing=dict.fromkeys(range(3), RowError("crash", "no")))
    make.shard("r2-1", 0, rows_of=shard_of("r2-1", 0, 2, first=100))
    return make


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_parquet_reader_reads_the_index(make: Maker, layout: str):
    folder = two_runs(make.settings(layout=layout)).store.uri
    keys = set(musicgen.dataset.open_dataset(folder).to_arrow(["key"]).column("key").to_pylist())
    assert len(keys) == 7
    query = f"SELECT key, caption_id, duration_s FROM read_parquet('{folder}/index/**/*.parquet')"
    assert {row[0] for row in duckdb.sql(query).fetchall()} == keys
    assert set(pd.read_parquet(f"{folder}/index")["key"]) == keys
    assert set(pads.dataset(f"{folder}/index").to_table(["key"]).column("key").to_pylist()) == keys


def test_duckdb_and_soundfile_alone_read_the_audio(make: Maker):
    folder = two_runs(make.settings(layout="webdataset")).store.uri
    path, offset, size = duckdb.sql(
        f"SELECT audio, audio_offset, audio_bytes FROM '{folder}/index/**/*.parquet' LIMIT 1"
    ).fetchall()[0]
    with Path(folder, path).open("rb") as tar:
        tar.seek(offset)
        assert soundfile.info(io.BytesIO(tar.read(size))).duration == 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reader_returns_rows_and_audio(make_anywhere: Maker, layout: str):
    dataset = musicgen.dataset.open_dataset(two_runs(make_anywhere.settings(layout=layout)).store.uri)
    assert dataset.runs() == ["r1-1", "r2-1"]
    assert len(dataset) == dataset.to_arrow().num_rows == sum(b.num_rows for b in dataset.batches(["key"])) == 7
    assert dataset.run("r2-1").to_arrow(["prompt"]).column("prompt").to_pylist() == ["prompt 100", "prompt 101"]
    assert dataset.failures().num_rows == 4
    assert dataset.run("r2-1").failures().num_rows == 0
    key = dataset.to_arrow(["key"]).column("key")[6].as_py()
    audio, rate = dataset.audio(key)
    assert (audio.shape, audio.dtype, rate) == ((1, 16000), np.float32, 32000)
    row = dataset.to_arrow(["audio", "audio_offset", "audio_bytes"]).to_pylist()[6]
    assert np.array_equal(dataset.audio(row)[0], audio)
    with pytest.raises(KeyError):
        dataset.audio("0" * 64)
    with pytest.raises(KeyError, match="r1-1, r2-1"):
        dataset.run("r9-1")


def test_a_part_with_more_columns_is_read_with_the_others(make: Maker):
    """Such as a later release may write into a dataset of its own schema version."""
    make.shard()
    make.shard(shard=1)
    part = Path(make.store.join("index/r1-1/part-00001.parquet"))
    table = pq.read_table(part)
    pq.write_table(table.append_column("score", pa.array([0.5, 0.25, 0.75])), part)
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    assert dataset.to_arrow().column("score").to_pylist() == [None, None, None, 0.5, 0.25, 0.75]
    assert dataset.to_arrow(["key", "score"]).num_rows == 6
    assert verify_dataset(dataset).sound


def test_rows_refused_while_planning_are_among_the_failures(make: Maker):
    make.shard()
    sink = pa.BufferOutputStream()
    refused = {"key": None, "source": "prompts.csv:7", "error_class": "invalid", "error": "no prompt", "run": "r1-1"}
    pq.write_table(pa.Table.from_pylist([refused], schema=FAILURES), sink)
    make.store.write("failures/r1-1/plan.parquet", sink.getvalue().to_pybytes())
    assert musicgen.dataset.open_dataset(make.store.uri).failures().column("source").to_pylist() == ["prompts.csv:7"]


def test_a_dataset_without_rows_has_its_columns(make: Maker):
    make.writer().close()
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    table = dataset.to_arrow()
    assert table.num_rows == 0
    assert {"key", "caption_id"} <= set(table.column_names)
    assert dataset.failures().num_rows == len(dataset) == 0


def test_a_folder_without_a_dataset_is_an_error(tmp_path):
    with pytest.raises(StoreError, match=r"is not a dataset .*dataset\.json"):
        musicgen.dataset.open_dataset(str(tmp_path))


def write_refused(make: Maker, run: str, sources: list[str], manifest: str, created_at: str) -> None:
    """A planned run of a manifest with rows that it refused."""
    plan = replace(plan_of(run, rows=3, shard_rows=[[3]]), job={"manifest": {"uri": manifest}}, created_at=created_at)
    make.store.write(f"runs/{run}/plan.json", plan.to_json().encode())
    rows = [{"source": source, "error_class": "invalid", "error": "no prompt", "run": run} for source in sources]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=FAILURES), sink)
    make.store.write(f"failures/{run}/plan.parquet", sink.getvalue().to_pybytes())


def test_failures_are_those_that_are_still_open(make: Maker):
    rows, again = shard_of("r1-1", 0, 4), shard_of("r2-1", 0, 2)
    failing = {0: RowError("generation", "first"), 1: RowError("generation", "first"), 2: RowError("crash", "first")}
    make.shard("r1-1", 0, rows_of=rows, failing=failing)
    make.shard("r2-1", 0, rows_of=again, failing={1: RowError("generation", "again")})  # row 0 is made now
    write_refused(make, "r1-1", ["a.csv:2", "a.csv:3"], "a.csv", "2026-01-01T00:00:00.000+00:00")
    write_refused(make, "r2-1", ["a.csv:3"], "a.csv", "2026-01-02T00:00:00.000+00:00")
    write_refused(make, "r3-1", ["b.csv:9"], "b.csv", "2026-01-01T12:00:00.000+00:00")
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    opened = {(row["prompt"] or row["source"], row["error"]) for row in dataset.failures().to_pylist()}
    assert opened == {
        (rows.requests[1].prompt, "again"),
        (rows.requests[2].prompt, "first"),
        ("a.csv:3", "no prompt"),
        ("b.csv:9", "no prompt"),
    }
    assert dataset.failures(all=True).num_rows == 3 + 1 + 2 + 1 + 1
    assert dataset.run("r1-1").failures().num_rows == 5
    make.store.delete("runs/r1-1/plan.json")  # nobody knows whether its rows were looked at again
    assert "a.csv:2" in dataset.failures()["source"].to_pylist()
