"""Each kind of damage is reported, and nothing else is."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import musicgen.dataset
from musicgen.dataset.key_index import KeyIndex
from musicgen.dataset.verification import verify_dataset
from musicgen.errors import RowError
from musicgen.storage import open_store
from musicgen.storage.parquet_writer import open_parquet_writer

from .conftest import Maker, shard_of

PART = "index/r1-1/part-00000.parquet"


def kinds(make: Maker, deep: bool = False) -> list[str]:
    return [fault.kind for fault in verify_dataset(musicgen.dataset.open_dataset(make.store.uri), deep).faults]


def edit(make: Maker, path: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite an index part with its footer kept."""
    full = make.store.join(path)
    table = pq.read_table(full)
    changed = change(table).replace_schema_metadata(table.schema.metadata)
    with open_parquet_writer(Path(full), changed.schema) as writer:
        writer.write_table(changed)


def set_column(name: str, values: list) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(
        table.column_names.index(name), name, pa.array(values, table.schema.field(name).type)
    )


def clip_paths(make: Maker) -> list[str]:
    return musicgen.dataset.open_dataset(make.store.uri).to_arrow(["audio"]).column("audio").to_pylist()


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
@pytest.mark.parametrize("format", ["flac", "wav", "ogg", "mp3"])
def test_a_sound_dataset_is_sound(make: Maker, layout: str, format: str):
    make = make.settings(layout=layout, format=format)
    make.shard(failing={0: RowError("generation", "no")}, channels=2, rows=2)
    report = verify_dataset(musicgen.dataset.open_dataset(make.store.uri), deep=True)
    assert report.faults == []
    assert (report.sound, report.parts, report.rows, report.failed, report.audio_s, report.orphans) == (
        True,
        1,
        1,
        1,
        0.5,
        0,
    )


def test_in_a_bucket_too(s3):
    make = Maker(open_store(s3.uri))
    make.shard()
    make.store.delete(clip_paths(make)[1])
    report = verify_dataset(musicgen.dataset.open_dataset(s3.uri))
    assert [(fault.kind, fault.location) for fault in report.faults] == [("missing", clip_paths(make)[1])]
    assert not report.sound


def test_missing_truncated_and_altered_audio(make: Maker):
    make.shard()
    missing, truncated, altered = clip_paths(make)
    data = make.store.read(altered)
    make.store.delete(missing)
    make.store.write(truncated, make.store.read(truncated)[:-1])
    make.store.write(altered, data[:-1] + bytes([data[-1] ^ 1]))
    faults = verify_dataset(musicgen.dataset.open_dataset(make.store.uri)).faults
    assert [(fault.kind, fault.location) for fault in faults] == [
        ("missing", missing),
        ("size", truncated),
        ("sha256", altered),
    ]


@pytest.mark.parametrize("layout", ["parquet", "webdataset"])
def test_altered_audio_in_the_other_layouts(make: Maker, layout: str):
    make = make.settings(layout=layout)
    make.shard()
    if layout == "webdataset":
        path = "audio/r1-1/part-00000-a0.tar"
        data = bytearray(make.store.read(path))
        data[600] ^= 1
        make.store.write(path, bytes(data))
    else:
        edit(make, PART, lambda t: set_column("audio_sha256", ["0" * 64, *t.column("audio_sha256").to_pylist()[1:]])(t))
    assert kinds(make) == ["sha256"]
    if layout == "webdataset":
        make.store.delete(path)
        assert kinds(make) == ["missing"] * 3


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("duration_s", [0.5, 0.5, 0.51], "duration"),
        ("sample_rate", [32000, 32000, 16000], "rate"),
        ("channels", [1, 1, 2], "channels"),
        ("pcm_sha256", None, "samples"),
    ],
)
def test_deep_finds_an_index_that_does_not_match_the_audio(make: Maker, column: str, values: list | None, kind: str):
    make.shard()
    edit(make, PART, lambda t: set_column(column, values or [*t.column(column).to_pylist()[:2], "0" * 64])(t))
    assert kinds(make) == []
    assert kind in kinds(make, deep=True)
    assert (
        len(
            {
                fault.location
                for fault in verify_dataset(musicgen.dataset.open_dataset(make.store.uri), deep=True).faults
            }
        )
        == 1
    )


def test_deep_finds_files_that_are_not_audio(make: Maker):
    make.shard()
    path, junk = clip_paths(make)[0], b"not audio"
    make.store.write(path, junk)
    edit(make, PART, lambda t: set_column("audio_bytes", [len(junk), *t.column("audio_bytes").to_pylist()[1:]])(t))
    digest = hashlib.sha256(junk).hexdigest()
    edit(make, PART, lambda t: set_column("audio_sha256", [digest, *t.column("audio_sha256").to_pylist()[1:]])(t))
    assert kinds(make) == []
    assert kinds(make, deep=True) == ["decode"]


def test_a_key_made_twice(make: Maker):
    make.shard("r1-1", 0)
    make.shard("r2-1", 0, rows_of=shard_of("r2-1", 0, 1, first=1))
    report = verify_dataset(musicgen.dataset.open_dataset(make.store.uri))
    assert [fault.kind for fault in report.faults] == ["duplicate"]
    assert "index/r2-1/part-00000.parquet" in str(report.faults[0])
    assert report.faults[0].location == shard_of("", 0, 1, first=1).keys[0]


def test_a_damaged_index_part(make: Maker):
    make.shard()
    make.shard(shard=1)
    make.store.write(PART, b"PAR1 but not really")
    report = verify_dataset(musicgen.dataset.open_dataset(make.store.uri))
    assert [(fault.kind, fault.location) for fault in report.faults] == [("index", PART)]
    assert report.rows == 3  # the other part was looked at all the same


def test_a_part_that_lost_rows_and_one_in_the_wrong_place(make: Maker):
    make.shard()
    edit(make, PART, lambda t: t.slice(1))
    assert kinds(make) == ["index"]
    make.shard(shard=1)
    make.store.write("index/r1-1/part-00007.parquet", make.store.read("index/r1-1/part-00001.parquet"))
    faults = verify_dataset(musicgen.dataset.open_dataset(make.store.uri)).faults
    assert any("it is the part of run r1-1, shard 1" in str(fault) for fault in faults)


def test_a_foreign_parquet_file_among_the_parts(make: Maker):
    make.shard()
    pq.write_table(pa.table({"x": [1]}), make.store.join("index/r1-1/part-00009.parquet"))
    assert set(kinds(make)) == {"index"}


def test_missing_failures_files(make: Maker):
    make.shard(failing={0: RowError("generation", "no")})
    make.store.delete("failures/r1-1/part-00000-a0.parquet")
    assert kinds(make) == ["failures"]


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", ""])
def test_a_forged_path_does_not_leave_the_dataset(make: Maker, path: str):
    make.shard()
    edit(make, PART, lambda t: set_column("audio", [path, *t.column("audio").to_pylist()[1:]])(t))
    faults = verify_dataset(musicgen.dataset.open_dataset(make.store.uri), deep=True).faults
    assert len(faults) == 1
    assert "not a path inside a store" in str(faults[0])


def test_objects_that_no_row_names_are_counted_and_are_no_fault(make: Maker):
    make.shard()
    make.store.write("audio/ab/orphan.flac", b"x")
    report = verify_dataset(musicgen.dataset.open_dataset(make.store.uri))
    assert (report.sound, report.orphans) == (True, 1)


def test_the_report_as_json(make: Maker):
    make.shard()
    seen: list[tuple[int, int | None]] = []
    make.store.delete(clip_paths(make)[0])
    report = verify_dataset(
        musicgen.dataset.open_dataset(make.store.uri), progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (3, 3)
    assert report.to_json()["faults"] == [
        {"kind": "missing", "where": clip_paths(make)[0], "what": "the audio object is missing"}
    ]
    assert report.to_json()["sound"] is False


def test_the_key_index_spills_and_counts(tmp_path: Path):
    with KeyIndex(tmp_path, memory="64MB") as key_index:
        for part in range(2):
            keys = [f"{part * 60_000 + i:064d}" for i in range(60_000)]
            key_index.add(keys, [f"audio/{key}" for key in keys], f"part-{part}", [1] * len(keys))
        key_index.add([f"{7:064d}"], [None], "part-9", [1])
        assert list(key_index.duplicates()) == [(f"{7:064d}", ["part-0", "part-9"])]
        assert key_index.orphans((f"audio/{i:064d}", 1) for i in range(119_998, 120_003)) == 3
