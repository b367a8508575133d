"""Folders of files that are a table: partitions, logs, what lies beside the data, links, and how little is listed."""

import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.errors import ManifestError
from musicgen.storage import expand_uri, open_store
from tests.fixtures.manifest_rows import read_rows

HIVE = ["lang=en/mood=sad", "lang=de/mood=__HIVE_DEFAULT_PARTITION__", "lang=a%20b/mood=x%2Fy"]


def write_rows(path: Path, *prompts: str, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"prompt": prompts, **columns}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    else:
        path.write_text("prompt\n" + "".join(f"{prompt}\n" for prompt in prompts))


def prompts_of(uri: Path | str) -> list[str]:
    return [row["prompt"] for row in read_rows(uri).values]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_folders_named_like_columns_are_columns(tmp_path: Path, suffix: str) -> None:
    for number, folder in enumerate(HIVE):
        write_rows(tmp_path / "in" / folder / f"part-0.{suffix}", f"p{number}")
    read = read_rows(tmp_path / "in")
    assert sorted((row["prompt"], row["lang"], row["mood"]) for row in read.values) == [
        ("p0", "en", "sad"),
        ("p1", "de", None),
        ("p2", "a b", "x/y"),
    ]
    assert read_rows(tmp_path / "in" / "*" / "*" / f"*.{suffix}").values[0].keys() >= {"lang", "mood"}
    below = read_rows(tmp_path / "in" / "lang=en").values
    assert [(row["prompt"], row.get("lang"), row["mood"]) for row in below] == [("p0", None, "sad")]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_a_folders_column_is_ours_only_if_the_job_says_so(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path / "in" / "seed=7" / f"a.{suffix}", "x")
    (row,) = read_rows(tmp_path / "in").values
    assert row["seed"] == "7"  # carried: the index calls it manifest_seed
    (row,) = read_rows(tmp_path / "in", columns={"samples": "seed"}).values
    assert row["samples"] == "7"


def test_partitions_that_other_programs_write(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a", "b"], "lang": ["en", "de"], "n": [1, 2]})
    pq.write_to_dataset(table, tmp_path / "arrow", partition_cols=["lang", "n"])
    duckdb.from_arrow(table).write_parquet(str(tmp_path / "duck"), partition_by=["lang"])
    pd.DataFrame(table.to_pydict()).to_parquet(tmp_path / "pandas", partition_cols=["lang"])
    for name in ("arrow", "duck", "pandas"):
        rows = read_rows(tmp_path / name).values
        assert sorted((row["prompt"], row["lang"], str(row["n"])) for row in rows) == [
            ("a", "en", "1"),
            ("b", "de", "2"),
        ]


def write_delta_by_hand(folder: Path, suffix: str = "") -> None:
    write_rows(folder / "part-0.parquet", "one", "two", id=["1", "2"])
    write_rows(folder / "part-1.parquet", "two, new", id=["2"])
    fields = [{"name": name, "type": "string", "nullable": True, "metadata": {}} for name in ("prompt", "id")]
    schema = json.dumps({"type": "struct", "fields": fields})
    metadata = {"id": "t", "format": {"provider": "parquet", "options": {}}, "schemaString": schema}
    metadata |= {"partitionColumns": [], "configuration": {}, "createdTime": 0}
    first: list[dict[str, Any]] = [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": metadata}]
    for number, actions in enumerate(
        [[*first, add("part-0.parquet")], [remove("part-0.parquet"), add("part-1.parquet")]]
    ):
        log = folder / "_delta_log" / f"{number:020}.json"
        log.parent.mkdir(exist_ok=True)
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))


def add(path: str) -> dict[str, Any]:
    return {"add": {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 0, "dataChange": True}}


def remove(path: str) -> dict[str, Any]:
    return {"remove": {"path": path, "deletionTimestamp": 1, "dataChange": True}}


@pytest.mark.parametrize("pattern", ["", "/", "/*.parquet"])
def test_a_delta_table_is_read_by_its_log(tmp_path: Path, pattern: str) -> None:
    pytest.importorskip("deltalake")
    write_delta_by_hand(tmp_path / "t")
    assert prompts_of(f"{tmp_path}/t{pattern}") == ["two, new"]


def test_a_delta_table_that_was_written_in_steps(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    uri = str(tmp_path / "t")
    deltalake.write_deltalake(uri, pa.table({"prompt": ["a", "b"], "lang": ["en", "d e"]}), partition_by=["lang"])
    deltalake.write_deltalake(uri, pa.table({"prompt": ["c"], "lang": ["en"]}), mode="append")
    deltalake.DeltaTable(uri).delete("prompt = 'a'")
    assert sorted((row["prompt"], row["lang"]) for row in read_rows(uri).values) == [("b", "d e"), ("c", "en")]
    assert prompts_of(f"{uri}/lang=e*/*.parquet") == ["c"]
    for below in (f"{uri}/lang=en", f"{uri}/lang=en/*.parquet", f"{tmp_path}/*/lang=en/*.parquet"):
        with pytest.raises(ManifestError, match=f"{uri} is a table of Delta; name it alone"):
            read_rows(below)
    os.remove(next((tmp_path / "t").glob("lang=d*/*.parquet")))
    for pattern in ("", "/**/*.parquet"):
        with pytest.raises(
            ManifestError, match=r"log of this Delta table names what is not there: \S+/lang=d[^/]*/[^/]+$"
        ):
            read_rows(uri + pattern)


def test_a_delta_table_without_the_extra_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_delta_by_hand(tmp_path / "t")
    monkeypatch.setattr("musicgen.manifest.lake_tables.find_spec", lambda name: None)
    with pytest.raises(ManifestError, match=r"\[delta\]"):
        read_rows(tmp_path / "t")


def test_other_tables_are_refused_by_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "ice" / "data" / "a.parquet", "a")
    (tmp_path / "ice" / "metadata").mkdir()
    (tmp_path / "ice" / "metadata" / "v1.metadata.json").write_text("{}")
    write_rows(tmp_path / "hudi" / "a.parquet", "a")
    (tmp_path / "hudi" / ".hoodie").mkdir()
    write_delta_by_hand(tmp_path / "lake" / "delta")
    write_rows(tmp_path / "plain" / "metadata" / "a.parquet", "a")
    for name, kind in (
        ("ice", "Iceberg"),
        ("ice/data", "Iceberg"),
        ("ic*/data/*", "Iceberg"),
        ("hudi", "Hudi"),
        ("lake", "Delta"),
        ("", "Delta|Hudi|Iceberg"),
    ):
        with pytest.raises(ManifestError, match=kind):
            read_rows(tmp_path / name)
    assert prompts_of(tmp_path / "plain") == ["a"]


BESIDE = ["_SUCCESS", ".part-0.csv.crc", ".hidden.csv", "~$a.csv", "a.csv.md5", "b.csv.tmp", "c.csv~", "d.csv.part"]
BESIDE += ["_started_123", "_metadata", ".DS_Store", "e.csv.crdownload"]


@pytest.mark.parametrize("pattern", ["", "/*", "/**/*", "/**"])
def test_what_lies_beside_the_data_is_passed_over(tmp_path: Path, pattern: str) -> None:
    write_rows(tmp_path / "in" / "a.csv", "a")
    for name in BESIDE:
        (tmp_path / "in" / name).write_text("x\n")
    assert prompts_of(f"{tmp_path}/in{pattern}") == ["a"]


@pytest.mark.parametrize("pattern", ["", "/**/*.csv", "/*/*.csv"])
def test_links_give_no_row_twice_and_no_loop(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "in"
    write_rows(folder / "2026-01" / "a.csv", "a")
    write_rows(tmp_path / "elsewhere" / "b.csv", "b")
    for name, target in {
        "latest": "2026-01",
        "current": ".",
        "up": "..",
        "self": "self",
        "gone": "nowhere",
        "outside": "../elsewhere",
        "2026-01/again": "../2026-01",
        "2026-01/z.csv": "a.csv",
    }.items():
        (folder / name).symlink_to(target)
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    os.mkfifo(folder / "2026-01" / "pipe.csv")
    (folder / "2026-01" / "odd\\name.csv").write_text("prompt\nodd\n")
    assert sorted(prompts_of(f"{folder}{pattern}")) == ["a", "b"]


@pytest.mark.parametrize("pattern", ["lat*/*.csv", "[l]atest/**/*.csv", "?atest/a.csv", "**/lat*/*.csv"])
def test_a_glob_follows_a_link_to_what_it_does_not_visit(tmp_path: Path, pattern: str) -> None:
    write_rows(tmp_path / "in" / "v1" / "a.csv", "old")
    write_rows(tmp_path / "in" / "v2" / "a.csv", "new")
    for name in ("archive", "latest"):
        (tmp_path / "in" / name).symlink_to("v2")
    assert prompts_of(f"{tmp_path}/in/{pattern}") == ["new"]


@pytest.mark.parametrize("pattern", ["*/*.csv", "[vl]*/a.csv", "*/**/*.csv", "**/a.csv", "**/v?/*.csv"])
def test_a_glob_follows_no_link_to_what_it_visits(tmp_path: Path, pattern: str) -> None:
    write_rows(tmp_path / "in" / "v1" / "a.csv", "a")
    (tmp_path / "in" / "latest").symlink_to("v1")
    assert prompts_of(f"{tmp_path}/in/{pattern}") == ["a"]


def test_only_folders_that_may_match_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "in" / "a.csv", "a")
    write_rows(tmp_path / "in" / "x1" / "b.csv", "b")
    for name in ("private", "lost+found", ".cache", "x2"):
        write_rows(tmp_path / "in" / name / "deep" / "c.csv", "c")
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(os.path.relpath(path, tmp_path)) or scandir(path))
    for pattern, names, folders in (
        ("in/*.csv", ["a.csv"], ["in"]),
        ("in/x*/b.csv", ["b.csv"], ["in"]),
        ("in/x1/*.csv", ["b.csv"], ["in/x1"]),
    ):
        listed.clear()
        assert [os.path.basename(file.path) for file in expand_uri(f"{tmp_path}/{pattern}")] == names
        assert listed == folders
    listed.clear()
    expand_uri(str(tmp_path / "in"))
    assert not {"in/lost+found", "in/.cache"} & set(listed)


def test_a_glob_in_a_bucket_asks_for_one_level(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3.uri)
    for name in ("prompts-1.csv", "other.csv", "audio/a/1.csv", "audio/b/2.csv"):
        store.write(name, b"prompt\na\n")
    monkeypatch.setattr(type(store), "list", lambda *arguments: pytest.fail("everything was listed"))
    scans: list[tuple[str, str]] = []
    scan = type(store).scan
    monkeypatch.setattr(
        type(store), "scan", lambda self, folder="", stem="": scans.append((folder, stem)) or scan(self, folder, stem)
    )
    assert [file.path.rpartition("/")[2] for file in expand_uri(f"{s3.uri}/prompts-*.csv")] == ["prompts-1.csv"]
    assert [file.path.rpartition("/")[2] for file in expand_uri(f"{s3.uri}/audio/*/2.csv")] == ["2.csv"]
    assert scans == [("", "prompts-"), ("", "")]


def test_a_delta_table_in_a_bucket(tmp_path: Path, s3: Any) -> None:
    pytest.importorskip("deltalake")
    write_delta_by_hand(tmp_path / "t")
    store = open_store(s3.uri)
    for path in (tmp_path / "t").glob("**/*.*"):
        store.write(f"t/{path.relative_to(tmp_path / 't')}", path)
    assert prompts_of(f"{s3.uri}/t") == ["two, new"]


def test_a_delta_table_in_a_bucket_that_a_profile_names(
    tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoint and credentials come from where our own requests have them, which deltalake alone would not read."""
    pytest.importorskip("deltalake")
    write_delta_by_hand(tmp_path / "t")
    store = open_store(s3.uri)
    for path in (tmp_path / "t").glob("**/*.*"):
        store.write(f"t/{path.relative_to(tmp_path / 't')}", path)
    for name in s3.env:
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        f"[night]\naws_access_key_id={s3.access_key}\naws_secret_access_key={s3.secret_key}\n"
    )
    (tmp_path / "config").write_text(f"[profile night]\nregion=us-east-1\nendpoint_url={s3.endpoint}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "night")
    assert prompts_of(f"{s3.uri}/t") == ["two, new"]
