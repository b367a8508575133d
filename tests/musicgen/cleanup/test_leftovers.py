"""What killed processes have left is deleted; what a later commit can use, and other people's files, are not."""

from collections.abc import Callable

import fsspec
import pytest

from musicgen.cleanup.collection import collect_garbage, find_garbage
from musicgen.dataset import paths
from musicgen.dataset.gc_gate import find_gate, put_gate, release_gate
from musicgen.dataset.removal import remove_clips
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import JobError, StoreError
from musicgen.storage import Store
from tests.fixtures.watched_store import WatchedStore

from .conftest import GROWN, ROWS, Jobs, add_clips

HEX = "0123456789abcdef" * 2


def plant(store: Store, *names: str) -> list[str]:
    for name in names:
        store.write(name, b"left over")
    return sorted(names)


def test_only_what_no_commit_can_use_is_deleted(jobs: Jobs):
    plan = jobs.plan().plan
    jobs.drive(plan)
    run, key = plan.run, jobs.dataset.to_arrow(["key"])["key"][0].as_py()
    with jobs.writer(plan, 0, "lost") as writer:  # an attempt with other bits that comes too late, and is killed then
        add_clips(writer, failing=("quiet oboe",), seed=1)
        writer._discard_attempt = lambda failures: None
        assert not writer.commit().won
    lost = [info.path for name in ("audio", "failures") for info in jobs.store.list(name)]
    named = {row["audio"] for row in jobs.dataset.to_arrow(["audio"]).to_pylist() if jobs.layout != "parquet"}
    lost = sorted(path for path in lost if path not in named)
    assert len(lost) == (1 if jobs.layout == "parquet" else 2)
    planted = plant(
        jobs.store,
        paths.driver_token(run, "d1"),
        paths.manifest_part(run, HEX[:12], 0),
        f".probe-{HEX}",
    )
    (jobs.folder / "out" / "audio").mkdir(exist_ok=True)
    (jobs.folder / "out" / "audio" / f".tmp-{HEX}").write_bytes(b"half a file")
    theirs = jobs.folder / "out" / "mine" / f".tmp-{HEX}"
    theirs.parent.mkdir()
    theirs.write_bytes(b"in a folder that is not ours")
    kept = plant(
        jobs.store,
        paths.audio_file("f" * 64, "0" * 64, "flac"),  # of a clip that may be made yet
        paths.audio_tar("r000000000000-1", 0, "a0"),
        paths.manifest_part("r000000000000-1", HEX[:12], 0),  # of a planner that may live
    )
    foreign = plant(jobs.store, "audio/mine.flac", "audio/album/01.flac", "failures/notes.txt")
    others = plant(jobs.store, "notes.txt", "mine/notes.txt", "runs/mine.txt", f"audio/{key[:2]}x.flac")
    before = {info.path for info in jobs.store.list()}
    survey = find_garbage(jobs.dataset).survey
    assert {info.path for info in jobs.store.list()} == before
    expected = sorted([*lost, *planted, f"audio/.tmp-{HEX}"])
    assert sorted(leftover.path for leftover in survey.leftovers) == expected
    assert sorted(survey.kept) == kept
    assert sorted(survey.foreign) == sorted([*foreign, f"audio/{key[:2]}x.flac"])
    collect_garbage(jobs.dataset)
    assert find_garbage(jobs.dataset).survey.leftovers == []
    after = {info.path for info in jobs.store.list()}
    assert before - after == {*lost, *planted}
    assert after - before == {paths.gate(1), paths.released_gate(1)}
    assert {*kept, *foreign, *others} <= after
    assert theirs.exists()
    assert verify_dataset(jobs.dataset, deep=True).faults == []


def test_unfinished_uploads_are_aborted_but_those_of_others(s3, tmp_path):
    jobs = Jobs(tmp_path, f"{s3.uri}/set")
    jobs.drive(jobs.plan().plan)
    files = fsspec.filesystem("s3", **client_options(s3))
    bucket, _, prefix = jobs.output.removeprefix("s3://").partition("/")
    ours = [paths.audio_file("a" * 64, "0" * 64, "flac"), paths.index_part("r1-1", 0), "huggingface.parquet"]
    theirs = ["audio/ab/x.flac", "mine/big.bin"]
    for name in (*ours, *theirs):
        files.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}/{name}")
    files.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}-beside/audio/x.flac")
    assert sorted(write.path for write in jobs.store.list_unfinished_writes()) == sorted([*ours, *theirs])
    collect_garbage(jobs.dataset)
    assert sorted(write.path for write in jobs.store.list_unfinished_writes()) == theirs


def client_options(s3) -> dict[str, object]:
    return {"key": s3.access_key, "secret": s3.secret_key, "endpoint_url": s3.endpoint, "skip_instance_cache": True}


def test_an_unfinished_run_stops_gc_and_gc_stops_a_run(file_jobs: Jobs):
    jobs = file_jobs
    plan = jobs.plan().plan
    before = {info.path for info in jobs.store.list()}
    with pytest.raises(JobError, match=f"a run is unfinished \\({plan.run}\\)"):
        collect_garbage(jobs.dataset)
    assert find_gate(jobs.store) is None
    assert {info.path for info in jobs.store.list()} - before == {paths.gate(1), paths.released_gate(1)}
    gate = put_gate(jobs.store)
    assert gate.number == 2
    with pytest.raises(JobError, match="since 20"):
        put_gate(jobs.store)
    with pytest.raises(JobError, match=r"process \d+ on .*, since 20.*--release"):
        jobs.plan()  # the run is not adopted either
    assert jobs.plan(dry_run=True).adopted
    release_gate(jobs.store, gate)
    assert jobs.plan().adopted
    jobs.drive(plan)
    collect_garbage(jobs.dataset)


@pytest.mark.parametrize("kind", ["index", "failures"])
def test_a_damaged_or_lost_file_stops_gc_which_says_what_to_do(file_jobs: Jobs, kind: str):
    jobs = file_jobs
    jobs.drive(jobs.plan().plan, failing=("secret harp",))
    remove_clips(jobs.dataset, ["bert"])
    path = next(info.path for info in jobs.store.list(kind))
    content = jobs.store.read(path)
    before = {info.path for info in jobs.store.list(paths.AUDIO)}
    for damaged in (content[:-3], b"") if kind == "index" else (content[:-3],):
        jobs.store.write(path, damaged)
        with pytest.raises(StoreError, match=f"{path}.*cannot be read .*musicgen repair {jobs.output}"):
            collect_garbage(jobs.dataset)
        assert find_gate(jobs.store) is None
        assert {info.path for info in jobs.store.list(paths.AUDIO)} == before
    jobs.store.write(path, content)
    if kind == "index":
        jobs.store.delete(path)
        with pytest.raises(JobError, match=f"is unfinished .*musicgen repair {jobs.output}"):
            collect_garbage(jobs.dataset)
        jobs.store.write(path, content)
    assert collect_garbage(jobs.dataset).clips == 1


def test_a_repair_with_other_bits_and_gc_keep_each_other_out_and_runs_go_on(file_jobs: Jobs):
    file_jobs.drive(file_jobs.plan(ROWS).plan)
    gate = put_gate(file_jobs.store, "repair")
    file_jobs.drive(file_jobs.plan(GROWN).plan)
    with pytest.raises(JobError, match="`musicgen repair` is writing clips in the place of others"):
        collect_garbage(file_jobs.dataset)
    release_gate(file_jobs.store, gate)
    collect_garbage(file_jobs.dataset)


@pytest.mark.parametrize("path", [paths.order_entry(2), "plan.json"])
def test_whoever_is_later_sees_the_other(file_jobs: Jobs, path: str):
    jobs = file_jobs
    jobs.drive(jobs.plan(ROWS).plan)

    def put_gate_before(call: str, called: str) -> None:
        if call == "put_if_absent" and called.endswith(path) and find_gate(jobs.store) is None:
            put_gate(jobs.store)

    hook: Callable[[str, str], None] = put_gate_before
    with pytest.raises(JobError, match="`musicgen gc` is deleting"):
        jobs.plan(GROWN, WatchedStore.open_folder(jobs.folder / "out", hook))
    gate = find_gate(jobs.store)
    assert gate is not None
    release_gate(jobs.store, gate)
    with pytest.raises(JobError, match="a run is unfinished"):
        collect_garbage(jobs.dataset)
    jobs.drive(jobs.plan(GROWN).plan)
    assert len(jobs.dataset) == 5
