"""A prefix of a bucket, through fsspec: S3 and what speaks it (s3fs), Google and Azure where their drivers are
installed.

Put-if-absent is `mode="create"`, which s3fs sends as `If-None-Match: *` (for multipart uploads on completion), and not
`open(..., "xb")`, which commits an empty file without the condition.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from musicgen.errors import StoreError
from musicgen.storage import faults
from musicgen.storage.location import S3_SCHEMES, check_path
from musicgen.storage.store import FileInfo, Store
from musicgen.value_types import JsonObject

if TYPE_CHECKING:
    import fsspec

_T = TypeVar("_T")
_CONFLICT_ATTEMPTS = 8
_READ_BLOCK = 1 << 20

# Work waits for a slow store; a check answers within seconds.
_PATIENT_CONFIG = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "max_pool_connections": 64,
    "retries": {"mode": "standard", "max_attempts": 5},
}
_CHECK_CONFIG = {
    "connect_timeout": 3,
    "read_timeout": 4,
    "max_pool_connections": 4,
    "retries": {"mode": "standard", "max_attempts": 1},
}


class CloudStore(Store):
    """A bucket's prefix. Credentials, region and endpoint come from the usual AWS variables and files."""

    @property
    def _fs(self) -> "fsspec.AbstractFileSystem":
        return _file_system(self.location.scheme, checking=False)

    def _full_path(self, path: str) -> str:
        return f"{self.location.root}/{check_path(path)}"

    def _call(self, path: str, function: Callable[..., _T], *args: object, **kwargs: object) -> _T:
        """Call a function of the file system; its errors are translated into the store's."""
        try:
            return function(*args, **kwargs)
        except faults.STORE_ERRORS as error:
            raise faults.translate_error(error, self.location, path) from error

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See `Store.read`."""
        if length == 0:
            return b""
        end = None if length is None else start + length
        return self._call(path, self._fs.cat_file, self._full_path(path), start=start or None, end=end)

    def open(self, path: str) -> BinaryIO:
        """See `Store.open`."""
        return self._call(path, self._fs.open, self._full_path(path), "rb", block_size=_READ_BLOCK)

    def write(self, path: str, data: bytes | Path) -> None:
        """See `Store.write`."""
        self._call(path, self._put_object, path, data, "overwrite")

    def put_if_absent(self, path: str, data: bytes | Path) -> bool:
        """See `Store.put_if_absent`."""
        if self.single_writer:  # the store may ignore the condition, or refuse it
            if self.exists(path):
                return False
            self.write(path, data)
            return True
        for attempt in range(_CONFLICT_ATTEMPTS):
            try:
                self._put_object(path, data, "create")
                return True
            except faults.STORE_ERRORS as error:
                if faults.is_already_exists(error):
                    return False
                if not faults.is_write_conflict(error) or attempt == _CONFLICT_ATTEMPTS - 1:
                    raise faults.translate_error(error, self.location, path) from error
            time.sleep(min(2.0, 0.05 * 2**attempt))  # a conflict means that another write is under way
        raise AssertionError("unreachable")

    def _put_object(self, path: str, data: bytes | Path, mode: str) -> None:
        if isinstance(data, Path):
            self._fs.put_file(str(data), self._full_path(path), mode=mode)
        else:
            self._fs.pipe_file(self._full_path(path), data, mode=mode)

    def list(self, prefix: str = "") -> Iterator[FileInfo]:
        """See `Store.list`."""
        folder = self._full_path(prefix) if prefix else self.location.root
        if self.location.scheme in S3_SCHEMES:
            return self._list_s3(folder, prefix)
        return self._list_any(folder, prefix)

    def _list_s3(self, folder: str, prefix: str) -> Iterator[FileInfo]:
        bucket, _, key = folder.partition("/")
        start = len(self.location.prefix) + 1 if self.location.prefix else 0
        token: dict[str, str] = {}
        while True:  # a dataset may have a hundred million objects
            page = self._call(
                prefix, self._fs.call_s3, "list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", **token
            )
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # an empty object that stands for a folder
                    yield FileInfo(entry["Key"][start:], entry["Size"], entry.get("ETag", "").strip('"'))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _list_any(self, folder: str, prefix: str) -> Iterator[FileInfo]:
        entries = self._call(prefix, self._fs.find, folder, detail=True)
        for name in sorted(entries):
            yield _file_info(name[len(self.location.root) + 1 :], entries[name])

    def info(self, path: str) -> FileInfo:
        """See `Store.info`."""
        entry = self._call(path, self._fs.info, self._full_path(path))
        if entry.get("type") == "directory":
            raise FileNotFoundError(self.join(path))
        return _file_info(path, entry)

    def delete(self, path: str) -> None:
        """See `Store.delete`."""
        with contextlib.suppress(FileNotFoundError):
            self._call(path, self._fs.rm_file, self._full_path(path))

    def check(self) -> None:
        """See `Store.check`."""
        fs = _file_system(self.location.scheme, checking=True)
        try:
            if self.location.scheme in S3_SCHEMES:
                fs.call_s3("list_objects_v2", Bucket=self.location.bucket, Prefix=self.location.prefix, MaxKeys=1)
            else:
                fs.ls(self.location.bucket)
        except FileNotFoundError:
            raise StoreError(
                f"{self.uri}: there is no bucket {self.location.bucket!r}; create it, or correct the name"
            ) from None
        except faults.STORE_ERRORS as error:
            raise faults.translate_error(error, self.location) from error


_file_systems: dict[tuple[object, ...], "fsspec.AbstractFileSystem"] = {}
_file_systems_lock = threading.Lock()


def _file_system(scheme: str, checking: bool) -> "fsspec.AbstractFileSystem":
    """Return the fsspec file system, which all stores and threads share, since to make one takes a third of a second.

    There is one per process, since its event loop does not survive a fork, and per environment.
    """
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    key = (os.getpid(), scheme, checking, environment)
    with _file_systems_lock:
        if key not in _file_systems:
            _file_systems[key] = _make_file_system(scheme, checking)
        return _file_systems[key]


def _make_file_system(scheme: str, checking: bool) -> "fsspec.AbstractFileSystem":
    import fsspec

    options: dict[str, object] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in S3_SCHEMES:
        options["endpoint_url"] = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")  # botocore knows only the second
        options["client_kwargs"] = {"region_name": region} if region else {}
        options["config_kwargs"] = dict(_CHECK_CONFIG if checking else _PATIENT_CONFIG)
    try:
        fs = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise StoreError(
            f"{scheme}:// needs a driver that is not installed ({error}); pip install it, or use s3://"
        ) from None
    except ValueError as error:  # an endpoint that is no URL
        raise StoreError(f"{scheme}:// cannot be set up: {error}; look at AWS_ENDPOINT_URL") from None
    if checking and scheme in S3_SCHEMES:
        fs.retries = 1
    return fs


def _file_info(path: str, entry: JsonObject) -> FileInfo:
    etag = entry.get("ETag") or entry.get("etag") or entry.get("generation") or entry.get("mtime") or ""
    return FileInfo(path, int(entry.get("size") or 0), str(etag).strip('"'))
