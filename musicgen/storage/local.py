"""A folder as a store. Files appear whole: temporary file, fsync, then rename (replacing) or hard link (if absent).

fsspec's local `mode="create"` checks and then writes, so two writers can both succeed; `os.link` is atomic (POSIX).
"""

import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from musicgen.errors import StoreError
from musicgen.storage.local_faults import translate_error
from musicgen.storage.local_files import (
    find_missing_folders,
    link_file,
    replace_if_match,
    sync_folder,
    write_temporary,
    write_whole,
)
from musicgen.storage.local_scan import TEMP_PREFIX, find_temporary_files, make_etag, scan_folder
from musicgen.storage.location import check_path
from musicgen.storage.store import FileInfo, Scan, Store, UnfinishedWrite
from musicgen.store_waits import track_wait


class LocalStore(Store):
    """A folder of this machine, or one that all machines share."""

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See `Store.read`."""
        with self.open(path) as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)

    def open(self, path: str) -> BinaryIO:
        """See `Store.open`."""
        with self._watch(path):
            try:
                return cast(BinaryIO, io.BufferedReader(_LocalFile(self._full_path(path))))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise FileNotFoundError(self.join(path)) from None

    def write(self, path: str, data: bytes | Path) -> None:
        """See `Store.write`."""
        target = self._full_path(path)
        with self._watch(path):
            write_whole(target, data)

    def put_if_absent(self, path: str, data: bytes | Path) -> bool:
        """See `Store.put_if_absent`."""
        target = self._full_path(path)
        with self._watch(path):
            if target.exists():  # most often saves a write; the link below decides
                return False
            temporary = write_temporary(target, data)
            try:
                if self.single_writer:  # also for file systems without hard links
                    os.replace(temporary, target)
                else:
                    link_file(temporary, target)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(target.parent)
            return True

    def replace_if_match(self, path: str, data: bytes | Path, etag: str) -> bool:
        """See `Store.replace_if_match`. Those who replace an object hold a lock on its file meanwhile."""
        target = self._full_path(path)
        with self._watch(path):
            try:
                return replace_if_match(target, data, etag)
            except (FileNotFoundError, NotADirectoryError):
                raise FileNotFoundError(self.join(path)) from None

    def list(self, prefix: str = "") -> Iterator[FileInfo]:
        """See `Store.list`."""
        folder = self._full_path(prefix) if prefix else Path(self.uri)
        yield from _list_folder(folder, f"{prefix}/" if prefix else "")

    def scan(self, folder: str = "", stem: str = "") -> Scan:
        """See `Store.scan`. What is neither a file nor a folder is passed over."""
        return scan_folder(Path(self.uri, folder), f"{folder}/" if folder else "", stem)

    def info(self, path: str) -> FileInfo:
        """See `Store.info`."""
        full_path = self._full_path(path)
        with self._watch(path):
            try:
                status = full_path.stat()
            except (FileNotFoundError, NotADirectoryError):
                raise FileNotFoundError(self.join(path)) from None
        if stat.S_ISDIR(status.st_mode):
            raise FileNotFoundError(self.join(path))
        return FileInfo(path, status.st_size, make_etag(status))

    def delete(self, path: str) -> None:
        """See `Store.delete`."""
        with self._watch(path):
            self._full_path(path).unlink(missing_ok=True)

    def list_unfinished_writes(self) -> Iterator[UnfinishedWrite]:
        """See `Store.list_unfinished_writes`."""
        yield from find_temporary_files(Path(self.uri))

    def discard_unfinished_write(self, write: UnfinishedWrite) -> None:
        """See `Store.discard_unfinished_write`."""
        self.delete(write.path)

    def check(self) -> None:
        """See `Store.check`."""
        if os.path.exists(self.uri) and not os.path.isdir(self.uri):
            raise StoreError(f"{self.uri} is a file, not a folder; choose another output")
        if os.path.isdir(self.uri) and not os.access(self.uri, os.R_OK | os.X_OK):
            raise StoreError(
                f"{self.uri}: the folder cannot be read; give this user the right to, or choose another one"
            )

    def probe(self) -> None:
        """See `Store.probe`."""
        missing = find_missing_folders(Path(self.uri))
        try:
            super().probe()
        finally:
            for folder in missing:  # a job that is refused after the probe leaves no empty folder
                try:
                    folder.rmdir()
                except OSError:
                    break

    @contextmanager
    def _watch(self, path: str) -> Iterator[None]:
        """Translate the errors of a call, except for an absent file, and let `find_longest_wait` know of it."""
        with track_wait(time.time()):
            try:
                yield
            except OSError as error:
                if isinstance(error, FileNotFoundError) and error.errno is None:
                    raise  # ours, about the object
                raise translate_error(error, self.join(path)) from error

    def _full_path(self, path: str) -> Path:
        return Path(self.uri, check_path(path))


class _LocalFile(io.FileIO):
    """A file whose reads raise a `StoreError` when the disk or its server fails."""

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        """See `io.RawIOBase`. Raises `StoreError`."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise translate_error(error, str(self.name)) from error

    def readall(self) -> bytes:
        """See `io.RawIOBase`. Raises `StoreError`."""
        try:
            return super().readall()
        except OSError as error:
            raise translate_error(error, str(self.name)) from error


def _list_folder(folder: Path, prefix: str) -> Iterator[FileInfo]:
    try:
        with os.scandir(folder) as scan:
            entries = [(entry.name + "/" * entry.is_dir(), entry) for entry in scan]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise translate_error(error, str(folder)) from error
    for name, entry in sorted(entries, key=lambda item: os.fsencode(item[0])):  # as an object store orders them
        if name.endswith("/"):
            yield from _list_folder(Path(entry.path), prefix + name)
        elif not name.startswith(TEMP_PREFIX):
            try:
                status = entry.stat()
            except FileNotFoundError:  # deleted meanwhile, or a link without a target
                continue
            except OSError as error:
                raise translate_error(error, prefix + name) from error
            yield FileInfo(prefix + name, status.st_size, make_etag(status))
