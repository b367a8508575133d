"""Invalid rows: one hash recognizes a row in the plan that refuses it and in `failures/` of an earlier one."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.refused_rows import hash_refused_row, hash_refused_rows
from musicgen.plan.invalid_rows import InvalidRow, build_invalid_table, build_known_table, write_invalid_rows
from musicgen.run_plan import Plan
from musicgen.shard import PlannedModel
from musicgen.storage import open_store

ROWS = [
    InvalidRow(2, "m.csv:2", "a", "piano", "invalid", "duration_s is '-1'; it must be more than 0"),
    InvalidRow(3, "m.csv:3", None, None, "invalid", "the row is not valid UTF-8"),
    InvalidRow(4, "m.csv:4", "c", "", "melody", ""),
]

PLAN = Plan("r1-1", 1, {}, PlannedModel("m", None, "0" * 64, 50.0), "auto", "", (), 0, 0.0, 0.0, 3)


def test_the_hash_is_of_what_was_refused_and_why() -> None:
    hashes = {
        hash_refused_row("a", "piano", "invalid", "too long"),
        hash_refused_row("b", "piano", "invalid", "too long"),
        hash_refused_row(None, "piano", "invalid", "too long"),
        hash_refused_row("a", None, "invalid", "too long"),
        hash_refused_row("a", "piano", "melody", "too long"),
        hash_refused_row("a", "piano", "invalid", None),
    }
    assert len(hashes) == 6


def test_rows_written_to_failures_are_recognized(tmp_path: Path) -> None:
    spilled = build_invalid_table(ROWS)
    pq.write_table(spilled, tmp_path / "invalid.parquet")
    store = open_store(str(tmp_path / "out"))
    write_invalid_rows(store, PLAN, tmp_path / "invalid.parquet", tmp_path)
    with store.open(paths.plan_failures("r1-1")) as file:
        failures: pa.Table = pq.read_table(file)
    known = build_known_table(hash_refused_rows(failures), 7)
    assert known.column_names == ["part", "h1", "h2"]
    assert known.drop_columns(["part"]).to_pylist() == spilled.select(["h1", "h2"]).to_pylist()
    assert failures["error"].to_pylist() == [row.reason for row in ROWS]
    assert failures["run"].to_pylist() == ["r1-1"] * 3


def test_failures_that_exist_are_not_written_again(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    store.write(paths.plan_failures("r1-1"), b"of the driver that planned the run")
    write_invalid_rows(store, PLAN, tmp_path / "absent.parquet", tmp_path)
    assert store.read(paths.plan_failures("r1-1")) == b"of the driver that planned the run"
