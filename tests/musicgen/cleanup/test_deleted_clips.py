"""After `gc` nothing is left of a removed clip, whatever was killed on the way, and all others are as they were."""

import shutil
from pathlib import Path

import pytest

from musicgen.cleanup.collection import collect_garbage, find_garbage
from musicgen.dataset import paths
from musicgen.dataset.card import publish_card
from musicgen.dataset.gc_gate import find_gate, refuse_gate, release_gate
from musicgen.dataset.page import PAGE_MARK
from musicgen.dataset.reader import Dataset
from musicgen.dataset.removal import remove_clips
from musicgen.dataset.status import run_statuses
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import JobError
from musicgen.own_checksum import check_parquet
from musicgen.repair import repair_dataset
from tests.fixtures.watched_store import WatchedStore

from .conftest import GROWN, Jobs, find_remains

LAYOUTS = ["files", "parquet", "webdataset"]


class Killed(BaseException):
    """The process ends at this call."""


def key_of(dataset: Dataset, id: str) -> str:
    rows = dataset.to_arrow(["key", "id"]).to_pylist()
    return next(row["key"] for row in rows if row["id"] == id)


def sounds_of(dataset: Dataset) -> dict[str, bytes]:
    return {key: dataset.audio_bytes(key) for key in dataset.to_arrow(["key"])["key"].to_pylist()}


def check_nothing_left(jobs: Jobs, *needles: bytes) -> None:
    dataset = jobs.dataset
    assert list(find_remains(jobs.store, *needles)) == []
    report = verify_dataset(dataset, deep=True)
    assert (report.faults, report.orphans) == ([], 0)
    for path in (info.path for info in jobs.store.list() if info.path.endswith(".parquet")):
        with jobs.store.open(path) as file:
            assert check_parquet(file) == "right", path
    outcome = jobs.plan(GROWN, dry_run=True)
    assert (outcome.rows, outcome.made, outcome.removed) == (0, 4, 1)


def make_dataset(jobs: Jobs) -> tuple[str, bytes]:
    """A dataset whose row `anna` failed in the first run and was made in the second; returns key and audio of it."""
    jobs.drive(jobs.plan().plan, failing=("secret harp",))
    jobs.drive(jobs.plan(GROWN).plan)
    key = key_of(jobs.dataset, "anna")
    return key, jobs.dataset.audio_bytes(key)


def check_deletion(jobs: Jobs) -> None:
    key, audio = make_dataset(jobs)
    jobs.store.write(paths.LISTEN, PAGE_MARK.encode() + key.encode() + b"secret harp")
    jobs.store.write(f"{paths.SPECTROGRAMS}/{key}.png", b"a picture")
    jobs.store.write(f"{paths.CLIPS}/{key}.flac", audio)
    runs = {row["key"]: row["run"] for row in jobs.dataset.to_arrow(["key", "run"]).to_pylist()}
    jobs.store.write(paths.run_page(runs[key]), key.encode() + audio)
    kept = {other: sound for other, sound in sounds_of(jobs.dataset).items() if other != key}
    assert list(find_remains(jobs.store, audio)) != []
    remove_clips(jobs.dataset, ["anna"])
    assert find_garbage(jobs.dataset).clips == 1
    report = collect_garbage(jobs.dataset)
    assert (report.clips, report.rows, report.purged, report.failed) == (1, 1, 1, [])
    assert not jobs.store.exists(paths.run_page(runs[key]))
    assert sounds_of(jobs.dataset) == kept
    remains = list(find_remains(jobs.store, audio, b"secret harp", b"anna"))
    assert [path for path in remains if not paths.parse_manifest_part(path)] == []
    assert len(remains) == 2, "the manifests of both runs, as docs/commit.md says"
    assert collect_garbage(jobs.dataset, purge_prompts=True).purged == 2
    check_nothing_left(jobs, audio, b"secret harp", b"anna", b"mine")
    assert sounds_of(jobs.dataset) == kept
    assert remove_clips(jobs.dataset, [key], undo=True).too_late == [key]
    assert [(run.made, run.removed, run.hidden, run.missing) for run in run_statuses(jobs.dataset)].count(
        (1, 1, 0, 0)
    ) == 1
    again = collect_garbage(jobs.dataset, purge_prompts=True)
    assert (again.clips, again.purged, again.survey.leftovers) == (0, 0, [])


def test_nothing_is_left_of_a_removed_clip(jobs: Jobs):
    check_deletion(jobs)


@pytest.mark.parametrize(
    "layout", ["webdataset", *(pytest.param(n, marks=pytest.mark.slow) for n in ("files", "parquet"))]
)
def test_nor_in_a_bucket(s3, tmp_path: Path, layout: str):
    check_deletion(Jobs(tmp_path, s3.uri, layout))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("layout", "stride"), [("webdataset", 8), *(pytest.param(n, 1, marks=pytest.mark.slow) for n in LAYOUTS)]
)
def test_a_gc_that_is_killed_at_any_step_harms_nothing_and_can_be_done_again(layout: str, stride: int, tmp_path: Path):
    jobs = Jobs(tmp_path, str(tmp_path / "out"), layout)
    key, audio = make_dataset(jobs)
    remove_clips(jobs.dataset, [key])
    publish_card(jobs.dataset)
    kept = sounds_of(jobs.dataset)
    whole, steps = Path(jobs.output), 0
    while True:
        folder = Path(shutil.copytree(whole, tmp_path / f"killed-{steps}"))
        left = steps

        def kill(call: str, path: str) -> None:
            nonlocal left
            if call in ("write", "put_if_absent", "replace_if_match", "delete"):
                left -= 1
            if left < 0:
                raise Killed

        store, survived = WatchedStore.open_folder(folder, kill), True
        try:
            collect_garbage(Dataset(store, jobs.dataset.info), purge_prompts=True)
        except Killed:
            survived = False
        killed = Jobs(tmp_path, str(folder), jobs.layout)
        assert verify_dataset(killed.dataset, deep=True).faults == []
        assert sounds_of(killed.dataset) == kept
        gate = find_gate(killed.store)
        assert survived <= (gate is None)
        if gate is not None:
            with pytest.raises(JobError, match=r"`musicgen gc` is deleting .* since 20.* --release"):
                killed.plan(GROWN)
            release_gate(killed.store, gate)
        refuse_gate(killed.store)
        outcome = killed.plan(GROWN, dry_run=True)
        assert (outcome.rows, outcome.removed) == (0, 1)
        collect_garbage(killed.dataset, purge_prompts=True)
        check_nothing_left(killed, audio, b"secret harp", b"anna", b"mine")
        shutil.rmtree(folder)
        if survived:
            break
        steps += stride
    assert steps > 15


def test_a_deleted_clip_whose_entries_are_lost_is_not_made_again(file_jobs: Jobs):
    jobs = file_jobs
    jobs.drive(jobs.plan().plan)
    remove_clips(jobs.dataset, ["anna"])
    collect_garbage(jobs.dataset, purge_prompts=True)
    entries = {info.path for info in jobs.store.list(paths.REMOVED)}
    for path in entries:
        jobs.store.delete(path)
    publish_card(jobs.dataset)
    assert [fault.kind for fault in verify_dataset(jobs.dataset, deep=True).faults] == ["removed"]
    report = repair_dataset(jobs.dataset)
    assert str(report.mendings[0]) == f"{next(jobs.dataset.parts())}: 1 clips marked as deleted again"
    assert {info.path for info in jobs.store.list(paths.REMOVED)} < entries
    assert verify_dataset(jobs.dataset, deep=True).faults == []
    assert jobs.plan(dry_run=True).removed == 1
