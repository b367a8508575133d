"""Storage, on a folder and on a real S3 server."""

import hashlib
import os
import pickle
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from musicgen.errors import StoreError, StoreUnavailable
from musicgen.storage import Store, expand_uri, open_store, s3_store, s3_upload
from musicgen.storage import local as local_module
from musicgen.storage.location import check_path, parse_uri
from musicgen.storage.walk import translate_segments


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store, empty."""
    if request.param == "folder":
        return open_store(str(tmp_path / "a dataset"))
    return open_store(request.getfixturevalue("s3").uri)


def test_objects_are_written_read_listed_and_deleted(store: Store, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(b"from a file")
    store.write("b/two words.txt", b"0123456789")
    store.write("a.txt", b"old")
    store.write("a.txt", source)
    store.write("b/c/empty", b"")

    assert store.read("a.txt") == b"from a file"
    assert store.read("b/two words.txt", 3, 4) == b"3456"
    assert store.read("b/two words.txt", 8) == b"89"
    assert store.read("b/two words.txt", 2, 0) == b""
    with store.open("b/two words.txt") as file:
        file.seek(-2, 2)
        assert file.read() == b"89"
    assert [(file.path, file.size) for file in store.list()] == [
        ("a.txt", 11),
        ("b/c/empty", 0),
        ("b/two words.txt", 10),
    ]
    assert [file.path for file in store.list("b/c")] == ["b/c/empty"]
    assert list(store.list("nothing/here")) == []
    assert store.info("a.txt").etag
    assert store.size("b/c/empty") == 0
    assert store.sha256("a.txt") == hashlib.sha256(b"from a file").hexdigest()
    store.delete("a.txt")
    store.delete("a.txt")
    assert not store.exists("a.txt")
    assert not store.exists("b")


def test_a_listing_is_of_a_folder_not_of_names_that_begin_alike(store: Store):
    store.write("index/r1/a", b"1")
    store.write("index/r10/a", b"1")
    assert [file.path for file in store.list("index/r1")] == ["index/r1/a"]


def test_a_listing_goes_on_over_pages(s3, monkeypatch: pytest.MonkeyPatch):
    store = open_store(s3.uri)
    for i in range(5):
        store.write(f"x/{i}", b"1")
    monkeypatch.setattr(s3_store, "_PAGE_KEYS", 2)
    assert [file.path for file in store.list("x")] == [f"x/{i}" for i in range(5)]


@pytest.mark.parametrize("absent", ["read", "open", "size", "sha256"])
def test_an_absent_object_is_file_not_found(store: Store, absent: str):
    store.write("there", b"1")
    with pytest.raises(FileNotFoundError):
        getattr(store, absent)("not-there/in-this-bucket")


def test_a_store_pickles_as_its_uri(store: Store):
    store.write("x", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.uri == store.uri
    assert copy.read("x") == b"1"


@pytest.mark.parametrize("data", [b"ours", b""], ids=["bytes", "empty"])
def test_put_if_absent_never_replaces(store: Store, data: bytes, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(data)
    assert store.put_if_absent("one", data)
    assert not store.put_if_absent("one", b"theirs")
    assert store.put_if_absent("two", source)
    source.write_bytes(b"theirs")
    assert not store.put_if_absent("two", source)
    assert store.read("one") == store.read("two") == data


def test_put_if_absent_holds_for_multipart_uploads(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 << 20)
    store = open_store(s3.uri)
    big, other = os.urandom(11 << 20), tmp_path / "other"
    other.write_bytes(big[::-1])
    assert store.put_if_absent("big", big)
    assert not store.put_if_absent("big", other)
    assert store.sha256("big") == hashlib.sha256(big).hexdigest()
    assert store.read("big") == big
    store.write("big", other)
    assert store.read("big", (8 << 20) - 5, 10) == big[::-1][(8 << 20) - 5 : (8 << 20) + 5]


def test_racing_writers_have_one_winner(store: Store):
    rounds, writers = (30, 8) if store.location.scheme == "file" else (4, 8)

    def put(job: tuple[int, int]) -> tuple[int, int, bool]:
        turn, writer = job
        return turn, writer, store.commit_if_absent(f"race/{turn}", f"writer {writer}".encode() * 1000)

    with ThreadPoolExecutor(writers) as pool:
        results = list(pool.map(put, [(turn, writer) for turn in range(rounds) for writer in range(writers)]))
    for turn in range(rounds):
        winners = [writer for t, writer, won in results if t == turn and won]
        assert len(winners) == 1
        assert store.read(f"race/{turn}") == f"writer {winners[0]}".encode() * 1000
    assert len(list(store.list("race"))) == rounds


def test_a_lost_reply_is_told_by_the_object(store: Store, monkeypatch: pytest.MonkeyPatch):
    real = type(store).put_if_absent

    def put_and_lose_the_reply(self, path, data):
        assert real(self, path, data)
        raise StoreError("no answer in time")

    monkeypatch.setattr(type(store), "put_if_absent", put_and_lose_the_reply)
    assert store.commit_if_absent("one", b"mine")
    monkeypatch.setattr(
        type(store), "put_if_absent", lambda self, path, data: False
    )  # the client's own retry said "exists"
    assert store.commit_if_absent("one", b"mine")
    assert not store.commit_if_absent("one", b"other")
    monkeypatch.setattr(
        type(store), "put_if_absent", lambda self, path, data: (_ for _ in ()).throw(StoreError("unreachable"))
    )
    with pytest.raises(StoreError, match="unreachable"):
        store.commit_if_absent("two", b"mine")


def test_a_crash_while_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = open_store(str(tmp_path))
    monkeypatch.setattr(local_module.os, "link", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        store.put_if_absent("x", b"1")
    assert list(tmp_path.iterdir()) == []


def test_probe_leaves_nothing(store: Store):
    store.probe()
    assert list(store.list()) == []
    if store.location.scheme == "file":
        assert not Path(store.uri).exists()


def test_a_store_that_ignores_put_if_absent_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch):
    store_class = type(store)
    real = store_class.put_if_absent
    monkeypatch.setattr(store_class, "put_if_absent", lambda self, path, data: self.write(path, data) or True)
    with pytest.raises(StoreError, match="single_writer"):
        store.probe()
    monkeypatch.setattr(store_class, "put_if_absent", real)
    alone = open_store(store.uri, single_writer=True)
    alone.probe()
    assert alone.put_if_absent("x", b"1")
    assert not alone.put_if_absent("x", b"2")
    assert alone.read("x") == b"1"


class TestErrorsAreOneLine:
    """Each fault: a StoreError within seconds, one line, no secret in it."""

    def expect_error(self, uri: str, seconds: float = 10) -> str:
        start = time.monotonic()
        with pytest.raises(StoreError) as caught:
            open_store(uri).probe()
        assert time.monotonic() - start < seconds
        message = str(caught.value)
        assert "\n" not in message
        assert "secret-value" not in message
        return message

    def test_missing_bucket(self, s3):
        assert "no bucket 'no-such-bucket'" in self.expect_error("s3://no-such-bucket/x")

    def test_wrong_secret(self, s3, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-value")
        assert "AWS_SECRET_ACCESS_KEY" in self.expect_error(s3.uri)

    def test_unknown_key(self, s3, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        assert "access" in self.expect_error(s3.uri)

    def test_no_credentials(self, s3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        assert "no credentials" in self.expect_error(s3.uri)

    def test_unreachable_endpoint(self, s3, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        assert "cannot reach http://127.0.0.1:9" in self.expect_error(s3.uri)

    def test_an_endpoint_that_swallows_packets(self, s3, monkeypatch: pytest.MonkeyPatch):
        with socket.socket() as listener:  # accepts connections, never answers
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{listener.getsockname()[1]}")
            assert "no answer from http://127.0.0.1" in self.expect_error(s3.uri, 15)

    def test_an_endpoint_with_a_password_in_it(self, s3, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://user:secret-value@127.0.0.1:9")
        assert "holds a user name or password" in self.expect_error(s3.uri)

    def test_an_endpoint_that_is_no_url(self, s3, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "nonsense")
        assert "AWS_ENDPOINT_URL" in self.expect_error(s3.uri)

    def test_a_file_where_the_folder_should_be(self, tmp_path: Path):
        (tmp_path / "taken").write_text("")
        assert "is a file" in self.expect_error(str(tmp_path / "taken"))
        assert "a file stands where" in self.expect_error(str(tmp_path / "taken" / "below"))

    def test_a_folder_that_cannot_be_written(self):
        assert "/proc" in self.expect_error("/proc/no-place-to-write")

    @pytest.mark.parametrize(
        "uri",
        [
            "http://host/x",
            "memory://x",
            "gs://bucket/x",
            "az://container/x",
            "s3://",
            "",
            "file://relative",
            "s3://b/../c",
        ],
    )
    def test_not_a_place(self, uri: str):
        self.expect_error(uri)

    def test_credentials_in_the_uri(self):
        assert "environment" in self.expect_error("s3://key:secret-value@bucket/x")


@pytest.mark.parametrize("path", ["", "/abs", "a/../b", "..", "a//b", "a/./b", "a\\b", "a\nb", "a/"])
def test_paths_cannot_leave_the_store(path: str, tmp_path: Path):
    with pytest.raises(ValueError, match="not a path"):
        check_path(path)
    with pytest.raises(ValueError, match="not a path"):
        open_store(str(tmp_path)).write(path, b"")


def test_one_store_has_one_canonical_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert parse_uri("s3a://bucket//a/b/").uri == "s3://bucket/a/b"
    assert parse_uri("out/x/").uri == parse_uri(f"file://{tmp_path}/out/x").uri == str(tmp_path / "out/x")
    assert open_store("s3://bucket/a").join("b", "c") == "s3://bucket/a/b/c"


def test_files_folders_and_globs_are_expanded(store: Store):
    for name in (
        "a.parquet",
        "b.parquet",
        "c.csv",
        "deep/d.parquet",
        "deep/deeper/e.parquet",
        "_SUCCESS",
        ".hidden",
        "odd[1].csv",
    ):
        store.write(name, b"1")

    def names(pattern: str) -> list[str]:
        return [
            file.path.removeprefix(store.uri + "/")
            for file in expand_uri(f"{store.uri}/{pattern}" if pattern else store.uri)
        ]

    assert names("a.parquet") == ["a.parquet"]
    assert names("*.parquet") == ["a.parquet", "b.parquet"]
    assert names("**/*.parquet") == ["a.parquet", "b.parquet", "deep/d.parquet", "deep/deeper/e.parquet"]
    assert names("d*/d.parquet") == ["deep/d.parquet"]
    assert names("[ab].parquet") == ["a.parquet", "b.parquet"]
    assert names("[!a].parquet") == ["b.parquet"]
    assert names("odd[1].csv") == ["odd[1].csv"]
    assert names("") == ["a.parquet", "b.parquet", "c.csv", "deep/d.parquet", "deep/deeper/e.parquet", "odd[1].csv"]
    assert names("deep") == ["deep/d.parquet", "deep/deeper/e.parquet"]
    assert names("nothing") == names("nothing/*.csv") == []


def test_a_missing_bucket_is_not_an_empty_manifest(s3):
    with pytest.raises(StoreError, match="no bucket"):
        expand_uri("s3://no-such-bucket/prompts/*.parquet")


def test_glob_special_characters_are_literal_elsewhere():
    assert translate_segments(["a.b+c"]) == r"a\.b\+c"


def test_an_object_is_replaced_only_if_it_is_the_one_that_was_read(store: Store, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(b"third")
    store.write("one", b"first")
    read = store.info("one").etag
    assert store.replace_if_match("one", b"second", read)
    assert not store.replace_if_match("one", b"third", read)
    assert store.read("one") == b"second"
    assert store.replace_if_match("one", source, store.info("one").etag)
    assert store.read("one") == b"third"
    with pytest.raises(FileNotFoundError):
        store.replace_if_match("two", b"first", read)
    assert [file.path for file in store.list()] == ["one"]
    store.probe_replacing()
    assert [file.path for file in store.list()] == ["one"]


def test_of_racing_replacements_one_wins(store: Store):
    rounds, writers = (30, 8) if store.location.scheme == "file" else (3, 6)
    for turn in range(rounds):
        store.write("one", b"old")
        etag = store.info("one").etag

        def replace(writer: int, etag: str = etag, turn: int = turn) -> bool:
            return store.replace_if_match("one", f"{turn} writer {writer}".encode(), etag)

        with ThreadPoolExecutor(writers) as pool:
            won = list(pool.map(replace, range(writers)))
        assert sum(won) == 1
        assert store.read("one") == f"{turn} writer {won.index(True)}".encode()


def test_large_objects_are_replaced_on_the_same_condition(s3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 << 20)
    store, big = open_store(s3.uri), os.urandom(6 << 20)
    store.write("big", b"small")
    etag = store.info("big").etag
    assert store.replace_if_match("big", big, etag)
    assert not store.replace_if_match("big", big[::-1], etag)
    assert store.read("big") == big


def test_a_replacement_whose_reply_was_lost_is_ours(s3, monkeypatch: pytest.MonkeyPatch):
    store = open_store(s3.uri)
    store.write("one", b"first")
    etag = store.info("one").etag
    real = s3_store.upload

    def upload_and_lose_the_reply(send, target, data, condition):
        real(send, target, data, condition)
        raise StoreUnavailable("no answer in time")

    monkeypatch.setattr(s3_store, "upload", upload_and_lose_the_reply)
    assert store.replace_if_match("one", b"second", etag)


@pytest.mark.parametrize("fault", ["ignored", "not implemented"])
def test_a_store_that_does_not_know_if_match_is_refused(store: Store, fault: str, monkeypatch: pytest.MonkeyPatch):
    def replace(self: Store, path: str, data: bytes, etag: str) -> bool:
        if fault == "not implemented":
            raise StoreError("the store answered NotImplemented")
        self.write(path, data)
        return True

    monkeypatch.setattr(type(store), "replace_if_match", replace)
    with pytest.raises(StoreError, match="If-Match"):
        store.probe_replacing()
    assert list(store.list()) == []
