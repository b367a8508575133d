"""A clip that was removed is not planned again, by no job, and counted."""

from pathlib import Path

from musicgen.dataset.reader import open_dataset
from musicgen.dataset.removal import remove_clips
from musicgen.plan import pending_shards
from musicgen.storage import open_store
from tests.fixtures.planning import make_shard

from .conftest import Submit

ROWS = "prompt,id\none,a\ntwo,b\nthree,c\n"


def drive(outcome) -> None:
    store = open_store(outcome.plan.job["output"]["uri"])
    for shard in pending_shards(store, outcome.plan):
        make_shard(store, outcome.plan, shard)


def test_a_removed_clip_is_not_made_again(submit: Submit, tmp_path: Path):
    drive(submit(ROWS))
    dataset = open_dataset(str(tmp_path / "out"))
    remove_clips(dataset, ["b"])
    outcome = submit(ROWS)
    assert (outcome.plan, outcome.rows, outcome.made, outcome.removed) == (None, 0, 2, 1)
    outcome = submit(ROWS + "four,d\n")
    assert (outcome.rows, outcome.made, outcome.removed) == (1, 2, 1)
    drive(outcome)
    remove_clips(dataset, ["b"], undo=True)
    outcome = submit(ROWS + "four,d\n")
    assert (outcome.rows, outcome.made, outcome.removed) == (0, 4, 0)


def test_it_is_not_made_again_when_its_row_is_gone(submit: Submit, tmp_path: Path):
    drive(submit(ROWS, "cluster.shard_rows=1"))
    dataset = open_dataset(str(tmp_path / "out"))
    remove_clips(dataset, ["b"])
    for part in list(dataset.parts()):  # as a reader would find it that lists the index after `gc`
        if part.endswith("00001.parquet"):
            dataset.store.delete(part)
    outcome = submit(ROWS + "four,d\n", "output.supersede_unfinished=true", dry_run=True)
    assert (outcome.rows, outcome.removed) == (1, 1)


def test_the_current_rows_leave_it_out(submit: Submit, tmp_path: Path):
    drive(submit(ROWS))
    dataset = open_dataset(str(tmp_path / "out"))
    remove_clips(dataset, ["b"])
    current = dataset.current()
    assert current.to_arrow(["id"])["id"].to_pylist() == ["a", "c"]
    assert (len(current), current.count_asked()) == (2, 3)
