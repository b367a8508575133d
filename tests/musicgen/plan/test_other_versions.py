"""Plans of earlier and later releases: taken up, or named; never called damaged."""

import json
from pathlib import Path

import pytest

from musicgen.dataset import paths
from musicgen.dataset.reader import read_dataset
from musicgen.dataset.status import run_statuses
from musicgen.errors import JobError, StoreError
from musicgen.plan import PlanOutcome, pending_shards
from musicgen.storage import Store, open_store
from tests.fixtures.planning import make_shard

ROWS = "prompt,id\none,a\ntwo,b\nthree,c\n"
OTHER = "prompt,id\ntwo,b\nfive,e\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def rewrite_plan(store: Store, outcome: PlanOutcome, **changes: object) -> None:
    """Write a run's plan as another release would have; only ours knows the order of runs."""
    assert outcome.plan is not None
    document = json.loads(outcome.plan.to_json()) | changes
    if document["version"] == 1:
        del document["order"]
        store.delete(paths.order_entry(outcome.plan.order))
    store.write(paths.plan_file(outcome.plan.run), json.dumps(document).encode())


def test_the_run_of_an_earlier_release_goes_on(submit, store: Store) -> None:
    first = submit(ROWS, "cluster.shard_rows=1")
    rewrite_plan(store, first, version=1, from_the_future={"a": 1})
    make_shard(store, first.plan, 0)
    again = submit(ROWS)
    assert again.adopted
    assert again.plan.run == first.plan.run
    assert pending_shards(store, again.plan) == [1, 2]
    for shard in (1, 2):
        make_shard(store, again.plan, shard)
    grown = submit(ROWS + "four,d\n")
    assert (grown.new, grown.made, grown.plan.order) == (1, 3, 1)


def test_two_unfinished_runs_of_an_earlier_release_are_not_both_taken_up(submit, store: Store) -> None:
    first = submit(ROWS, "cluster.shard_rows=1")
    rewrite_plan(store, first, version=1)
    store.write(paths.superseded_note(first.plan.run), b"{}")
    second = submit(OTHER, "cluster.shard_rows=1", "output.supersede_unfinished=true")
    rewrite_plan(store, second, version=1)
    store.delete(paths.superseded_note(first.plan.run))  # as if both had been planned at one moment
    for info in list(store.list(paths.index_folder(first.plan.run))):
        store.delete(info.path)
    for rows, other in ((ROWS, second), (OTHER, first)):
        with pytest.raises(JobError, match=f"run {other.plan.run}, of another job or manifest, is unfinished"):
            submit(rows)
    together = submit(ROWS, "output.supersede_unfinished=true")
    assert not together.adopted
    for outcome in (first, second):
        assert pending_shards(store, outcome.plan) == []


def test_a_run_of_an_earlier_release_whose_rows_another_has_made_is_planned_anew(submit, store: Store) -> None:
    first = submit(ROWS, "cluster.shard_rows=1")
    rewrite_plan(store, first, version=1)
    plans = store.read(paths.plan_file(first.plan.run))
    store.delete(paths.plan_file(first.plan.run))  # both were planned at one moment
    second = submit(OTHER, "cluster.shard_rows=1")
    rewrite_plan(store, second, version=1)
    store.write(paths.plan_file(first.plan.run), plans)
    for shard in second.plan.shards:
        make_shard(store, second.plan, shard)
    again = submit(ROWS)
    assert (again.adopted, again.new, again.made) == (False, 2, 1)
    for shard in again.plan.shards:
        make_shard(store, again.plan, shard)
    keys = read_dataset(store).to_arrow(["key"])["key"].to_pylist()
    assert len(keys) == len(set(keys)) == 4


def test_a_finished_run_of_a_later_release_is_in_nobodys_way(submit, store: Store) -> None:
    first = submit(ROWS)
    make_shard(store, first.plan, 0)
    rewrite_plan(store, first, version=99, model="another form")
    assert submit(ROWS).plan is None
    grown = submit(ROWS + "four,d\n")
    assert (grown.new, grown.made) == (1, 3)
    status = run_statuses(read_dataset(store))
    assert sorted((run.planned, run.made, run.missing) for run in status) == [(1, 0, 1), (3, 3, 0)]


@pytest.mark.parametrize("rows", [ROWS, OTHER], ids=["own", "other"])
def test_an_unfinished_run_of_a_later_release_is_named_and_can_be_closed(submit, store: Store, rows: str) -> None:
    first = submit(ROWS, "cluster.shard_rows=1")
    rewrite_plan(store, first, version=99, parts=[{"path": "x", "shard_rows": [1, 1, 1], "rows": "another form"}])
    make_shard(store, first.plan, 0)
    with pytest.raises(
        JobError, match=rf"run {first.plan.run} was planned by a later release .*\(missing: 2 of 3 shards"
    ):
        submit(rows)
    closing = submit(rows, "output.supersede_unfinished=true")
    assert closing.new == 2
    assert pending_shards(store, first.plan) == []
    (old,) = (run for run in run_statuses(read_dataset(store)) if run.run == first.plan.run)
    assert (old.made, old.closed, old.closed_by) == (1, 2, closing.plan.run)


def test_the_plan_of_a_planner_that_was_killed_before_plan_json_counts(submit, store: Store) -> None:
    first = submit(ROWS)
    store.delete(paths.plan_file(first.plan.run))
    assert submit(ROWS, dry_run=True).adopted
    assert not store.exists(paths.plan_file(first.plan.run))
    with pytest.raises(JobError, match=f"run {first.plan.run}, of another job"):
        submit(OTHER)
    assert submit(ROWS).plan == first.plan
    assert store.exists(paths.plan_file(first.plan.run))


@pytest.mark.parametrize("with_plan", [True, False])
def test_a_run_whose_manifest_was_removed_is_planned_anew(submit, store: Store, with_plan: bool) -> None:
    first = submit(ROWS, "cluster.shard_rows=2")
    for part in first.plan.parts:
        store.delete(part.path)
    if not with_plan:
        store.delete(paths.plan_file(first.plan.run))
    again = submit(ROWS)
    assert (again.adopted, again.new, again.plan.order) == (False, 3, 2)


def test_a_damaged_plan_is_named(submit, store: Store) -> None:
    first = submit(ROWS)
    store.write(paths.plan_file(first.plan.run), b"{}")
    with pytest.raises(StoreError, match=r"plan\.json: it is damaged \(KeyError: 'parts'\); restore this file"):
        submit(ROWS)


def test_runs_without_their_order_are_followed_by_a_run_of_the_next_number(submit, store: Store) -> None:
    first = submit(ROWS)
    store.delete(paths.order_entry(1))  # a copy of the dataset that left the folder out
    make_shard(store, first.plan, 0)
    assert submit(ROWS + "four,d\n").plan.order == 2
