"""dataset.json: the first run writes it, later ones must agree with it."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from musicgen.dataset.info import (
    DatasetInfo,
    check_dataset_info,
    read_dataset_info,
    refuse_foreign_folder,
    write_dataset_info,
)
from musicgen.errors import JobError
from musicgen.storage import open_store

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
        (DatasetInfo.of("files", "flac", pa.schema([("mood", pa.string())])), "a column 'bpm' that the manifest lacks"),
        (
            DatasetInfo.of("files", "flac", pa.schema([("mood", pa.string()), ("bpm", pa.int64()), ("x", pa.int8())])),
            "no column 'x'",
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


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"schema_version": "x"}', b'{"layout": 1}'])
def test_a_foreign_dataset_json_is_refused(tmp_path, text: bytes):
    (tmp_path / "dataset.json").write_bytes(text)
    with pytest.raises(JobError, match="is not a dataset's"):
        read_dataset_info(open_store(str(tmp_path)))


def test_a_newer_schema_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text('{"schema_version": 99, "layout": "files", "format": "flac", "carried": {}}')
    with pytest.raises(JobError, match="version 99"):
        read_dataset_info(open_store(str(tmp_path)))
