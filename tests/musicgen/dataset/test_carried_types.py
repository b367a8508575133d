"""Carried columns of every type, read back from each layout and size of dataset by clients that we did not write."""

import json
import os
import subprocess
import sys
import tarfile
import uuid
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import musicgen.dataset
from musicgen.dataset import huggingface_table
from musicgen.dataset.card import publish_card
from musicgen.manifest.json_columns import json_type, to_json_table
from musicgen.storage import open_store

from .conftest import Maker, shard_of

STAND_IN = Path(__file__).with_name("torchcodec_stand_in")
INSTANT = datetime(2024, 2, 29, 23, 30, 0, 123456, tzinfo=UTC)
YEAR_10_000 = 253_402_300_800


class Case(NamedTuple):
    """A column of three values, the last of which is null, and the values in JSON."""

    column: pa.Array
    in_json: list[object]


def uuids(*values: uuid.UUID | None) -> pa.Array:
    storage = pa.array([None if value is None else value.bytes for value in values], pa.binary(16))
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def struct_of(**fields: pa.DataType) -> pa.DataType:
    return pa.struct(list(fields.items()))


CASES = {
    "struct": Case(
        pa.array(
            [{"bpm": 90, "key": "Am"}, {"bpm": None, "key": '"'}, None], struct_of(bpm=pa.int32(), key=pa.string())
        ),
        [{"bpm": 90, "key": "Am"}, {"bpm": None, "key": '"'}, None],
    ),
    "struct_deep": Case(
        pa.array([{"a": {"t": INSTANT}}, {"a": None}, None], struct_of(a=struct_of(t=pa.timestamp("ms", "UTC")))),
        [{"a": {"t": "2024-02-29T23:30:00.123+00:00"}}, {"a": None}, None],
    ),
    "list_of_structs": Case(
        pa.array([[{"b": b"\x00\xff"}, None], [], None], pa.list_(struct_of(b=pa.binary()))),
        [[{"b": "AP8="}, None], [], None],
    ),
    "list_of_lists": Case(
        pa.array([[[1, 2], None], [], None], pa.list_(pa.list_(pa.int32()))), [[[1, 2], None], [], None]
    ),
    "large_list": Case(pa.array([["ä"], [None], None], pa.large_list(pa.large_string())), [["ä"], [None], None]),
    "fixed_list": Case(
        pa.array([[1.5, 2], [float("nan"), 0], None], pa.list_(pa.float64(), 2)), [[1.5, 2], [None, 0], None]
    ),
    "map": Case(
        pa.array([[("a", 1), ("b", None)], [], None], pa.map_(pa.string(), pa.int32())),
        [[{"key": "a", "value": 1}, {"key": "b", "value": None}], [], None],
    ),
    "map_of_numbers": Case(
        pa.array([[(7, [b"x"])], [], None], pa.map_(pa.int64(), pa.list_(pa.binary()))),
        [[{"key": 7, "value": ["eA=="]}], [], None],
    ),
    "binary": Case(pa.array([b"\x00\xff", b"text", None], pa.binary()), ["AP8=", "dGV4dA==", None]),
    "fixed_binary": Case(pa.array([b"ab", b"\xff\xff", None], pa.binary(2)), ["YWI=", "//8=", None]),
    "zone_utc": Case(
        pa.array([INSTANT, datetime(1, 1, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
        ["2024-02-29T23:30:00.123456+00:00", "0001-01-01T00:00:00.000000+00:00", None],
    ),
    "zone_berlin": Case(
        pa.array([1_719_835_200_000, 0, None], pa.timestamp("ms", "Europe/Berlin")),
        ["2024-07-01T14:00:00.000+02:00", "1970-01-01T01:00:00.000+01:00", None],
    ),
    "zone_offset": Case(
        pa.array([1_719_835_200_001, 0, None], pa.timestamp("ms", "+05:30")),
        ["2024-07-01T17:30:00.001+05:30", "1970-01-01T05:30:00.000+05:30", None],
    ),
    "zone_unknown": Case(
        pa.array([1_719_835_200, 0, None], pa.timestamp("ms", "Mars/Base")),
        ["1970-01-20T21:43:55.200+00:00", "1970-01-01T00:00:00.000+00:00", None],
    ),
    "nanoseconds": Case(
        pa.array([1_719_835_200_123_456_789, -1, None], pa.timestamp("ns")),
        ["2024-07-01T12:00:00.123456789", "1969-12-31T23:59:59.999999999", None],
    ),
    "year_10000": Case(
        pa.array([YEAR_10_000 * 10**6, 0, None], pa.timestamp("us")),
        ["10000-01-01T00:00:00.000000", "1970-01-01T00:00:00.000000", None],
    ),
    "year_10000_utc": Case(
        pa.array([YEAR_10_000 * 1000, 0, None], pa.timestamp("ms", "UTC")),
        ["10000-01-01T00:00:00.000+00:00", "1970-01-01T00:00:00.000+00:00", None],
    ),
    "date": Case(
        pa.array([date(1969, 12, 31), date(2024, 2, 29), None], pa.date32()), ["1969-12-31", "2024-02-29", None]
    ),
    "date_ms": Case(
        pa.array([date(1969, 12, 31), date(2024, 2, 29), None], pa.date64()), ["1969-12-31", "2024-02-29", None]
    ),
    "time": Case(
        pa.array([0, 5_000_000_001, None], pa.time64("ns")), ["00:00:00.000000000", "00:00:05.000000001", None]
    ),
    "time_ms": Case(pa.array([0, 86_399_000, None], pa.time32("ms")), ["00:00:00.000", "23:59:59.000", None]),
    "duration": Case(pa.array([93_784_500, -1, None], pa.duration("ms")), ["PT93784.5S", "-PT0.001S", None]),
    "decimal": Case(pa.array([Decimal("1.50"), Decimal("-0.01"), None], pa.decimal128(10, 2)), ["1.50", "-0.01", None]),
    "decimal_38": Case(pa.array([Decimal(10**37), Decimal(0), None], pa.decimal128(38, 0)), [str(10**37), "0", None]),
    "uint64": Case(pa.array([2**64 - 1, 0, None], pa.uint64()), [str(2**64 - 1), "0", None]),
    "float": Case(pa.array([float("nan"), float("-inf"), None]), [None, None, None]),
    "half": Case(pa.array([0.5, float("inf"), None], pa.float16()), [0.5, None, None]),
    "dictionary": Case(pa.array(["a", "b", None]).dictionary_encode(), ["a", "b", None]),
    "uuid": Case(
        uuids(uuid.UUID(int=5), uuid.UUID(int=2**128 - 1), None),
        [str(uuid.UUID(int=5)), str(uuid.UUID(int=2**128 - 1)), None],
    ),
    "text": Case(pa.array(['"', "\n🎹", None], pa.large_string()), ['"', "\n🎹", None]),
    "bool": Case(pa.array([True, False, None]), [True, False, None]),
    "nothing": Case(pa.nulls(3, pa.string()), [None, None, None]),
}


def carried_table() -> pa.Table:
    return pa.table({name: case.column for name, case in CASES.items()})


def dataset_with(make: Maker, carried: pa.Table) -> Maker:
    make.shard(rows_of=replace(shard_of("r1-1", 0), carried=carried))
    publish_card(musicgen.dataset.open_dataset(make.store.uri))
    return make


@pytest.mark.parametrize("name", CASES)
def test_json_has_one_form_of_each_type(name: str):
    column, in_json = CASES[name]
    for array, expected in ((column, in_json), (column.slice(1), in_json[1:]), (column.slice(0, 0), [])):
        table = to_json_table(pa.table({name: array}))
        table.validate(full=True)
        assert table.schema.field(0).type == json_type(array.type)
        assert json.loads(json.dumps(table[name].to_pylist())) == expected


def test_tars_and_the_copy_have_the_same_values(make: Maker):
    make = dataset_with(make.settings(layout="webdataset"), carried_table())
    copy = pq.read_table(make.store.join("huggingface.parquet"))
    with tarfile.open(fileobj=make.store.open(next(make.store.list("audio")).path)) as tar:
        members = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]
    assert [{name: row[name] for name in CASES} for row in members] == [
        {name: CASES[name].in_json[position] for name in CASES} for position in range(3)
    ]
    in_copy = copy["json"].to_pylist()
    for name in {*members[0], *in_copy[0]}:
        assert [row[name] for row in members] == [row[name] for row in in_copy], name


def test_a_large_dataset_says_which_types_its_tars_hold(make: Maker, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", 0)
    make = dataset_with(make.settings(layout="webdataset"), carried_table())
    features = datasets.load_dataset_builder(make.store.uri).info.features["json"]
    for name, case in CASES.items():
        assert datasets.Features({name: features[name]}).arrow_schema.field(name).type == json_type(case.column.type), (
            name
        )


def test_unsigned_numbers_beyond_int64_are_text_where_a_loader_takes_rows_through_python(
    make: Maker, monkeypatch: pytest.MonkeyPatch
):
    """AudioFolder ends by an OverflowError on them; numbers that fit keep their type."""
    monkeypatch.setattr(huggingface_table, "SMALL_BYTES", 0)
    carried = pa.table({"hash": pa.array([2**64 - 1, 0, None], pa.uint64()), "year": pa.array([1, 2, 3], pa.uint64())})
    make = dataset_with(make, carried)
    table = pq.read_table(make.store.join("metadata.parquet"))
    assert table["hash"].to_pylist() == [str(2**64 - 1), "0", None]
    assert (table["hash"].type, table["year"].type) == (pa.string(), pa.uint64())


LOAD = """
import json, sys
from datasets import load_dataset
loaded = {}
for name in sys.argv[2:]:
    clips = load_dataset(f"{sys.argv[1]}/{name}", split="train", cache_dir=f"{sys.argv[1]}/cache")
    column = "flac" if "json" in clips.column_names else "audio"
    clips = clips.remove_columns([column])
    loaded[name] = [row.get("json", row) for row in clips.sort("__key__" if column == "flac" else "key")]
print(json.dumps(loaded, default=str))
"""


def load_all(folder: Path, names: list[str]) -> dict[str, list[dict]]:
    """The rows that `load_dataset` gives of each dataset, from a process with a stand-in for torchcodec."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "PYTHONPATH": str(STAND_IN)}
    command = [sys.executable, "-c", LOAD, str(folder), *names]
    printed = subprocess.run(
        command, env=environment, check=True, timeout=250, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(printed.splitlines()[-1])


@pytest.mark.slow
def test_load_dataset_reads_every_type_in_both_sizes_of_webdataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for size, limit in (("small", 1 << 20), ("large", 0)):
        monkeypatch.setattr(huggingface_table, "SMALL_BYTES", limit)
        dataset_with(Maker(open_store(str(tmp_path / size))).settings(layout="webdataset"), carried_table())
    loaded = load_all(tmp_path, ["small", "large"])
    assert loaded["small"] == loaded["large"]
    order = sorted(range(3), key=lambda position: shard_of("r1-1", 0).keys[position])
    assert [{name: row[name] for name in CASES} for row in loaded["large"]] == [
        {name: CASES[name].in_json[position] for name in CASES} for position in order
    ]
