"""The commit: a shard that is interrupted leaves the dataset valid, and can be made again."""

import io
import json
import multiprocessing
import os
import signal
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import musicgen.dataset
from musicgen.dataset.index_part import read_footer
from musicgen.dataset.schema import FAILURES, index_schema
from musicgen.dataset.verification import verify_dataset
from musicgen.dataset.writer import ShardWriter
from musicgen.errors import RowError, StoreError
from musicgen.request import Request
from musicgen.storage import Store, open_store

from .conftest import CARRIED, FRAME_RATE, MODEL, Maker, clip_of, shard_of

LAYOUTS = ["files", "parquet", "webdataset"]
PART = "index/r1-1/part-00000.parquet"


def is_sound(make: Maker) -> bool:
    report = verify_dataset(musicgen.dataset.open_dataset(make.store.uri), deep=True)
    assert report.faults == []
    return report.sound


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shard_becomes_index_rows_with_their_audio(make_anywhere: Maker, layout: str):
    make = make_anywhere.settings(layout=layout)
    rows = shard_of("r1-1", 0, 4)
    committed = make.shard(rows_of=rows, failing={2: RowError("melody", "0 bytes")}, channels=2)
    assert (committed.won, committed.made, committed.failed, committed.audio_s) == (True, 3, 1, 1.5)

    dataset = musicgen.dataset.open_dataset(make.store.uri)
    table = dataset.to_arrow()
    assert table.schema == index_schema(layout, CARRIED)
    assert table.column("key").to_pylist() == [rows.keys[0], rows.keys[1], rows.keys[3]]
    assert table.column("caption_id").to_pylist() == [0, 1, 3]
    row = table.slice(1, 1).to_pylist()[0]
    wanted = {
        "id": "id1",
        "prompt": "prompt 1",
        "seed": 1,
        "frames": 25,
        "duration_s": 0.5,
        "sample_rate": 32000,
        "channels": 2,
    }
    wanted |= {
        "top_p": 0.5,
        "top_k": 250,
        "model": "musicgen-small",
        "model_revision": "abc123",
        "run": "r1-1",
        "shard": 0,
        "sample": 0,
    }
    wanted |= {"audio_format": "flac", "clipped": False, "silent": False, "tags": None, "manifest_model": "theirs"}
    assert {name: row[name] for name in wanted} == wanted
    for key, request in zip(table.column("key").to_pylist(), [rows.requests[i] for i in (0, 1, 3)], strict=True):
        audio, rate = dataset.audio(key)
        assert rate == 32000
        assert np.abs(audio - clip_of(request, 2).audio).max() < 1e-4

    failures = dataset.failures()
    assert failures.schema == FAILURES
    failed = failures.to_pylist()[0]
    assert (failed["key"], failed["source"], failed["error_class"]) == (rows.keys[2], "prompts.csv:4", "melody")
    assert (failed["error"], failed["attempts"], failed["shard"]) == ("0 bytes", 2, 0)
    assert is_sound(make)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shard_where_every_row_failed_commits_an_empty_typed_part(make: Maker, layout: str):
    make = make.settings(layout=layout)
    make.shard(failing=dict.fromkeys(range(3), RowError("generation", "no")))
    assert pq.read_table(make.store.join(PART)).schema.remove_metadata() == index_schema(layout, CARRIED)
    assert read_footer(make.store, PART).failed == 3
    assert [f.path for f in make.store.list("audio")] == []
    make.shard(shard=1)
    assert musicgen.dataset.open_dataset(make.store.uri).to_arrow().num_rows == 3
    assert is_sound(make)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_clips_are_equal_bytes_in_any_order_and_thread(tmp_path: Path, layout: str):
    digests = []
    for name, order in (("one", [0, 1, 2, 3]), ("two", [3, 1, 0, 2])):
        here = Maker(open_store(str(tmp_path / name))).settings(layout=layout)
        rows = shard_of("r1-1", 0, 4)
        with here.writer(attempt="a", rows=rows) as writer, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda p, w=writer, r=rows: w.add(p, clip_of(r.requests[p])), order))
            writer.commit()
        columns = ["key", "audio", "audio_sha256", "audio_offset"]
        audio = [(f.path, here.store.sha256(f.path)) for f in here.store.list("audio")]
        digests.append((musicgen.dataset.open_dataset(here.store.uri).to_arrow(columns).to_pylist(), audio))
    assert digests[0] == digests[1]


def test_a_webdataset_tar_is_one(make: Maker):
    make.settings(layout="webdataset").shard(attempt="a7")
    rows = musicgen.dataset.open_dataset(make.store.uri).to_arrow().to_pylist()
    data = make.store.read("audio/r1-1/part-00000-a7.tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == [f"{row['key']}.{kind}" for row in rows for kind in ("flac", "json")]
    for row in rows:
        assert data[row["audio_offset"] :][:4] == b"fLaC"


def test_large_shards_of_cells_are_split_into_row_groups(make: Maker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("musicgen.dataset.writer._ROW_GROUP_BYTES", 30_000)
    make.settings(layout="parquet").shard(rows=6)
    assert pq.read_metadata(make.store.join(PART)).num_row_groups == 3
    assert is_sound(make)


def test_codes_are_kept_on_request(make: Maker):
    rows = shard_of("r1-1", 0, 2)
    make.settings(codes=True).shard(rows_of=rows)
    codes = musicgen.dataset.open_dataset(make.store.uri).to_arrow(["codes"]).column("codes").to_pylist()
    assert np.array_equal(np.array(codes[1], np.int16), clip_of(rows.requests[1]).codes)
    assert len(codes[1][0]) == rows.requests[1].frames(FRAME_RATE)


def test_codes_wait_for_the_commit_as_bytes_and_not_as_objects(make: Maker):
    make = make.settings(codes=True)
    rows = shard_of("r1-1", 0, 40, duration_s=0.02)
    clips = [
        replace(clip_of(request), codes=np.random.default_rng(seed).integers(0, 2048, (4, 1500)).astype(np.int16))
        for seed, request in enumerate(rows.requests)
    ]
    with make.writer(rows=rows) as writer:
        writer.add(0, clips[0])  # imports what encoding needs
        tracemalloc.start()
        try:
            for position, clip in enumerate(clips[1:], 1):
                writer.add(position, clip)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held / 39 < 10_000  # beside the codes themselves; as lists they were 211,000 bytes a clip of 30 s
        writer.commit()
    codes = musicgen.dataset.open_dataset(make.store.uri).to_arrow(["codes"]).column("codes").to_pylist()
    assert codes == [clip.codes.tolist() for clip in clips]


def test_pages_have_checksums_by_which_readers_notice_damage(make: Maker):
    make.shard(failing={1: RowError("generation", "no")})
    for path in [file.path for file in make.store.list() if file.path.endswith(".parquet")]:
        content = bytearray(make.store.read(path))
        pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)
        column = pq.read_metadata(pa.BufferReader(bytes(content))).row_group(0).column(0)
        content[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 3] ^= 1
        with pytest.raises(OSError, match=r"CRC|checksum"):
            pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)


def test_a_row_that_is_neither_added_nor_failed_stops_the_commit(make: Maker):
    writer = make.writer()
    writer.add(0, clip_of(shard_of("r1-1", 0).requests[0]))
    with pytest.raises(RuntimeError, match="2 rows neither made nor failed, first at 1"):
        writer.commit()
    assert not make.store.exists(PART)


def test_a_clip_that_cannot_be_stored_is_a_failed_row(make: Maker):
    rows = shard_of("r1-1", 0, 1)
    with make.writer(rows=rows) as writer:
        clip = clip_of(rows.requests[0])
        clip.audio[0, 5] = np.nan
        with pytest.raises(RowError, match="NaN") as caught:
            writer.add(0, clip)
        writer.fail(0, caught.value)
        assert writer.commit().failed == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_attempt_that_comes_too_late_changes_nothing(make_anywhere: Maker, layout: str):
    make = make_anywhere.settings(layout=layout)
    rows = shard_of("r1-1", 0)
    zombie = make.writer(attempt="zombie", rows=rows)
    zombie.add(0, clip_of(rows.requests[0]))
    zombie.add(1, clip_of(rows.requests[1]))
    zombie.fail(2, RowError("generation", "it thought so"))
    assert make.shard(attempt="heir", rows_of=rows).won
    before = musicgen.dataset.open_dataset(make.store.uri).to_arrow()

    lost = zombie.commit()
    assert (lost.won, lost.made, lost.failed, lost.audio_s) == (False, 3, 0, 1.5)  # the winner's figures
    assert musicgen.dataset.open_dataset(make.store.uri).to_arrow().equals(before)
    assert not any("zombie" in f.path for f in make.store.list())
    assert is_sound(make)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_racing_attempts_commit_one_part(make: Maker, layout: str):
    make = make.settings(layout=layout)
    rows = shard_of("r1-1", 0)
    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(lambda i: make.shard(attempt=f"a{i}", rows_of=rows), range(6)))
    assert sum(outcome.won for outcome in outcomes) == 1
    winner = next(i for i, outcome in enumerate(outcomes) if outcome.won)
    assert read_footer(make.store, PART).attempt == f"a{winner}"
    assert is_sound(make)


def test_a_lost_reply_to_the_commit_is_resolved_by_the_footer(make_anywhere: Maker, monkeypatch: pytest.MonkeyPatch):
    make = make_anywhere
    rows = shard_of("r1-1", 0)
    kind = type(make.store)
    real = kind.put_if_absent

    def put_and_lose_the_reply(self: Store, path: str, data) -> bool:
        won = real(self, path, data)
        if path == PART:
            raise StoreError("no answer in time")
        return won

    writers = [make.writer(attempt=name, rows=rows) for name in ("first", "second")]
    for writer in writers:
        for position, request in enumerate(rows.requests):
            writer.add(position, clip_of(request))
    monkeypatch.setattr(kind, "put_if_absent", put_and_lose_the_reply)
    assert writers[0].commit().won
    assert not writers[1].commit().won
    assert is_sound(make)


def _make_and_die(uri: str, layout: str, when: str) -> None:
    """In a process of its own: make a shard and be killed at a given moment."""
    make = Maker(open_store(uri)).settings(layout=layout)
    rows = shard_of("r1-1", 0)
    kind = type(make.store)
    real = kind.put_if_absent

    def die(self, path, data):
        if path == PART:
            if when == "after the commit":
                real(self, path, data)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, path, data)

    kind.put_if_absent = die  # type: ignore[method-assign]
    with make.writer(attempt="killed", rows=rows) as writer:
        for position, request in enumerate(rows.requests):
            if when == "between clips" and position == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if position == 1:
                writer.fail(position, RowError("generation", "no"))
            else:
                writer.add(position, clip_of(request))
        writer.commit()


@pytest.mark.parametrize(
    ("layout", "when", "committed", "orphans"),
    [
        ("files", "between clips", False, 1),
        ("files", "before the commit", False, 2),
        ("webdataset", "before the commit", False, 1),
        ("files", "after the commit", True, 0),
    ],
)
def test_after_a_kill_at_any_moment_the_dataset_verifies_and_grows(
    make: Maker, layout: str, when: str, committed: bool, orphans: int
):
    process = multiprocessing.get_context("fork").Process(target=_make_and_die, args=(make.store.uri, layout, when))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    make = make.settings(layout=layout)
    assert make.store.exists(PART) is committed
    before = verify_dataset(musicgen.dataset.open_dataset(make.store.uri))
    assert before.sound
    assert before.rows == (2 if committed else 0)
    assert before.orphans == orphans

    again = make.shard(attempt="next", failing={1: RowError("generation", "no")})
    assert again.won is not committed
    assert (again.made, again.failed) == (2, 1)
    after = verify_dataset(musicgen.dataset.open_dataset(make.store.uri), deep=True)
    assert (after.sound, after.rows, after.failed) == (True, 2, 1)
    assert after.orphans == (1 if layout == "webdataset" else 0)  # the same clips took the same names


def test_the_columns_of_version_2_are_filled(make: Maker):
    requests = [
        Request(prompt="a", seed=1, duration_s=0.5, melody="m.wav", melody_sha256="1" * 64, stems=True),
        Request(prompt="b", seed=2, duration_s=0.5, continuation="c.wav", continuation_sha256="2" * 64, stems=True),
        Request(prompt="c", seed=3, duration_s=0.5, melody="m.wav", melody_sha256="1" * 64),
    ]
    rows = replace(shard_of("r1-1", 0), requests=requests)
    with make.writer(rows=rows) as writer:
        for position, request in enumerate(requests):
            writer.add(position, replace(clip_of(request), prompt_tokens=7 + position, prompt_unknown=position))
        writer.commit()
    columns = ["prompt_tokens", "prompt_unknown", "melody_sha256", "continuation_sha256", "stems", "family"]
    columns += ["negative_prompt", "steps"]
    table = musicgen.dataset.open_dataset(make.store.uri).to_arrow(columns).select(columns)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (7, 0, "1" * 64, None, "vocals+other", "musicgen", None, None),
        (8, 1, None, "2" * 64, None, "musicgen", None, None),
        (9, 2, "1" * 64, None, None, "musicgen", None, None),
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_of_version_1_gets_parts_of_version_1(make: Maker, layout: str):
    make = make.settings(layout=layout)
    carried = {field.name: str(field.type) for field in CARRIED}
    pinned = {"schema_version": 1, "layout": layout, "format": "flac", "codes": False, "carried": carried}
    make.store.write("dataset.json", json.dumps(pinned).encode())
    make.shard()
    make.shard(shard=1, failing=dict.fromkeys(range(3), RowError("generation", "no")))
    for shard in (0, 1):
        schema = pq.read_schema(make.store.join(f"index/r1-1/part-{shard:05d}.parquet"))
        assert schema.remove_metadata() == index_schema(layout, CARRIED, version=1)
    if layout == "webdataset":
        with tarfile.open(make.store.join(next(make.store.list("audio")).path)) as tar:
            members = [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]
        own = set(index_schema(version=1).names) - {"audio", "audio_offset", "created_at"}
        assert all(set(member) == own | set(CARRIED.names) for member in members)
    assert musicgen.dataset.open_dataset(make.store.uri).schema() == index_schema(layout, CARRIED, version=1)
    assert is_sound(make)


def test_a_flipped_bit_in_a_page_is_noticed(make: Maker):
    make.shard(failing={1: RowError("generation", "no")})
    for path in (PART, next(make.store.list("failures")).path):
        file = Path(make.store.join(path))
        column = pq.read_metadata(file).row_group(0).column(0)
        content = bytearray(file.read_bytes())
        content[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
        file.write_bytes(content)
        with pytest.raises(OSError, match="CRC"):
            pq.read_table(file, page_checksum_verification=True)


def test_a_shard_is_not_written_without_a_dataset(make: Maker):
    make.writer()
    make.store.delete("dataset.json")
    with pytest.raises(StoreError, match="is not a dataset"):
        ShardWriter(make.store, "r1-1", 0, "a0", shard_of("r1-1", 0), make.audio, MODEL, "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("/home/ada/models/tiny/", "tiny"), ("s3://bucket/a/tiny", "tiny"), ("owner/tiny", "owner/tiny")],
)
def test_the_index_names_a_model_without_its_folder(make: Maker, name: str, shown: str):
    rows = shard_of("r1-1", 0, 1)
    make.writer(rows=rows)
    model = replace(MODEL, name=name)
    with ShardWriter(make.store, "r1-1", 0, "a0", rows, make.audio, model, "torch 2") as writer:
        writer.add(0, clip_of(rows.requests[0]))
        writer.commit()
    assert musicgen.dataset.open_dataset(make.store.uri).to_arrow(["model"])["model"].to_pylist() == [shown]
