"""Faults of an S3 store: each call ends in time, as the right kind of error, and a lost reply is settled."""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem

from musicgen.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable
from musicgen.storage import Store, open_store
from musicgen.storage.deadlines import Deadlines
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.patience import wait_for_store
from musicgen.store_waits import find_longest_wait
from tests.faults.fault import Fault
from tests.faults.proxy import FaultProxy

Call = Callable[[Store], object]

CALLS: dict[str, Call] = {
    "read": lambda store: store.read("one"),
    "read a range": lambda store: store.read("one", 1, 2),
    "open": lambda store: store.open("one").read(),
    "info": lambda store: store.info("one"),
    "list": lambda store: list(store.list()),
    "write": lambda store: store.write("two", b"2"),
    "put if absent": lambda store: store.put_if_absent("three", b"3"),
    "commit": lambda store: store.commit_if_absent("four", b"4"),
    "delete": lambda store: store.delete("one"),
}


@pytest.fixture
def store(proxy: FaultProxy, s3) -> Store:
    """A store behind the proxy with one object, "one"."""
    store = open_store(s3.uri)
    store.write("one", b"0123456789")
    return store


@pytest.fixture
def impatient(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, with requests that may take 0.6 s, half of it for a try."""
    monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "0.6")
    return store


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_request_that_is_never_answered_ends_at_its_deadline(proxy: FaultProxy, impatient: Store, call: Call):
    proxy.add(Fault("swallow"))
    with pytest.raises(StoreUnavailable, match="no answer from http://127"):
        call(impatient)
    assert find_longest_wait() is None


@pytest.mark.parametrize("call", ["read", "write", "commit"])
@pytest.mark.parametrize("mode", ["swallow", "swallow_body", "hang_reply"])
def test_an_answer_that_is_late_once_is_not_noticed(
    proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch, mode: str, call: str
):
    deadlines = Deadlines(try_s=0.5, total_s=60)  # nothing but the deadline of a try ends these faults
    monkeypatch.setattr("musicgen.storage.s3_store.read_work_deadlines", lambda: deadlines)
    fault = proxy.add(Fault(mode, count=1))
    assert CALLS[call](store) is not False
    assert fault.hits == 1


def test_time_that_the_first_client_takes_is_not_the_stores(store: Store, monkeypatch: pytest.MonkeyPatch):
    """On a busy machine a job ended with "no answer in time", because botocore's files took longer than the check."""
    set_session = S3FileSystem.set_session

    async def set_session_slowly(file_system: S3FileSystem) -> object:
        await asyncio.sleep(1)
        return await set_session(file_system)

    monkeypatch.setattr(S3FileSystem, "set_session", set_session_slowly)
    monkeypatch.setattr("musicgen.storage.s3_store.CHECK_DEADLINES", Deadlines(try_s=0.9, total_s=0.9))
    store.check()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("mode", ["drop_reply", "reset", "status"])
def test_a_fault_that_passes_is_not_noticed(proxy: FaultProxy, store: Store, mode: str, call: Call):
    fault = proxy.add(Fault(mode, count=1))
    result = call(store)
    assert fault.hits == 1
    # A conditional put may have met its own object: it says so, and a commit looks.
    assert result is not False or (call is CALLS["put if absent"] and mode == "drop_reply")


@pytest.mark.parametrize("mode", ["cut_reply", "stall_reply"])
def test_half_an_answer_is_a_fault_of_the_store(
    proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch, mode: str
):
    deadlines = Deadlines(try_s=0.5, total_s=60)
    monkeypatch.setattr("musicgen.storage.s3_store.read_work_deadlines", lambda: deadlines)
    table = pa.table({"x": list(range(10_000))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.write("table", sink.getvalue().to_pybytes())
    fault = proxy.add(Fault(mode, "GET .*/table", count=1))
    with store.open("table") as file:
        assert ParquetReader(file).read() == table
    assert fault.hits == 1
    deadlines = Deadlines(try_s=0.3, total_s=0.6)
    proxy.add(Fault(mode, "GET .*/(one|table)"))
    for read in (lambda: store.read("one"), lambda: store.open("one").read()):
        with pytest.raises(StoreUnavailable):
            read()
    with pytest.raises(StoreUnavailable), store.open("table") as file:
        ParquetReader(file)


def test_tries_do_not_multiply(proxy: FaultProxy, impatient: Store):
    proxy.add(Fault("status"))
    for call in (CALLS["read"], CALLS["open"], CALLS["read a range"]):
        before = proxy.hits["status"]
        with pytest.raises(StoreUnavailable, match=r"SlowDown|503"):
            call(impatient)
        assert 1 < proxy.hits["status"] - before < 10


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "InternalError", StoreUnavailable),
        (502, "BadGateway", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (429, "TooManyRequests", StoreUnavailable),
        (409, "OperationAborted", StoreUnavailable),
        (400, "RequestTimeout", StoreUnavailable),
        (401, "Unauthorized", StoreDenied),
        (403, "AccessDenied", StoreDenied),
        (400, "ExpiredToken", StoreDenied),
        (507, "XMinioStorageFull", StoreFull),
        (403, "QuotaExceeded", StoreFull),
        (501, "NotImplemented", StoreError),
        (400, "InvalidRequest", StoreError),
    ],
)
def test_an_answer_becomes_the_error_of_its_kind(
    proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch, status: int, code: str, kind: type[StoreError]
):
    if kind is StoreUnavailable:  # which is tried again for as long
        monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "0.6")
    proxy.add(Fault("status", status=status, code=code))
    with pytest.raises(StoreError) as caught:
        store.put_if_absent("new", b"1")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"), [(503, StoreUnavailable), (403, StoreDenied), (400, StoreDenied), (501, StoreError)]
)
def test_an_answer_without_a_body_too(
    proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch, status: int, kind: type[StoreError]
):
    if kind is StoreUnavailable:
        monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "0.6")
    proxy.add(Fault("status", "HEAD", status=status))
    with pytest.raises(kind):
        store.info("one")


def test_a_store_that_is_down_is_waited_for(proxy: FaultProxy, impatient: Store):
    proxy.stop_listening()
    with pytest.raises(StoreUnavailable, match="cannot reach http://127"):
        impatient.read("one")
    waits = []

    def come_back(error: StoreError, since: float) -> None:
        waits.append(error)
        proxy.listen()

    assert wait_for_store(lambda: impatient.read("one"), 60, come_back) == b"0123456789"
    assert len(waits) == 1


def test_renewed_credentials_are_noticed(
    proxy: FaultProxy, store: Store, s3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    credentials = tmp_path / "credentials"

    def write_credentials(secret: str) -> None:
        credentials.write_text(f"[default]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {secret}\n")

    write_credentials("an old one")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreDenied, match="secret key is wrong"):
        store.read("one")
    write_credentials(s3.secret_key)
    assert store.read("one") == b"0123456789"


@pytest.mark.parametrize("request_line", ["POST .*uploads", "PUT .*partNumber=2", "POST .*uploadId"])
@pytest.mark.parametrize("mode", ["drop_reply", "status", "reset"])
def test_an_upload_in_parts_survives_a_fault(
    proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request_line: str, mode: str
):
    monkeypatch.setattr("musicgen.storage.s3_upload.PART_BYTES", 5 << 20)
    source = tmp_path / "big"
    source.write_bytes(os.urandom(11 << 20))
    digest = hashlib.file_digest(source.open("rb"), "sha256").hexdigest()
    for write in (store.commit_if_absent, store.write):
        name = write.__name__
        fault = proxy.add(Fault(mode, request_line, count=1))
        assert write(name, source) in (True, None)
        assert fault.hits == 1
        assert store.sha256(name) == digest


def test_a_lost_reply_does_not_take_the_object_of_another(proxy: FaultProxy, store: Store):
    store.write("theirs", b"theirs")
    proxy.add(Fault("drop_reply", "PUT", count=2))
    assert not store.commit_if_absent("theirs", b"ours")
    assert store.read("theirs") == b"theirs"


def test_a_slow_store_is_no_store_that_does_not_answer(
    proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "2")
    proxy.add(Fault("throttle", bytes_per_s=2e6))
    start = time.monotonic()
    store.write("slow", os.urandom(4_000_000))
    assert time.monotonic() - start > 2  # longer than a request without a body may take


class TestProbe:
    """A fault of the store says nothing about its put-if-absent."""

    @pytest.mark.parametrize("skip", range(3))
    @pytest.mark.parametrize("mode", ["status", "drop_reply", "reset"])
    def test_one_fault_is_passed_over(self, proxy: FaultProxy, store: Store, mode: str, skip: int):
        fault = proxy.add(Fault(mode, "probe", count=1, skip=skip))
        store.probe()
        assert fault.hits == 1

    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [(503, "SlowDown", StoreUnavailable), (403, "AccessDenied", StoreDenied), (507, "Full", StoreFull)],
    )
    @pytest.mark.parametrize("skip", [0, 1])
    def test_a_lasting_fault_is_said_as_it_is(
        self,
        proxy: FaultProxy,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        code: str,
        kind: type[StoreError],
        skip: int,
    ):
        if kind is StoreUnavailable:
            monkeypatch.setenv("MUSICGEN_STORE_TIMEOUT_S", "0.6")
        proxy.add(Fault("status", "PUT .*probe", skip=skip, status=status, code=code))
        with pytest.raises(kind) as caught:
            store.probe()
        assert "single_writer" not in str(caught.value)

    def test_a_store_without_conditional_writes_is_refused(self, proxy: FaultProxy, store: Store, s3):
        fault = proxy.add(Fault("status", "PUT .*probe", count=1, status=501, code="NotImplemented"))
        with pytest.raises(StoreError, match="single_writer"):
            store.probe()
        assert fault.hits == 1
        open_store(s3.uri, single_writer=True).probe()


def test_check_lists_the_folder_and_nothing_beside_it(proxy: FaultProxy, s3):
    proxy.add(Fault("status", r"prefix=(?!.*%2F(&|$))", status=403, code="AccessDenied"))
    open_store(f"{s3.uri}/team/ds").check()
