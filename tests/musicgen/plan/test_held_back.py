"""Which rows are tried again: those that fail each time, and those that are refused each time, are not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.errors import RowError
from musicgen.plan import PlanOutcome, pending_shards
from musicgen.storage import open_store
from tests.fixtures.planning import make_shard, publish

ROWS = "prompt,id\none,a\ntwo,b\n"


def fail(outcome: PlanOutcome, output: Path, **failing: str) -> None:
    """Make the planned shards; the prompts that are named fail with that class."""
    assert outcome.plan is not None
    store = open_store(str(output))
    errors = {prompt: RowError(kind, "as always") for prompt, kind in failing.items()}  # type: ignore[arg-type]
    for shard in pending_shards(store, outcome.plan):
        make_shard(store, outcome.plan, shard, errors)


@pytest.mark.parametrize("error_class", ["melody", "generation"])
def test_a_row_that_has_failed_in_three_runs_is_held_back(submit, tmp_path: Path, error_class: str) -> None:
    for run in range(3):
        outcome = submit(ROWS)
        assert (outcome.held_back, outcome.new + outcome.retried) == (0, 1 if run else 2)
        fail(outcome, tmp_path / "out", one=error_class)
    held = submit(ROWS)
    assert (held.plan, held.made, held.failed_before, held.retried) == (None, 1, 1, 0)
    assert held.held_back_classes == {error_class: 1}
    assert submit(ROWS, retry_failed=("crash",)).plan is None
    asked = submit(ROWS, retry_failed=(error_class,))
    assert (asked.retried, asked.held_back_classes) == (1, {})
    fail(asked, tmp_path / "out")
    assert submit(ROWS).made == 2


def test_a_row_that_failed_because_of_the_store_is_tried_again_each_time(submit, tmp_path: Path) -> None:
    for _ in range(5):
        fail(submit(ROWS), tmp_path / "out", one="storage")
    assert submit(ROWS).retried == 1


def test_the_latest_run_tells_how_a_row_failed_last_whatever_its_clock_said(submit, tmp_path: Path) -> None:
    fail(submit(ROWS), tmp_path / "out", one="crash")
    (part,) = (tmp_path / "out").glob("failures/*/*.parquet")
    table = pq.read_table(part)
    ahead = pa.array([4102444800000000], table.schema.field("created_at").type)  # its node's clock was in 2100
    pq.write_table(table.set_column(table.schema.get_field_index("created_at"), "created_at", ahead), part)
    assert submit(ROWS).held_back_classes == {"crash": 1}
    fail(submit(ROWS, retry_failed=("crash",)), tmp_path / "out", one="generation")
    assert submit(ROWS).retried == 1


def test_refused_rows_are_known_again_when_the_file_grows_at_its_top(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = "prompt,id,duration_s\n,x,\none,a,\ntwo,b,-1\n,,\n"
    fail(submit(bad), out)
    assert submit(bad).plan is None
    grown = bad.replace("\n", "\none,a2,\n", 1)
    fail(submit(grown), out)
    assert len(list(out.glob("failures/*/plan.parquet"))) == 2
    again = submit(grown.replace("\n", "\n\n", 1))  # every line has moved by one
    assert (again.plan, again.invalid_count) == (None, 3)
    one_more = submit(grown + ",,\n")  # equal to a row that was refused before, but one more of its kind
    assert (one_more.new, one_more.shards, one_more.invalid_count) == (0, 0, 4)
    publish(open_store(str(out)), one_more.plan)
    assert submit(grown + ",,\n").plan is None
