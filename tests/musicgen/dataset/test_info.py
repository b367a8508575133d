"""dataset.json: the first run writes it, later ones must agree with it."""

import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from musicgen.dataset.info import (
    DatasetInfo,
    check_dataset_info,
    read_dataset_info,
    refuse_foreign_folder,
    require_dataset_info,
    write_dataset_info,
)
from musicgen.errors import JobError, StoreError
from musicgen.storage import open_store
from musicgen.version import package_version

FIRST = DatasetInfo.of("files", "flac", pa.schema([("mood", pa.string()), ("bpm", pa.int64())]))


def test_the_first_job_writes_it_and_the_same_job_fits(tmp_path):
    store = open_store(str(tmp_path))
    assert check_dataset_info(store, FIRST) is None
    assert list(store.list()) == []  # checking writes nothing
    write_dataset_info(store, FIRST)
    assert read_dataset_info(store) == write_dataset_info(store, FIRST) == check_dataset_info(store, FIRST) == FIRST


@pytest.mark.parametrize(
    ("job", "named"),
    [
        (
            DatasetInfo.of("parquet", "flac", pa.schema([("mood", pa.string()), ("bpm", pa.int64())])),
            "layout is 'files', not 'parquet'",
        ),
        (
            DatasetInfo.of("files", "mp3", pa.schema([("mood", pa.string()), ("bpm", pa.int64())])),
            "format is 'flac', not 'mp3'",
        ),
        (
            DatasetInfo.of("files", "flac", pa.schema([("mood", pa.string()), ("bpm", pa.string())])),
            "'bpm' is int64, not string",
        ),
    ],
)
def test_a_job_that_does_not_fit_gets_the_differences(tmp_path, job: DatasetInfo, named: str):
    store = open_store(str(tmp_path))
    write_dataset_info(store, FIRST)
    with pytest.raises(JobError, match="does not fit") as caught:
        write_dataset_info(store, job)
    assert named in str(caught.value)
    assert read_dataset_info(store) == FIRST


@pytest.mark.parametrize(
    "name", ["README.md", "metadata.parquet", "index/part.parquet", "audio/a/b.flac", "listen.html"]
)
def test_a_folder_without_a_dataset_that_holds_a_written_name_is_refused(tmp_path, name: str):
    store = open_store(str(tmp_path))
    store.write("notes.txt", b"mine")
    refuse_foreign_folder(store)
    store.write(name, b"mine")
    with pytest.raises(JobError, match=name.split("/")[0]):
        write_dataset_info(store, FIRST)
    assert store.read(name) == b"mine"
    assert not store.exists("dataset.json")


def test_two_first_jobs_at_once_cannot_both_win(s3):
    store = open_store(s3.uri)
    jobs = [DatasetInfo.of("files", format) for format in ("flac", "mp3", "wav", "ogg")]

    def attempt(job: DatasetInfo) -> bool:
        try:
            return write_dataset_info(store, job) == job
        except JobError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempt, jobs)) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schema_version": "x"}',
        b'{"layout": 1}',
        b'{"schema_version": 0, "layout": "files", "format": "flac", "carried": {}}',
    ],
)
def test_a_foreign_dataset_json_is_refused(tmp_path, text: bytes):
    (tmp_path / "dataset.json").write_bytes(text)
    with pytest.raises(JobError, match="is not a dataset's"):
        read_dataset_info(open_store(str(tmp_path)))


LATER = b"""{"schema_version": 3, "layout": "files", "format": "flac", "carried": {"mood": "string", "bpm": "int64"},
"begun_by": "musicgen-batch 9.1.0", "checksums": true, "views": {"current": 7}}"""


def test_a_dataset_of_a_later_version_is_read_and_not_added_to(tmp_path):
    (tmp_path / "dataset.json").write_bytes(LATER)
    store = open_store(str(tmp_path))
    info = read_dataset_info(store)
    assert info == require_dataset_info(store)
    assert (info.schema_version, info.layout, info.carried["bpm"], info.checksums) == (3, "files", "int64", True)
    for job in (FIRST, DatasetInfo.of("parquet", "mp3")):
        with pytest.raises(
            JobError, match=r"version 3, which this release .* use musicgen-batch 9\.1\.0 or a later one"
        ):
            write_dataset_info(store, job)
    assert (tmp_path / "dataset.json").read_bytes() == LATER


def test_a_dataset_of_version_1_is_added_to_as_it_is(tmp_path):
    store = open_store(str(tmp_path))
    text = b'{"layout": "files", "format": "flac", "carried": {"mood": "string", "bpm": "int64"}, "schema_version": 1}'
    store.write("dataset.json", text)
    info = write_dataset_info(store, FIRST)
    assert (info.schema_version, info.codes, info.checksums, info.tags, info.carried_names) == (
        1,
        False,
        False,
        None,
        {},
    )
    assert store.read("dataset.json") == text


def test_a_new_dataset_pins_where_its_carried_columns_come_from(tmp_path):
    store = open_store(str(tmp_path))
    carried = pa.schema([("manifest_key", pa.string())])
    write_dataset_info(store, DatasetInfo.of("files", "flac", carried, carried_names={"key": "manifest_key"}))
    document = json.loads(store.read("dataset.json"))
    assert document["schema_version"] == 2
    assert document["carried_names"] == {"key": "manifest_key"}
    assert document["checksums"] is True
    assert document["tags"] is None
    assert document["begun_by"] == f"musicgen-batch {package_version()}"
    with pytest.raises(
        JobError, match="the carried column 'manifest_key' is the manifest's 'key', not its 'manifest_key'"
    ):
        write_dataset_info(store, DatasetInfo.of("files", "flac", carried))


def test_a_folder_without_a_dataset_has_no_info(tmp_path):
    with pytest.raises(StoreError, match="is not a dataset"):
        require_dataset_info(open_store(str(tmp_path)))
