"""A prefix of a bucket of S3, or of a store that speaks its protocol.

Put-if-absent is `If-None-Match: *`, for multipart uploads on completion.
"""

import contextlib
import io
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from musicgen.errors import StoreUnavailable
from musicgen.storage.deadlines import CHECK_DEADLINES, Deadlines, read_work_deadlines
from musicgen.storage.location import check_path
from musicgen.storage.s3_api import Request, S3Api
from musicgen.storage.s3_client import send_request
from musicgen.storage.s3_faults import EmptyRange, PreconditionFailed, UploadGone
from musicgen.storage.s3_file import S3File
from musicgen.storage.s3_upload import upload
from musicgen.storage.store import FileInfo, Scan, Store, UnfinishedWrite
from musicgen.value_types import JsonObject

_T = TypeVar("_T")
_FIRST_RANGE_BYTES = 1 << 20  # of an object whose size is not known; its deadline is meant for that much
_RANGE_BYTES = 8 << 20
_READ_AHEAD_BYTES = 1 << 20
_PAGE_KEYS = 1000
_IF_ABSENT = {"IfNoneMatch": "*"}


class S3Store(Store):
    """A bucket's prefix. Credentials, region and endpoint come from the usual AWS variables and files."""

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See `Store.read`."""
        parts: list[bytes] = []
        etag: str | None = None
        position, end = start, None if length is None else start + length
        while end is None or position < end:
            size = _FIRST_RANGE_BYTES if end is None else min(_RANGE_BYTES, end - position)
            part, object_size, etag = self._read_range(path, position, size, etag)
            parts.append(part)
            position += len(part)
            end = object_size if end is None else min(end, object_size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def open(self, path: str) -> BinaryIO:
        """See `Store.open`."""
        info = self.info(path)

        def read_range(start: int, length: int) -> bytes:
            return self._read_range(path, start, length, info.etag or None)[0]

        return cast(BinaryIO, io.BufferedReader(S3File(self.join(path), info.size, read_range), _READ_AHEAD_BYTES))

    def write(self, path: str, data: bytes | Path) -> None:
        """See `Store.write`."""
        try:
            self._upload(path, data)
        except UploadGone:  # perhaps it was completed; the second upload writes the same
            self._upload(path, data)

    def put_if_absent(self, path: str, data: bytes | Path) -> bool:
        """See `Store.put_if_absent`."""
        if self.single_writer:  # the store may ignore the condition, or refuse it
            if self.exists(path):
                return False
            self.write(path, data)
            return True
        try:
            self._upload(path, data, _IF_ABSENT)
        except PreconditionFailed:
            return False
        except UploadGone:
            if not self.exists(path):
                raise
            return False  # that of this upload, or another's
        return True

    def replace_if_match(self, path: str, data: bytes | Path, etag: str) -> bool:
        """See `Store.replace_if_match`. The condition is `If-Match`, for multipart uploads on completion."""
        try:
            self._upload(path, data, {"IfMatch": f'"{etag}"'})
        except (PreconditionFailed, UploadGone) as fault:
            # The library may have tried twice, and met the object of its first try.
            is_ours = self._has_content(path, data)
            if isinstance(fault, UploadGone) and not is_ours and self.info(path).etag == etag:
                raise  # the upload was aborted
            return is_ours
        except StoreUnavailable:  # all replies were lost, perhaps
            if not self._has_content(path, data):
                raise
        return True

    def list(self, prefix: str = "") -> Iterator[FileInfo]:
        """See `Store.list`."""
        for page in self._list_pages(self._list_options(prefix)):
            yield from self._files_of(page)

    def scan(self, folder: str = "", stem: str = "") -> Scan:
        """See `Store.scan`. It asks for one level below the prefix, however many objects lie deeper."""
        options = self._list_options(folder)
        start = len(options["Prefix"])
        scan = Scan([], [], [])
        for page in self._list_pages({**options, "Prefix": options["Prefix"] + stem, "Delimiter": "/"}):
            scan.files.extend(self._files_of(page))
            scan.folders.extend(entry["Prefix"][start:-1] for entry in page.get("CommonPrefixes", []))
        return scan

    def _list_pages(self, options: JsonObject) -> Iterator[JsonObject]:
        options = {**options, "MaxKeys": _PAGE_KEYS}
        while True:  # a dataset may have a hundred million objects
            page: JsonObject = self._send(None, lambda client: client.list_objects_v2(**options))
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _files_of(self, page: JsonObject) -> Iterator[FileInfo]:
        start = len(self.location.prefix) + 1 if self.location.prefix else 0
        for entry in page.get("Contents", []):
            if not entry["Key"].endswith("/"):  # an empty object that stands for a folder
                yield FileInfo(entry["Key"][start:], entry["Size"], _etag(entry))

    def info(self, path: str) -> FileInfo:
        """See `Store.info`."""
        target = self._target(path)
        reply = self._send(path, lambda client: client.head_object(**target))
        return FileInfo(path, reply["ContentLength"], _etag(reply))

    def delete(self, path: str) -> None:
        """See `Store.delete`."""
        target = self._target(path)
        with contextlib.suppress(FileNotFoundError):
            self._send(path, lambda client: client.delete_object(**target))

    def list_unfinished_writes(self) -> Iterator[UnfinishedWrite]:
        """See `Store.list_unfinished_writes`."""
        options = {**self._list_options(), "MaxUploads": _PAGE_KEYS}
        start = len(options["Prefix"])

        def send_list(client: S3Api) -> Awaitable[JsonObject]:
            return client.list_multipart_uploads(**options)

        while True:
            page: JsonObject = self._send(None, send_list)
            for entry in page.get("Uploads") or ():
                if entry["Key"].startswith(options["Prefix"]):
                    yield UnfinishedWrite(entry["Key"][start:], None, entry["UploadId"])
            if not page.get("IsTruncated"):
                return
            options |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def discard_unfinished_write(self, write: UnfinishedWrite) -> None:
        """See `Store.discard_unfinished_write`."""
        upload_of = {**self._target(write.path), "UploadId": write.upload}
        with contextlib.suppress(UploadGone, FileNotFoundError):
            self._send(write.path, lambda client: client.abort_multipart_upload(**upload_of))

    def check(self) -> None:
        """See `Store.check`."""
        options = {**self._list_options(), "MaxKeys": 1}
        self._send(None, lambda client: client.list_objects_v2(**options), deadlines=CHECK_DEADLINES)

    def _target(self, path: str) -> dict[str, str]:
        key = "/".join(filter(None, (self.location.prefix, check_path(path))))
        return {"Bucket": self.location.bucket, "Key": key}

    def _list_options(self, folder: str = "") -> JsonObject:
        # With the slash: a policy may allow listing "team/dataset/*" and nothing beside it.
        prefix = "/".join(filter(None, (self.location.prefix, folder and check_path(folder))))
        return {"Bucket": self.location.bucket, "Prefix": f"{prefix}/" if prefix else ""}

    def _send(
        self,
        path: str | None,
        request: Request[_T],
        size: int = 0,
        deadlines: Deadlines | None = None,
    ) -> _T:
        return send_request(request, self.location, path, size=size, deadlines=deadlines or read_work_deadlines())

    def _upload(self, path: str, data: bytes | Path, condition: dict[str, str] | None = None) -> None:
        def send(request: Request[_T], size: int = 0) -> _T:
            return self._send(path, request, size)

        upload(send, self._target(path), data, condition or {})

    def _read_range(self, path: str, start: int, length: int, etag: str | None) -> tuple[bytes, int, str]:
        """Read `length` bytes (fewer at the end) of an object; return them, its whole size and its ETag.

        With `etag`, raises `StoreError` if the object is another one by now.
        """
        options = {**self._target(path), "Range": f"bytes={start}-{start + length - 1}"}
        if etag:
            options["IfMatch"] = f'"{etag}"'

        async def read(client: S3Api) -> tuple[bytes, int, str]:
            reply = await client.get_object(**options)
            async with reply["Body"] as body:
                content = await body.read()
            if "ContentRange" not in reply:  # a store that knows no ranges sends the whole object
                return content[start : start + length], len(content), _etag(reply)
            return content, int(reply["ContentRange"].rpartition("/")[2]), _etag(reply)

        try:
            return self._send(path, read, length)
        except EmptyRange:  # the object ends before `start`
            return b"", start, etag or ""


def _etag(entry: JsonObject) -> str:
    return str(entry.get("ETag", "")).strip('"')
