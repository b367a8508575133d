"""Readers of manifests: formats, stores, hostile files. Each row keeps the number of its line."""

import gzip
import json
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.errors import ManifestError, StoreError
from musicgen.manifest import csv_file, jsonl_file, parquet_file, source_batch
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.manifest import read_manifest


def read_rows(
    uri: Any, limit: int | None = None, **columns: str
) -> tuple[list[tuple[int, dict[str, Any]]], list[tuple[int, str]]]:
    """Return the (number, values) of the parsed rows and the (number, reason) of the unparsable ones."""
    parsed, unparsable = [], []
    for batch in read_manifest(str(uri), ColumnMap(columns), limit):
        carried = batch.carried if isinstance(batch.carried, list) else batch.carried.to_pylist() or [{}] * len(batch)
        for position, number in enumerate(batch.numbers):
            fields = {
                name: column[position] for name, column in batch.fields.items() if column[position] not in (None, "")
            }
            parsed.append((number, {**fields, **carried[position]}))
        unparsable += [(row.number, row.reason) for row in batch.unparsable]
    return parsed, unparsable


def write_file(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def expect_error(uri: Any, **columns: str) -> str:
    with pytest.raises(ManifestError) as caught:
        read_rows(uri, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_csv_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    text = '\ufeffprompt,id,note\r\n"two\r\nlines",a,x\r\n\r\nplain,b,\r\n"says ""hi""",c,"1,5"\r\n'
    parsed, unparsable = read_rows(write_file(tmp_path, "m.csv", text))
    assert parsed == [
        (2, {"prompt": "two\r\nlines", "id": "a", "note": "x"}),
        (5, {"prompt": "plain", "id": "b", "note": None}),
        (6, {"prompt": 'says "hi"', "id": "c", "note": "1,5"}),
    ]
    assert not unparsable


def test_broken_csv_rows_do_not_take_others_with_them(tmp_path: Path) -> None:
    text = b'prompt,id,note\nshort,a\nlong,b,c,d\n"bad"quote,c,x\n\xff\xfe,d,x\nfine,e,\xe9\ngood,f,ok\n'
    parsed, unparsable = read_rows(write_file(tmp_path, "m.csv", text))
    assert [number for number, _ in parsed] == [5, 7]  # line 5: its prompt is not UTF-8, which the row's check says
    assert dict(unparsable).keys() == {2, 3, 4, 6}
    reasons = dict(unparsable)
    assert "2 cells, but the header has 3" in reasons[2]
    assert "4 cells" in reasons[3]
    assert "broken CSV" in reasons[4]
    assert "UTF-8" in reasons[6]


def test_csv_without_a_header_that_can_be_read_is_refused(tmp_path: Path) -> None:
    assert "there twice" in expect_error(write_file(tmp_path, "m.csv", "prompt,prompt\na,b\n"))
    assert "m.csv:1: the header is broken CSV" in expect_error(write_file(tmp_path, "m.csv", '"prompt\na\n'))
    assert "encoding: cp1252" in expect_error(write_file(tmp_path, "m.csv", b"prompt,f\xfcr\na,b\n"))


def test_a_huge_cell_is_one_row(tmp_path: Path) -> None:
    parsed, _ = read_rows(write_file(tmp_path, "m.csv", f"prompt,id\n{'x' * 1_000_000},a\nok,b\n"))
    assert [len(row["prompt"]) for _, row in parsed] == [1_000_000, 2]


def test_jsonl_rows_and_their_lines(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"prompt": "a", "tags": ["x", 1], "n": 1}',
        b"",
        b"[1, 2]",
        b'"text"',
        b"null",
        b'{"prompt": "b"',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "ok", "big": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"prompt": "c", "id": 7}\r',
    ]
    parsed, unparsable = read_rows(write_file(tmp_path, "m.jsonl", b"\n".join(lines)))
    assert parsed == [(1, {"prompt": "a", "tags": ["x", 1], "n": 1}), (11, {"prompt": "c", "id": 7})]
    assert [number for number, _ in unparsable] == [3, 4, 5, 6, 7, 8, 9, 10]
    reasons = dict(unparsable)
    assert "a list" in reasons[3]
    assert "a text" in reasons[4]
    assert "null" in reasons[5]
    assert "not JSON" in reasons[6]
    assert "UTF-8" in reasons[7]
    assert "surrogate" in reasons[8]
    assert "digits" in reasons[9]
    assert "nested" in reasons[10]


def test_a_jsonl_line_without_end_is_one_broken_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_file, "MAX_LINE", 100)
    parsed, unparsable = read_rows(
        write_file(tmp_path, "m.jsonl", b'{"prompt": "a"}\n{"prompt": "' + b"x" * 1000 + b'"}\n{"prompt": "b"}\n')
    )
    assert [number for number, _ in parsed] == [1, 3]
    assert [number for number, _ in unparsable] == [2]


def test_a_json_array_is_told_from_json_lines(tmp_path: Path) -> None:
    assert "JSON array" in expect_error(write_file(tmp_path, "m.jsonl", '[\n  {"prompt": "a"}\n]\n'))


def test_parquet_keeps_types_and_means_numbers_as_written(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": pa.array(["a", "b"]).dictionary_encode(),
            "temperature": pa.array([0.9, None], pa.float32()),
            "when": pa.array([0, 1], pa.timestamp("s")),
            "tags": pa.array([["x"], []], pa.large_list(pa.large_string())),
            "nothing": pa.nulls(2),
            "__index_level_0__": [5, 3],
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    (batch,) = read_manifest(str(tmp_path / "m.parquet"), ColumnMap({}))
    assert batch.fields["temperature"] == [0.9, None]
    assert list(batch.numbers) == [1, 2]
    assert batch.locate(2) == f"{tmp_path}/m.parquet row 2"
    types = {field.name: str(field.type) for field in batch.carried.schema}
    assert types == {"when": "timestamp[ms]", "tags": "list<element: string>", "nothing": "null"}


def test_parquet_strings_that_are_not_utf8_are_broken_rows(tmp_path: Path) -> None:
    def text(values: list[bytes]) -> pa.Array:
        return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())

    table = pa.table({"prompt": text([b"a", b"\xff", b"c", b"d"]), "note": text([b"x", b"x", b"\xc3", b"x"])})
    pq.write_table(table, tmp_path / "m.parquet")
    parsed, unparsable = read_rows(tmp_path / "m.parquet")
    assert [number for number, _ in parsed] == [1, 4]
    assert unparsable == [(2, "is not valid UTF-8"), (3, "is not valid UTF-8")]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    assert "not a readable Parquet" in expect_error(write_file(tmp_path, "a.parquet", b"PAR1 no"))
    assert "not gzip" in expect_error(write_file(tmp_path, "b.csv.gz", "prompt\na\n"))
    packed = gzip.compress(b"prompt\n" + b"some prompt\n" * 10_000)
    assert "cut off" in expect_error(write_file(tmp_path, "c.csv.gz", packed[: len(packed) // 2]))
    parsed, _ = read_rows(write_file(tmp_path, "d.csv", packed))  # gzip under another name is still gzip
    assert len(parsed) == 10_000


def test_the_error_of_a_missing_column_names_those_present(tmp_path: Path) -> None:
    path = write_file(tmp_path, "m.csv", "promt,caption\na,b\n")
    assert "no column `prompt`; did you mean `promt`? (columns: `promt`, `caption`)" in expect_error(path)
    assert "no column `title` (columns: " in expect_error(path, prompt="title")
    assert "no column `ytid`" in expect_error(path, prompt="caption", id="ytid")
    assert "no column `prompt`" in expect_error(write_file(tmp_path, "m.jsonl", '{"text": "a"}\n'))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "m.parquet")
    assert "no column `prompt`" in expect_error(tmp_path / "m.parquet")


def test_mapped_columns_leave_their_own_name_to_be_carried(tmp_path: Path) -> None:
    parsed, _ = read_rows(
        write_file(tmp_path, "m.csv", "caption,prompt,id\nused,carried,x\n"), prompt="caption", melody="id"
    )
    assert parsed == [
        (2, {"prompt": "carried", "melody": "x"})
    ]  # `prompt` of the dict is the carried one: it came last
    (batch,) = read_manifest(str(tmp_path / "m.csv"), ColumnMap({"prompt": "caption", "melody": "id"}))
    assert batch.fields == {"prompt": ["used"], "melody": ["x"]}


def test_missing_and_empty_manifests_are_errors(tmp_path: Path) -> None:
    assert "no such manifest" in expect_error(tmp_path / "none.csv")
    assert "no such manifest" in expect_error(tmp_path / "*.csv")
    for name, content in (("a.csv", ""), ("b.csv", "prompt\n"), ("c.jsonl", "\n\n"), ("d.csv.gz", gzip.compress(b""))):
        assert "empty" in expect_error(write_file(tmp_path, name, content))
    assert "must end with" in expect_error(write_file(tmp_path, "m.txt", "prompt\na\n"))


def test_a_folder_is_its_manifest_files_and_one_format(tmp_path: Path) -> None:
    write_file(tmp_path, "b.csv", "prompt\nthird\n")
    write_file(tmp_path, "a.csv", "prompt\nfirst\nsecond\n")
    write_file(tmp_path, "_SUCCESS", "")
    write_file(tmp_path, "notes.txt", "not a manifest")
    parsed, _ = read_rows(tmp_path)
    assert [row["prompt"] for _, row in parsed] == ["first", "second", "third"]
    write_file(tmp_path, "c.jsonl", json.dumps({"prompt": "x"}))
    assert "mixes csv and jsonl" in expect_error(tmp_path)
    assert len(read_rows(tmp_path / "*.csv")[0]) == 3


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 100])
def test_a_limit_counts_rows_in_the_order_of_the_file(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_file, "BATCH_ROWS", 2)
    path = write_file(tmp_path, "m.csv", "prompt,id\na,1\nbroken\nb,2\nalso broken\nc,3\n")
    parsed, unparsable = read_rows(path, limit)
    assert [number for number, _ in sorted([*parsed, *unparsable], key=lambda row: row[0])] == [2, 3, 4, 5, 6][:limit]


def test_batches_of_large_rows_hold_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (csv_file, jsonl_file, parquet_file):
        monkeypatch.setattr(module, "BATCH_BYTES", 10_000)
    prompts = [f"{i}{'x' * 3000}" for i in range(12)]
    paths = [tmp_path / name for name in ("m.csv", "m.jsonl", "m.parquet")]
    paths[0].write_text("prompt\n" + "\n".join(prompts))
    paths[1].write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    pq.write_table(pa.table({"prompt": prompts}), paths[2], compression="none", use_dictionary=False)
    for path in paths:
        batches = list(read_manifest(str(path), ColumnMap({})))
        assert [prompt for batch in batches for prompt in batch.fields["prompt"]] == prompts
        assert max(len(batch) for batch in batches) <= 4


def test_a_text_that_a_file_holds_once_is_counted_for_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "BATCH_BYTES", 1 << 20)
    path, rows = tmp_path / "m.parquet", 2000
    prompts = [f"p{number}" if number % 7 else "q" * 1000 for number in range(rows)]
    words = pa.array(["x" * 200_000, None] * (rows // 2), pa.large_string())
    table = pa.table({"prompt": prompts, "words": words, "tags": [["a"], []] * (rows // 2), "raw": [b"\x00"] * rows})
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 40_000
    batches = list(read_manifest(str(path), ColumnMap({})))
    assert max(batch.carried.nbytes for batch in batches) <= 1.1 * (1 << 20)
    assert [number for batch in batches for number in batch.numbers] == list(range(1, rows + 1))
    assert [prompt for batch in batches for prompt in batch.fields["prompt"]] == prompts
    carried = pa.concat_tables([batch.carried for batch in batches])
    assert carried["words"].type == pa.string()
    assert carried["words"].equals(table["words"].cast(pa.string()))
    assert carried["raw"].to_pylist() == table["raw"].to_pylist()


def test_only_long_texts_are_read_as_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short values, or values that do not repeat, would cost time and memory as a dictionary."""
    asked: list[list[str]] = []
    choose = parquet_file._find_repeated

    def note(raw: IO[bytes], metadata: pq.FileMetaData, schema: pa.Schema) -> list[str]:
        asked.append(choose(raw, metadata, schema))
        return asked[-1]

    monkeypatch.setattr(parquet_file, "_find_repeated", note)
    rows = 3000
    table = pa.table(
        {
            "id": [f"row-{number}" for number in range(rows)],
            "prompt": [f"a slow waltz in {number % 7} voices, number {number}" for number in range(rows)],
            "tag": ["calm"] * rows,
            "words": ["x"] * (rows - 1) + ["y" * 9000],  # only in the last row group
            **{f"note{number}": [str(number) * 3000] * rows for number in range(3)},  # two of them fit into a batch
        }
    )
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=1000)
    batches = list(read_manifest(str(tmp_path / "m.parquet"), ColumnMap({})))
    assert asked == [["note2", "words"]]
    assert pa.concat_tables([batch.carried for batch in batches]).equals(table.drop_columns(["id", "prompt"]))
    assert [id for batch in batches for id in batch.fields["id"]] == table["id"].to_pylist()


def test_a_manifest_never_takes_in_its_own_output(tmp_path: Path) -> None:
    (tmp_path / "out" / "index" / "r1").mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["made"]}), tmp_path / "out" / "index" / "r1" / "part-00000.parquet")
    pq.write_table(pa.table({"prompt": ["asked"]}), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="what the job itself writes"):
        list(read_manifest(str(tmp_path), ColumnMap({}), output=f"{tmp_path}/out"))
    assert len(list(read_manifest(f"{tmp_path}/*.parquet", ColumnMap({}), output=f"{tmp_path}/out"))) == 1
    assert list(read_manifest(str(tmp_path), ColumnMap({}), output=f"{tmp_path.parent}/elsewhere"))


@pytest.mark.parametrize(
    "manifest", ["", "/**/*.parquet", "/out/*.parquet", "/*/metadata.parquet", "/out/metadata.parquet"]
)
def test_a_manifest_that_would_take_in_what_a_run_writes_is_refused_before_it_does(
    tmp_path: Path, manifest: str
) -> None:
    (tmp_path / "out").mkdir()
    for name in ("m.parquet", "out/metadata.parquet" if manifest.endswith("metadata.parquet") else "out/mine.parquet"):
        pq.write_table(pa.table({"prompt": ["asked"]}), tmp_path / name)
    with pytest.raises(ManifestError, match="what the job itself writes"):
        list(read_manifest(f"{tmp_path}{manifest}", ColumnMap({}), output=f"{tmp_path}/out"))


@pytest.mark.parametrize("manifest", ["out/mine.parquet", "out/m*.csv", "*.parquet", "out/mine-*.parquet"])
def test_other_files_beside_a_dataset_are_a_manifest(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "out").mkdir()
    for name in ("m.parquet", "out/mine.parquet", "out/mine-2.parquet"):
        pq.write_table(pa.table({"prompt": ["asked"]}), tmp_path / name)
    (tmp_path / "out" / "m.csv").write_text("prompt\nasked\n")
    assert list(read_manifest(f"{tmp_path}/{manifest}", ColumnMap({}), output=f"{tmp_path}/out"))


def test_batches_are_small(tmp_path: Path) -> None:
    rows = 3 * source_batch.BATCH_ROWS + 1
    pq.write_table(pa.table({"prompt": [f"p{i}" for i in range(rows)]}), tmp_path / "m.parquet")
    sizes = [len(batch) for batch in read_manifest(str(tmp_path / "m.parquet"), ColumnMap({}))]
    assert sum(sizes) == rows
    assert max(sizes) <= source_batch.BATCH_ROWS


def test_a_manifest_in_a_bucket_reads_like_one_in_a_folder(tmp_path: Path, s3) -> None:
    from musicgen.storage import open_store

    store = open_store(s3.uri)
    store.write("in/a.csv", b"prompt,id\nfrom a bucket,1\n")
    store.write("in/deep/b.csv.gz", gzip.compress(b"prompt,id\npacked,2\n"))
    pq.write_table(pa.table({"prompt": ["typed"]}), tmp_path / "c.parquet")
    store.write("other/c.parquet", tmp_path / "c.parquet")
    assert [row["prompt"] for _, row in read_rows(f"{s3.uri}/in")[0]] == ["from a bucket", "packed"]
    assert [row["prompt"] for _, row in read_rows(f"{s3.uri}/in/*.csv")[0]] == ["from a bucket"]
    assert [row["prompt"] for _, row in read_rows(f"{s3.uri}/other/c.parquet")[0]] == ["typed"]
    assert "no such manifest" in expect_error(f"{s3.uri}/nothing")
    with pytest.raises(StoreError, match="bucket"):
        read_rows("s3://no-such-bucket-here/m.csv")
