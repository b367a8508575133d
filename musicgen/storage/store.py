"""The interface of all stores; `local.py` implements it for folders, `cloud.py` for S3 and other clouds."""

import contextlib
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from musicgen.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable
from musicgen.storage.location import Location, check_path

PROBE_PREFIX = ".probe-"
PROBE_NAME = re.compile(re.escape(PROBE_PREFIX) + "[0-9a-f]{32}")
_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class FileInfo:
    """An object: its path, its size in bytes, and an ETag (for a local file, its modification time and size)."""

    path: str
    size: int
    etag: str


class UnfinishedWrite(NamedTuple):
    """What a killed writer has left: a temporary file at `path`, or the parts of an upload `upload` to `path`."""

    path: str
    size: int | None  # None: not known
    upload: str | None = None


class Scan(NamedTuple):
    """What is directly in a folder: files with their paths in the store, names of folders, of links to folders."""

    files: list[FileInfo]
    folders: list[str]
    links: list[str]


class Store(ABC):
    """A folder or a prefix of a bucket. Paths are relative to it and cannot leave it.

    Thread-safe; pickles as its URI. Missing objects raise `FileNotFoundError`; whatever else goes wrong with the
    store raises `StoreError` in one line without secrets.
    """

    def __init__(self, location: Location, single_writer: bool = False):
        self.location = location
        self.single_writer = single_writer

    def __reduce__(self) -> tuple[type["Store"], tuple[Location, bool]]:
        return type(self), (self.location, self.single_writer)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    @property
    def uri(self) -> str:
        """The canonical URI of the store: an absolute path or `scheme://bucket/prefix`."""
        return self.location.uri

    def join(self, *parts: str) -> str:
        """Return the full URI of a path inside the store."""
        return "/".join([self.uri.rstrip("/"), check_path("/".join(parts))]) if parts else self.uri

    # Implemented by each kind of store

    @abstractmethod
    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Read an object's bytes, or `length` of them from `start` on (fewer where the object ends)."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open an object as a seekable binary file, for pyarrow and soundfile."""

    @abstractmethod
    def write(self, path: str, data: bytes | Path) -> None:
        """Write an object, whole or not at all; it replaces one that exists."""

    @abstractmethod
    def put_if_absent(self, path: str, data: bytes | Path) -> bool:
        """Write an object unless there is one: True if it was written, False if it existed.

        False may also mean that an earlier attempt of this caller succeeded and its reply was lost; `commit_if_absent`
        tells the two apart.
        """

    @abstractmethod
    def replace_if_match(self, path: str, data: bytes | Path, etag: str) -> bool:
        """Replace an object if it is still the one whose `FileInfo.etag` was read: True exactly if it was replaced.

        False if it is another one by now. If a reply was lost, the bytes there are compared, which must name their
        writer if two writers could write the same. Raises `FileNotFoundError` if there is no such object. Only a store
        that passes `probe_replacing` is known to heed the condition.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[FileInfo]:
        """Yield every object below a folder, in the order of paths; none if there is no such folder."""

    @abstractmethod
    def scan(self, folder: str = "", stem: str = "") -> Scan:
        """Return the files directly in a folder, the names of its folders, and of its links to folders.

        Only those whose names begin with `stem`, in order; nothing if there is no such folder.
        """

    @abstractmethod
    def info(self, path: str) -> FileInfo:
        """Return an object's size and ETag."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete an object, if it exists."""

    @abstractmethod
    def list_unfinished_writes(self) -> Iterator[UnfinishedWrite]:
        """Yield what writers that were killed, or are still writing, have left: temporary files, uploads in parts."""

    @abstractmethod
    def discard_unfinished_write(self, write: UnfinishedWrite) -> None:
        """Delete what a killed writer has left. A writer that still lives has to write anew, or fails."""

    @abstractmethod
    def check(self) -> None:
        """Raise `StoreError` within seconds if the store cannot be reached or read. Writes nothing."""

    # The same for all stores

    def size(self, path: str) -> int:
        """Return an object's size in bytes."""
        return self.info(path).size

    def exists(self, path: str) -> bool:
        """Whether there is an object at this path."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def sha256(self, path: str) -> str:
        """Compute the sha256 of an object, hex, in constant memory."""
        digest = hashlib.sha256()
        with self.open(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def commit_if_absent(self, path: str, data: bytes | Path, is_ours: Callable[[], bool] | None = None) -> bool:
        """Put if absent; return True exactly if the object at `path` is this caller's, even if a reply was lost.

        If the bytes arrive and the reply is lost, the client library tries again and the store answers "exists"; so the
        object is compared. `is_ours` looks at it; without it, its bytes are compared, which must name their writer if
        two writers could write the same. Raises `StoreError` if nothing arrived.
        """
        try:
            if self.put_if_absent(path, data):
                return True
        except StoreError:
            if not self.exists(path):
                raise
        return is_ours() if is_ours is not None else self._has_content(path, data)

    def _has_content(self, path: str, data: bytes | Path) -> bool:
        if isinstance(data, Path):
            if self.size(path) != data.stat().st_size:
                return False
            with data.open("rb") as file:
                return self.sha256(path) == hashlib.file_digest(file, "sha256").hexdigest()
        return self.size(path) == len(data) and self.read(path) == data

    def probe(self) -> None:
        """Check that a job can write to the store, and that put-if-absent works. Leaves nothing behind.

        Raises `StoreError`: missing bucket, wrong credentials, unreachable, read-only, or a store that lets a
        second writer overwrite the first (accepted with `single_writer`).
        """
        self.check()
        path = PROBE_PREFIX + uuid4().hex
        first, second = b"first " + path.encode(), b"second " + path.encode()
        try:
            refused = self._refuses_second_put(path, first, second)
            unchanged = self.read(path) == first
        except FileNotFoundError:
            raise StoreError(
                f"{self.uri}: an object just written cannot be read back; the store is not consistent"
            ) from None
        finally:
            self._delete_probe(path)
        if not (refused and unchanged) and not self.single_writer:
            raise StoreError(
                f"{self.uri}: the store ignores put-if-absent (If-None-Match), so two writers could overwrite each "
                "other; use another store, or set output.single_writer: true if only one job ever writes here"
            )

    def probe_replacing(self) -> None:
        """Check that `replace_if_match` works. Leaves nothing behind.

        Raises `StoreError`: as for `probe`, or a store that replaces an object whatever the condition says.
        """
        self.check()
        path = PROBE_PREFIX + uuid4().hex
        first, second, third = (name + path.encode() for name in (b"first ", b"second ", b"third "))
        try:
            self.write(path, first)
            etag = self.info(path).etag
            heeded = self.replace_if_match(path, second, etag) and not self.replace_if_match(path, third, etag)
            heeded = heeded and self.read(path) == second
        except (StoreUnavailable, StoreFull, StoreDenied):
            raise
        except (StoreError, FileNotFoundError):  # it knows no such condition
            heeded = False
        finally:
            self._delete_probe(path)
        if not heeded:
            raise StoreError(
                f"{self.uri}: the store cannot replace an object on condition that nobody else has (If-Match), which "
                "this needs; copy the dataset to a store or folder that can, and do it there"
            )

    def _refuses_second_put(self, path: str, first: bytes, second: bytes) -> bool:
        """Put both if absent; return whether the second was refused.

        A store without conditional writes gets the first without the condition.
        """
        try:
            self.put_if_absent(path, first)
            return not self.put_if_absent(path, second)
        except (StoreUnavailable, StoreFull, StoreDenied):
            raise  # these say nothing of the condition
        except StoreError:  # it neither wrote nor answered "exists"
            self.write(path, first)  # raises what is wrong, if it is not the condition
            return False

    def _delete_probe(self, path: str) -> None:
        with contextlib.suppress(StoreError):  # a store that refuses deletes can still hold a dataset
            self.delete(path)
