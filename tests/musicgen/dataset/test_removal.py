"""A removed clip is in no result of our readers, until its removal is undone."""

import pytest

import musicgen.dataset
from musicgen.dataset import paths
from musicgen.dataset.card import publish_card
from musicgen.dataset.clip_selection import select_clips
from musicgen.dataset.missing_audio import find_missing_audio
from musicgen.dataset.reader import Dataset
from musicgen.dataset.removal import remove_clips
from musicgen.dataset.status import run_statuses
from musicgen.dataset.tombstones import ClipPlace, LastEntry, mark_deleted, put_entry, read_tombstones
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import JobError, RowError, StoreError

from .conftest import Maker

LAYOUTS = ["files", "parquet", "webdataset"]


def open_made(make: Maker) -> tuple[Dataset, list[str]]:
    """The dataset and the keys of its index, as they stand in the parts."""
    dataset = musicgen.dataset.open_dataset(make.store.uri)
    return dataset, dataset.to_arrow(["key"])["key"].to_pylist()


def keys_of(dataset: Dataset) -> list[str]:
    return dataset.to_arrow(["key"])["key"].to_pylist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_reader_leaves_a_removed_clip_out(make: Maker, layout: str):
    make = make.settings(layout=layout)
    make.shard()
    make.shard(shard=1)
    dataset, keys = open_made(make)
    before = dataset.fingerprint()
    gone = [keys[1], keys[4]]
    assert remove_clips(dataset, gone).changed == gone
    kept = [key for key in keys if key not in gone]
    assert keys_of(dataset) == kept
    assert len(dataset) == 4
    assert [key for batch in dataset.batches() for key in batch["key"].to_pylist()] == kept
    assert [row for batch in dataset.batches(["prompt"]) for row in batch.to_pylist()] == [
        {"prompt": f"prompt {position}"} for position in (0, 2, 3, 5)
    ]
    assert {clip.row["key"] for clip in select_clips(dataset, 100)} == set(kept)
    assert {clip.row["key"] for clip in select_clips(dataset, 100, "duration_s > 0")} == set(kept)
    assert dataset.to_huggingface().num_rows == 4
    with pytest.raises(KeyError):
        dataset.audio(gone[0])
    dataset.audio(kept[0])
    assert dataset.fingerprint() != before
    assert find_missing_audio(dataset) == []
    (status,) = run_statuses(dataset)
    assert (status.planned, status.made, status.removed, status.hidden, status.missing) == (6, 4, 2, 2, 0)
    assert status.audio_s == 2.0
    report = verify_dataset(dataset, deep=True)
    assert report.faults == []
    assert report.orphans == 0


def test_the_card_and_its_table_leave_it_out_and_say_how_many(make_anywhere: Maker):
    make = make_anywhere
    make.shard()
    dataset, keys = open_made(make)
    assert "not counted here" not in publish_card(dataset).text
    remove_clips(dataset, keys[:1])
    text = publish_card(dataset).text
    assert text.count("1 more clip is removed, and not counted here") == 1
    assert "2 clips" in text
    assert keys[0].encode() not in make.store.read(paths.HUGGINGFACE_COPY)
    remove_clips(dataset, keys[:1], undo=True)
    assert "removed" not in publish_card(dataset).text
    assert keys_of(dataset) == keys


def test_an_id_stands_for_its_row_and_a_condition_for_what_it_holds_for(make: Maker):
    make.shard()
    make.shard(shard=1)
    dataset, keys = open_made(make)
    report = remove_clips(dataset, ["id1", "nobody"], "seed = 4 or caption_id = 5", dry_run=True)
    assert (report.changed, report.unknown) == ([keys[1], keys[4], keys[5]], ["nobody"])
    assert len(dataset) == 6
    remove_clips(dataset, ["id1"], "seed = 4 or caption_id = 5")
    assert keys_of(dataset) == [keys[0], keys[2], keys[3]]
    again = remove_clips(dataset, ["id1"], "seed = 4")
    assert (again.changed, again.unchanged) == ([], 2)
    assert remove_clips(dataset, where="true", undo=True).changed == [keys[1], keys[4], keys[5]]
    assert keys_of(dataset) == keys
    with pytest.raises(JobError, match="is no condition on the clips"):
        remove_clips(dataset, where="nonsense > 3")


def test_of_an_undo_and_a_deletion_one_is_too_late(make: Maker):
    make.shard()
    dataset, keys = open_made(make)
    remove_clips(dataset, keys)
    deleting, restored, deleted = (ClipPlace(key, "r1-1", 0) for key in keys)
    assert put_entry(make.store, deleting, LastEntry(1, "removed"), "deleting")
    assert not put_entry(make.store, deleting, LastEntry(1, "removed"), "undone")
    assert put_entry(make.store, deleted, LastEntry(1, "removed"), "deleting")
    mark_deleted(make.store, [deleted])
    report = remove_clips(dataset, keys, undo=True)
    assert (report.changed, report.too_late) == ([restored.key], [deleting.key, deleted.key])
    assert not put_entry(make.store, restored, LastEntry(1, "removed"), "deleting")
    assert keys_of(dataset) == [restored.key]
    remove_clips(dataset, [restored.key])
    assert keys_of(dataset) == []
    states = {place.key: entry.state for place, entry in read_tombstones(make.store)}
    assert states == {deleting.key: "deleting", restored.key: "removed", deleted.key: "deleted"}


def test_a_failure_of_a_removed_clip_is_shown_no_more(make: Maker):
    make.shard(run="r1-1", failing={0: RowError("generation", "no")})
    make.shard(run="r1-2", rows=1)
    dataset, keys = open_made(make)
    assert dataset.failures(all=True).num_rows == 1
    remove_clips(dataset, [keys[-1]])
    assert dataset.failures(all=True).num_rows == 0


def test_a_store_that_cannot_replace_objects_refuses(make: Maker, monkeypatch: pytest.MonkeyPatch):
    make.shard()
    dataset, keys = open_made(make)
    monkeypatch.setattr(type(make.store), "replace_if_match", lambda *_: True)
    with pytest.raises(StoreError, match="If-Match"):
        remove_clips(dataset, keys)
    assert keys_of(dataset) == keys
