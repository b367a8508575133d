"""Carried columns of every Arrow type: from the manifest through a plan into all three layouts."""

import datetime as dt
import json
import tarfile
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.dataset import open_dataset
from musicgen.dataset.card import publish_card
from musicgen.errors import ManifestError
from musicgen.plan import read_shard
from musicgen.storage import open_store
from tests.fixtures.planning import make_shard
from tests.musicgen.plan.conftest import Submit

ID = UUID("12345678-1234-5678-1234-567812345678")
FAR = 253402300800000000  # the year 10000 in microseconds
STRUCT = pa.struct([("bpm", pa.int64()), ("at", pa.timestamp("us"))])
# name -> (column, its type in the index, its first value in a tar's JSON)
COLUMNS: dict[str, tuple[pa.Array, str, object]] = {
    "boolean": (pa.array([True, None]), "bool", True),
    "unsigned": (pa.array([2**64 - 1, None], pa.uint64()), "uint64", str(2**64 - 1)),
    "half": (pa.array([1.5, None], pa.float16()), "float", 1.5),
    "decimal": (pa.array([Decimal("1.50"), None], pa.decimal128(38, 2)), "decimal128(38, 2)", "1.50"),
    "wide_decimal": (pa.array([Decimal("1.50"), None], pa.decimal256(50, 2)), "string", "1.50"),
    "binary": (pa.array([b"\xff\x00", None]), "binary", "/wA="),
    "large": (pa.array([b"\xff", None], pa.large_binary()), "binary", "/w=="),
    "fixed": (pa.array([b"abcd", None], pa.binary(4)), "binary", "YWJjZA=="),
    "uuid": (pa.array([ID.bytes, None], pa.uuid()), "string", str(ID)),
    "json": (pa.array(['{"a":1}', None], pa.json_()), "string", '{"a":1}'),
    "dictionary": (pa.array(["x", None]).dictionary_encode(), "string", "x"),
    "view": (pa.array(["x", None], pa.string_view()), "string", "x"),
    "date": (pa.array([dt.date(2026, 1, 2), None]), "date32[day]", "2026-01-02"),
    "time": (pa.array([dt.time(1, 2, 3), None]), "time64[us]", "01:02:03.000000"),
    "naive": (pa.array([0, None], pa.timestamp("ms")), "timestamp[ms]", "1970-01-01T00:00:00.000"),
    "nanos": (pa.array([1, None], pa.timestamp("ns")), "timestamp[ns]", "1970-01-01T00:00:00.000000001"),
    "zoned": (
        pa.array([0, None], pa.timestamp("us", "Europe/Berlin")),
        "timestamp[us, tz=Europe/Berlin]",
        "1970-01-01T01:00:00.000000+01:00",
    ),
    "offset": (
        pa.array([0, None], pa.timestamp("us", "+05:30")),
        "timestamp[us, tz=+05:30]",
        "1970-01-01T05:30:00.000000+05:30",
    ),
    "unknown_zone": (pa.array([0, None], pa.timestamp("us", "Mars/Base")), "timestamp[us, tz=UTC]", None),
    "far": (pa.array([FAR, None], pa.timestamp("us")), "string", "10000-01-01T00:00:00.000000"),
    "far_date": (pa.array([2932897, None], pa.date32()), "string", "10000-01-01"),
    "duration": (pa.array([-1500, None], pa.duration("ms")), "string", "-PT1.5S"),
    "map": (pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string())), "string", '[{"key":"k","value":"v"}]'),
    "number_map": (
        pa.array([[(1, 2.5)], None], pa.map_(pa.int8(), pa.float64())),
        "string",
        '[{"key":1,"value":2.5}]',
    ),
    "struct": (pa.array([{"bpm": 90, "at": 0}, None], STRUCT), None, {"bpm": 90, "at": "1970-01-01T00:00:00.000000"}),
    "struct_of_map": (
        pa.array([{"m": [("k", 1)]}, None], pa.struct([("m", pa.map_(pa.string(), pa.int8()))])),
        "string",
        '{"m":[{"key":"k","value":1}]}',
    ),
    "list": (pa.array([[1, 2], None], pa.large_list(pa.int16())), "list<element: int16>", [1, 2]),
    "fixed_list": (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), "list<element: int8>", [1, 2]),
    "list_of_struct": (pa.array([[{"a": "x"}], None]), "list<element: struct<a: string>>", [{"a": "x"}]),
    "list_of_maps": (
        pa.array([[[("k", 1)]], None], pa.list_(pa.map_(pa.string(), pa.int8()))),
        "string",
        '[[{"key":"k","value":1}]]',
    ),
    "nothing": (pa.nulls(2), "string", None),
}  # fmt: skip


def write_table(path: Path, names: list[str]) -> Path:
    columns: dict[str, Any] = {"prompt": ["a", "b"], "id": ["1", "2"]}
    pq.write_table(pa.table(columns | {name: COLUMNS[name][0] for name in names}), path)
    return path


def tar_rows(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("audio/*/*.tar")
    with tarfile.open(path) as tar:
        return [json.load(tar.extractfile(name)) for name in tar.getnames() if name.endswith(".json")]  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_columns_of_every_type_survive_in_every_layout(tmp_path: Path, submit: Submit, layout: str) -> None:
    path = write_table(tmp_path / "m.parquet", list(COLUMNS))
    dry = submit(path, f"audio.layout={layout}", dry_run=True)
    outcome = submit(path, f"audio.layout={layout}")
    assert (dry.new, outcome.new, outcome.invalid_count) == (2, 2, 0)
    store = open_store(str(tmp_path / "out"))
    assert outcome.plan is not None
    make_shard(store, outcome.plan, 0)
    dataset = open_dataset(store.uri)
    publish_card(dataset)
    index = dataset.to_arrow().sort_by("id")
    for name, (_, type_name, _) in COLUMNS.items():
        assert type_name is None or str(index.schema.field(name).type) == type_name, name
        assert index[name].null_count == (2 if name == "nothing" else 1)
    assert duckdb.sql(f"select count(*) from '{store.uri}/index/**/*.parquet'").fetchall() == [(2,)]
    assert len(pd.read_parquet(f"{store.uri}/index")) == 2
    if layout == "webdataset":
        row = next(row for row in tar_rows(tmp_path / "out") if row["id"] == "1")
        for name, (_, _, value) in COLUMNS.items():
            assert row[name] == value or (name == "unknown_zone" and row[name].endswith("00.000000+00:00")), name
    if layout != "parquet":
        table = pq.read_table(tmp_path / "out" / "huggingface.parquet")
        member = table["json"].to_pylist()[0] if layout == "webdataset" else table.select(list(COLUMNS))
        assert len(member) >= 2


def test_load_dataset_reads_columns_of_every_type(tmp_path: Path, submit: Submit) -> None:
    datasets = pytest.importorskip("datasets")
    outcome = submit(write_table(tmp_path / "m.parquet", list(COLUMNS)), "audio.layout=parquet")
    store = open_store(str(tmp_path / "out"))
    make_shard(store, outcome.plan, 0)  # type: ignore[arg-type]
    features = datasets.Features.from_arrow_schema(open_dataset(store.uri).schema())
    assert set(COLUMNS) <= set(features)


@pytest.mark.parametrize(
    ("rows", "type_name", "values"),
    [
        ([1672345678901234567, None], "int64", [1672345678901234567, None]),
        ([1672345678901234567, 5], "int64", [1672345678901234567, 5]),
        ([1672345678901234567, float("nan")], "string", ["1672345678901234567", "NaN"]),
        ([1672345678901234567, 0.5], "string", ["1672345678901234567", "0.5"]),
        ([7, 0.5], "double", [7.0, 0.5]),
        ([2**70, 1], "string", [str(2**70), "1"]),
        ([True, 1], "string", ["true", "1"]),
        ([{"a": 2**60}, "x"], "string", ['{"a":1152921504606846976}', "x"]),
    ],
)
def test_integers_beside_other_values_in_json(
    tmp_path: Path, submit: Submit, rows: list[Any], type_name: str, values: list[Any]
) -> None:
    text = "".join(json.dumps({"prompt": f"p{i}", "n": value}) + "\n" for i, value in enumerate(rows))
    assert submit(text, dry_run=True).new == 2
    outcome = submit(text)
    assert outcome.plan is not None
    assert outcome.plan.carried == {"n": type_name}
    assert read_shard(open_store(str(tmp_path / "out")), outcome.plan, 0).carried["n"].to_pylist() == values


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([2**53 + 1]), pa.array([0.5])),
        (pa.array(["x"]), pa.array([1])),
        (pa.array([{"a": 1}]), pa.array(["x"])),
        (pa.array([1], pa.timestamp("s", "UTC")), pa.array([1], pa.timestamp("s"))),
    ],
)
def test_plan_and_run_refuse_the_same_and_write_nothing(
    tmp_path: Path, submit: Submit, first: pa.Array, second: pa.Array
) -> None:
    (tmp_path / "in").mkdir()
    for name, column in (("a", first), ("b", second)):
        pq.write_table(pa.table({"prompt": [name], "n": column}), tmp_path / "in" / f"{name}.parquet")
    for dry_run in (True, False):
        with pytest.raises(ManifestError, match="`n`"):
            submit(tmp_path / "in", dry_run=dry_run)
    assert not (tmp_path / "out").exists()


IDS = {
    "decimal": (pa.array([Decimal("101"), Decimal("102")], pa.decimal128(38, 0)), ["101", "102"]),
    "uuid": (pa.array([ID.bytes, UUID(int=7).bytes], pa.uuid()), [str(UUID(int=7)), str(ID)]),
    "binary": (pa.array([b"a", "ü".encode()]), ["a", "ü"]),
    "large view": (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
    "dictionary": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    "float": (pa.array([1.0, 2.0], pa.float32()), ["1", "2"]),
    "bad binary": (pa.array([b"a", b"\xff"]), ["a"]),
    "fraction": (pa.array([Decimal("1.5"), Decimal("2")], pa.decimal128(5, 1)), ["2"]),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_and_prompts_of_other_types(tmp_path: Path, submit: Submit, kind: str) -> None:
    column, expected = IDS[kind]
    prompts = pa.array([b"calm", b"drums"], pa.large_binary())
    pq.write_table(pa.table({"prompt": prompts, "id": column}), tmp_path / "m.parquet")
    outcome = submit(tmp_path / "m.parquet")
    assert outcome.plan is not None
    requests = read_shard(open_store(str(tmp_path / "out")), outcome.plan, 0).requests
    assert sorted(str(request.id) for request in requests) == expected
    assert outcome.invalid_count == 2 - len(expected)
    assert {request.prompt for request in requests} <= {"calm", "drums"}


def test_a_dataset_that_pins_a_type_keeps_it(tmp_path: Path, submit: Submit) -> None:
    path = write_table(tmp_path / "m.parquet", ["map", "duration", "naive"])
    outcome = submit(path)
    make_shard(open_store(str(tmp_path / "out")), outcome.plan, 0)  # type: ignore[arg-type]
    info = tmp_path / "out" / "dataset.json"
    document = json.loads(info.read_text())
    document["carried"] |= {"map": "map<string, string ('map')>", "duration": "duration[ms]"}  # of an earlier release
    own = pq.read_schema(path)
    document["carried"]["map"] = str(own.field("map").type)
    info.write_text(json.dumps(document))
    table = pq.read_table(path).set_column(0, "prompt", pa.array(["c", "d"])).set_column(1, "id", pa.array(["3", "4"]))
    pq.write_table(table, path)
    assert submit(path).new == 2
    pq.write_table(table.set_column(4, "naive", pa.array([FAR // 1000, None], pa.timestamp("ms"))), path)
    with pytest.raises(ManifestError, match="row 1: a value of the column `naive`"):
        submit(path, dry_run=True)


def test_duckdb_writes_uuids_and_intervals(tmp_path: Path, submit: Submit) -> None:
    path = tmp_path / "m.parquet"
    duckdb.sql(
        f"copy (select uuid() id, 'calm piano' prompt, interval 3 days d, map {{'a': 1}} m, 1::hugeint h) "
        f"to '{path}' (format parquet)"
    )
    assert submit(path, dry_run=True).new == 1
