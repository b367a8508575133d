"""Planning: new, made, failed and invalid rows are counted, and plans survive races and restarts."""

from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest

from musicgen.dataset import paths
from musicgen.errors import JobError, RowError, StoreError
from musicgen.plan import Plan, PlanOutcome, estimating, keyed_rows, pending_shards, read_shard
from musicgen.plan.spill import Spill
from musicgen.storage import open_store
from tests.fixtures.planning import (
    MELODY,
    SMALL,
    PlannedCheckpoint,
    make_missing_shards,
    make_shard,
    publish,
)

ROWS = "prompt,id,genre\none,a,rock\ntwo,b,jazz\nthree,c,\n"


def recorded_failures(output: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(output.glob("failures/*/plan.parquet")) for row in pq.read_table(path).to_pylist()]


def test_a_plan_holds_the_values_of_the_rows(submit, tmp_path: Path) -> None:
    outcome = submit(ROWS, "generation.duration_s=4", "generation.samples=2", "cluster.shard_rows=4")
    store = open_store(str(tmp_path / "out"))
    assert (outcome.new, outcome.made, outcome.shards, outcome.audio_s) == (6, 0, 2, 24.0)
    plan = Plan.from_json(store.read(paths.plan_file(outcome.plan.run)))
    assert plan == outcome.plan
    assert [plan.shard_rows(shard) for shard in plan.shards] == [4, 2]
    first, second = (read_shard(store, plan, shard) for shard in plan.shards)
    assert [(request.id, request.sample) for request in first.requests] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert first.sources[0] == f"{tmp_path}/m.csv:2"
    assert second.carried.to_pylist() == [{"genre": None}, {"genre": None}]
    for request, key in zip(first.requests, first.keys, strict=True):
        assert request.key(50.0, "0" * 64, {}) == key
    with pytest.raises(IndexError):
        read_shard(store, plan, 2)


def test_a_plan_names_a_checkpoint_without_its_folder(submit) -> None:
    plan = submit(ROWS, "model.name=/home/ann/models/night").plan
    assert "/home/ann" not in plan.to_json()
    assert (plan.model.name, plan.job["model"]["name"]) == ("night", "night")


def test_the_rows_of_a_manifest_are_not_mapped_into_memory(submit, monkeypatch: pytest.MonkeyPatch) -> None:
    read_batches, is_mapped = Spill.read_batches, []

    def read(spill: Spill):
        for item in read_batches(spill):
            is_mapped.append("rows-00000.arrow" in Path("/proc/self/maps").read_text())
            yield item

    monkeypatch.setattr(Spill, "read_batches", read)
    submit(ROWS)
    assert set(is_mapped) == {False}


def test_a_run_whose_driver_died_before_it_published_is_taken_up_again(submit, tmp_path: Path) -> None:
    outcome = submit(ROWS)
    make_missing_shards(outcome, tmp_path / "out")
    store = open_store(str(tmp_path / "out"))
    store.delete(paths.report_file(outcome.plan.run))
    again = submit(ROWS)
    assert (again.plan, again.new, again.shards, again.adopted) == (outcome.plan, 0, 0, True)
    publish(store, outcome.plan)
    assert submit(ROWS).plan is None


def test_nothing_is_made_twice(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_missing_shards(submit(ROWS), out)
    again = submit(ROWS)
    assert (again.plan, again.new, again.made) == (None, 0, 3)
    grown = submit("prompt,id,genre\nfour,d,pop\n" + ROWS.partition("\n")[2])
    assert (grown.new, grown.made) == (1, 3)
    assert [request.prompt for request in read_shard(open_store(str(out)), grown.plan, 0).requests] == ["four"]
    assert grown.plan.run.endswith("-1")


def test_an_unfinished_run_is_adopted_whatever_the_cluster(submit, tmp_path: Path) -> None:
    first = submit(ROWS, "cluster.shard_rows=1")
    store = open_store(str(tmp_path / "out"))
    make_shard(store, first.plan, 1)
    again = submit(ROWS, "cluster.shard_rows=3", "cluster.actors=4")
    assert again.adopted
    assert again.plan == first.plan
    assert (again.new, again.made, again.shards, again.audio_s) == (2, 1, 2, 20.0)
    assert pending_shards(store, again.plan) == [0, 2]


def test_failed_rows_are_tried_again_and_crashes_only_when_asked(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = {"one": RowError("crash", "killed its process"), "two": RowError("generation", "not finite")}
    first = submit(ROWS)
    make_missing_shards(first, out, broken)
    second = submit(ROWS)
    assert (second.new, second.made, second.failed_before, second.retried) == (0, 1, 2, 1)
    assert second.plan.run == first.plan.run[:-1] + "2"
    make_missing_shards(second, out, broken)
    third = submit(ROWS, retry_failed=("crash",))
    assert (third.failed_before, third.retried) == (2, 2)
    make_missing_shards(third, out, {"two": RowError("crash", "killed its process")})
    fourth = submit(ROWS)  # what counts is how a row failed last
    assert (fourth.plan, fourth.made, fourth.failed_before) == (None, 2, 1)


def test_rows_equal_in_content_are_one(submit, tmp_path: Path) -> None:
    outcome = submit("prompt,duration_s\nx,5\nx,5.0\ny,5\nx,5.001\n")
    assert (outcome.new, outcome.duplicates) == (2, 2)
    same = submit("prompt,id\nx,a\nx,b\nx,\n", output=str(tmp_path / "third"))
    assert same.new == 3


def test_rows_that_are_dropped_with_other_carried_values_are_counted(submit, tmp_path: Path) -> None:
    rows = "prompt,samples,genre\nx,2,rock\ny,1,pop\nx,2,rock\nx,2,jazz\ny,1,\ny,1,pop\n"
    outcome = submit(rows, dry_run=True)
    assert (outcome.new, outcome.duplicates, outcome.conflicting) == (3, 6, 3)
    objects = ['{"prompt": "x", "a": 1, "b": 2}', '{"b": 2, "prompt": "x", "a": 1}', '{"prompt": "x", "a": 1, "b": 3}']
    outcome = submit("\n".join(objects) + "\n", output=str(tmp_path / "json"))
    assert (outcome.new, outcome.duplicates, outcome.conflicting) == (1, 2, 1)
    assert submit("prompt\nx\nx\n", output=str(tmp_path / "bare")).conflicting == 0


def test_a_dry_run_writes_nothing_and_counts_the_same(submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "_measure_slowdown", lambda: 1.0)  # by what else runs at that moment
    preview = submit(ROWS + ",d,\n", "cluster.shard_rows=2", dry_run=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv"]
    real = submit(ROWS + ",d,\n", "cluster.shard_rows=2")
    for name in (
        "new",
        "made",
        "failed_before",
        "retried",
        "invalid_count",
        "invalid",
        "shards",
        "audio_s",
        "estimate",
    ):
        assert getattr(preview, name) == getattr(real, name), name
    assert preview.plan is None
    assert submit(ROWS + ",d,\n", dry_run=True).adopted


def test_invalid_rows_are_named_and_the_valid_ones_planned(submit, tmp_path: Path) -> None:
    bad = {
        3: (",b1,,,", "prompt is empty"),
        4: ("x,b2,-1,,", "duration_s is '-1'"),
        5: ("x,b3,abc,,", "duration_s is not a number"),
        6: ("x,b4,inf,,", "finite"),
        7: ("x,b5,9999,,", "at most 600"),
        8: ("x,b6,,two,", "samples is not a number"),
        9: ("x,b7,,,1.5", "seed is not a whole number"),
        10: ("x,b8,,", "4 cells, but the header has 5"),
        11: ('"x"y,b9,,,', "broken CSV"),
        12: ("x" * 9000 + ",b10,,,", "9000 characters"),
        13: ("\udcff,b11,,,", "UTF-8"),
    }
    lines = ["prompt,id,duration_s,samples,seed", "good,g1,,,", *(line for line, _ in bad.values()), "fine,g2,,,"]
    path = tmp_path / "m.csv"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    outcome = submit(path)
    assert (outcome.new, outcome.invalid_count) == (2, len(bad))
    assert [source for source, _ in outcome.invalid] == [f"{path}:{line}" for line in bad]
    for (_, reason), (_, expected) in zip(outcome.invalid, bad.values(), strict=True):
        assert expected in reason
    recorded = recorded_failures(tmp_path / "out")
    assert [row["source"] for row in recorded] == [source for source, _ in outcome.invalid]
    assert {row["error_class"] for row in recorded} == {"invalid"}
    assert {row["run"] for row in recorded} == {outcome.plan.run}
    assert recorded[1]["id"] == "b2"


def test_the_same_invalid_rows_do_not_make_another_run(submit, tmp_path: Path) -> None:
    bad = "prompt,id\n,a\n,b\n"
    first = submit(bad)
    assert (first.new, first.invalid_count, first.shards) == (0, 2, 0)
    assert len(recorded_failures(tmp_path / "out")) == 2
    store = open_store(str(tmp_path / "out"))
    assert submit(bad).plan == first.plan  # until a driver has published it
    publish(store, first.plan)
    assert submit(bad).plan is None
    another = submit(bad + ",c\n")
    assert another.plan is not None
    assert another.plan.run != first.plan.run
    publish(store, another.plan)
    assert submit(bad + ",c\n").plan is None


def test_two_different_unfinished_runs_are_refused(submit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = submit(ROWS, "cluster.shard_rows=1")
    make_shard(open_store(str(out)), first.plan, 0)
    other = ROWS + "four,d,\n"
    for dry_run in (True, False):
        with pytest.raises(
            JobError, match=f"run {first.plan.run}, of another job or manifest, is unfinished \\(missing: 2 of 3 shards"
        ):
            submit(other, dry_run=dry_run)
    closed = submit(other, "output.supersede_unfinished=true")
    assert (closed.new, closed.made) == (3, 1)
    make_missing_shards(closed, out)
    assert submit(other).plan is None
    assert submit(ROWS).becomes_current


def test_a_superseded_run_is_not_adopted_again(submit, tmp_path: Path) -> None:
    first = submit(ROWS)
    other = submit("prompt,id,genre\nx,y,\n", "output.supersede_unfinished=true")
    make_missing_shards(other, tmp_path / "out")
    again = submit(ROWS)
    assert not again.adopted
    assert again.plan.run == first.plan.run[:-1] + "2"


def test_another_model_salt_or_encoding_is_another_run(submit, tmp_path: Path) -> None:
    runs = {
        submit(ROWS, *overrides, output=str(tmp_path / name), checkpoint=checkpoint).plan.run
        for name, overrides, checkpoint in [
            ("plain", (), None),
            ("salt", ("generation.seed=1",), None),
            ("model", (), PlannedCheckpoint(identity="1" * 64)),
            ("format", ("audio.format=mp3",), None),
            ("again", ("cluster.actors=7", "audio.layout=webdataset"), None),
        ]
    }
    assert len(runs) == 4


def test_melodies_are_hashed_and_bad_ones_refused(submit, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    (tmp_path / "copy.wav").write_bytes(b"sound")
    text = "prompt,id,melody\nx,1,a.wav\nx,2,/etc/passwd\n,3,a.wav\nx,4,\nx,5,none.wav\n"
    outcome = submit(text, checkpoint=PlannedCheckpoint(MELODY))
    assert (outcome.new, outcome.invalid_count) == (3, 2)
    assert [row["error_class"] for row in recorded_failures(tmp_path / "out")] == ["melody", "invalid"]
    requests = read_shard(open_store(str(tmp_path / "out")), outcome.plan, 0).requests
    assert requests[0].melody == f"{tmp_path}/a.wav"
    assert requests[0].melody_sha256 == requests[1].melody_sha256
    assert requests[2].melody_sha256 is None
    make_missing_shards(outcome, tmp_path / "out")
    moved = submit(text.replace("a.wav", "copy.wav"), checkpoint=PlannedCheckpoint(MELODY))
    assert (moved.new, moved.made) == (0, 3)  # content counts, not the place
    refused = submit(
        "prompt,melody\nx,a.wav\n", output=str(tmp_path / "text-only"), checkpoint=PlannedCheckpoint(SMALL)
    )
    assert "musicgen-melody" in refused.invalid[0][1]


def test_a_clap_row_with_a_prompt_and_a_sound_is_refused_while_planning(submit, tmp_path: Path) -> None:
    (tmp_path / "rain.wav").write_bytes(b"never decoded here")
    rows = ['{"melody": "rain.wav"}', '{"prompt": "piano"}', '{"prompt": "piano", "melody": "rain.wav"}']
    clap = PlannedCheckpoint(replace(SMALL, text_encoder="clap"), name="my-clap")
    outcome = submit("\n".join(rows) + "\n", checkpoint=clap)
    assert (outcome.new, outcome.invalid_count) == (2, 1)
    (failure,) = recorded_failures(tmp_path / "out")
    assert failure["error_class"] == "invalid"
    assert "hears a prompt or a sound (melody), not both" in failure["error"]


def test_many_shards_are_many_files_and_the_limit_counts_rows(submit, tmp_path: Path) -> None:
    text = "prompt\n" + "".join(f"p{i}\n" for i in range(300))
    outcome = submit(text, "cluster.shard_rows=1", "manifest.limit=260")
    assert [part.row_groups for part in outcome.plan.parts] == [128, 128, 4]
    store = open_store(str(tmp_path / "out"))
    prompts = [read_shard(store, outcome.plan, shard).requests[0].prompt for shard in (0, 127, 128, 259)]
    assert prompts == ["p0", "p127", "p128", "p259"]


def test_a_row_of_many_samples_is_planned_in_pieces(submit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_rows, "PIECE_ROWS", 7)
    outcome = submit("prompt,samples,n\na,10,1\n,1,2\nb,10,3\n", dry_run=True)
    assert (outcome.new, outcome.invalid_count) == (20, 1)


def test_a_damaged_dataset_is_named_in_the_error(submit, tmp_path: Path) -> None:
    outcome = submit(ROWS)
    store = open_store(str(tmp_path / "out"))
    part = outcome.plan.parts[0].path
    store.write(part, b"PAR1")
    with pytest.raises(StoreError, match="damaged"):
        read_shard(store, outcome.plan, 0)
    store.delete(part)
    with pytest.raises(StoreError, match="gone"):
        read_shard(store, outcome.plan, 0)
    store.write(paths.plan_file(outcome.plan.run), b"{}")
    with pytest.raises(StoreError, match=r"plan\.json"):
        submit(ROWS)


def test_the_loser_of_a_race_adopts_the_winners_plan(submit, s3, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(ROWS)
    outcomes: list[PlanOutcome] = []
    drivers = [Thread(target=lambda: outcomes.append(submit(path, output=s3.uri))) for _ in range(4)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert len({outcome.plan.to_json() for outcome in outcomes}) == 1
    store = open_store(s3.uri)
    assert [info.path for info in store.list("runs")] == [
        paths.order_entry(1),
        outcomes[0].plan.parts[0].path,
        paths.plan_file(outcomes[0].plan.run),
        paths.manifest_rows(outcomes[0].plan.run),
    ]


def test_a_job_in_a_bucket_is_planned_adopted_and_retried(submit, s3, tmp_path: Path) -> None:
    store = open_store(s3.uri)
    store.write("in/m.csv", (ROWS + ",bad,\n").encode())
    manifest, output = f"{s3.uri}/in/*.csv", f"{s3.uri}/out"
    assert submit(manifest, output=output, dry_run=True).new == 3
    assert not list(store.list("out"))
    first = submit(manifest, "cluster.shard_rows=2", output=output)
    make_shard(open_store(output), first.plan, 0, {"one": RowError("generation", "not finite")})
    adopted = submit(manifest, output=output)
    assert (adopted.adopted, adopted.shards, adopted.made, adopted.failed_before) == (True, 1, 1, 1)
    make_missing_shards(adopted, output)
    retried = submit(manifest, output=output)
    assert (retried.new, retried.retried, retried.made) == (0, 1, 2)
    make_missing_shards(retried, output)
    assert submit(manifest, output=output).plan is None


def test_a_store_that_ignores_put_if_absent_is_refused_before_anything_is_written(
    submit, tmp_path: Path, monkeypatch
) -> None:
    from musicgen.storage.local import LocalStore

    def overwrite(self: LocalStore, path: str, data: bytes | Path) -> bool:
        self.write(path, data)
        return True

    monkeypatch.setattr(LocalStore, "put_if_absent", overwrite)
    with pytest.raises(StoreError, match="put-if-absent"):
        submit(ROWS)
    assert not (tmp_path / "out").exists()
