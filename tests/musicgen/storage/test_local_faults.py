"""Faults of a folder's disk: each is an error of its kind, and what says nothing about the data is passed over."""

import errno
import os
from pathlib import Path

import pytest

from musicgen.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable
from musicgen.storage import local as local_module
from musicgen.storage import open_store


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
):
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(local_module.os, "fsync", fsync)
    store = open_store(str(tmp_path / "new" / "folder"))
    store.write("a", b"1")
    assert store.put_if_absent("b", b"2")
    assert store.commit_if_absent("c", b"3")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.ENAMETOOLONG, StoreError),
    ],
)
def test_an_error_of_the_disk_is_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StoreError]
):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    store = open_store(str(tmp_path))
    monkeypatch.setattr(local_module.os, "fsync", fail)
    for write in (store.write, store.put_if_absent):
        with pytest.raises(StoreError) as caught:
            write("a", b"1")
        assert type(caught.value) is kind
    assert list(tmp_path.iterdir()) == []


def test_a_read_that_fails_is_a_fault_of_the_store(monkeypatch: pytest.MonkeyPatch):
    with open_store("/proc/self").open("mem") as file, pytest.raises(StoreUnavailable, match="Input/output"):
        file.read(10)  # nothing is mapped at address 0: EIO
