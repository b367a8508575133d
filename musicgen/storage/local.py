"""A folder as a store. Files appear whole: temporary file, fsync, then rename (replacing) or hard link (if absent).

fsspec's local `mode="create"` checks and then writes, so two writers can both succeed; `os.link` is atomic (POSIX).
"""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from musicgen.errors import StoreError
from musicgen.storage.location import check_path
from musicgen.storage.store import FileInfo, Store

TEMP_PREFIX = ".tmp-"


class LocalStore(Store):
    """A folder of this machine, or one that all machines share."""

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See `Store.read`."""
        with self.open(path) as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)

    def open(self, path: str) -> BinaryIO:
        """See `Store.open`."""
        try:
            return open(self._full_path(path), "rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(self.join(path)) from None
        except OSError as error:
            raise self._store_error(error, path) from error

    def write(self, path: str, data: bytes | Path) -> None:
        """See `Store.write`."""
        target = self._full_path(path)
        try:
            temporary = _write_temporary(target, data)
            try:
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_folder(target.parent)
        except OSError as error:
            raise self._store_error(error, path) from error

    def put_if_absent(self, path: str, data: bytes | Path) -> bool:
        """See `Store.put_if_absent`."""
        target = self._full_path(path)
        if target.exists():  # most often saves a write; the link below decides
            return False
        try:
            temporary = _write_temporary(target, data)
            try:
                if self.single_writer:  # also for file systems without hard links
                    os.replace(temporary, target)
                else:
                    os.link(temporary, target)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
            return True
        except OSError as error:
            raise self._store_error(error, path) from error

    def list(self, prefix: str = "") -> Iterator[FileInfo]:
        """See `Store.list`."""
        folder = self._full_path(prefix) if prefix else Path(self.uri)
        yield from _list_folder(folder, f"{prefix}/" if prefix else "")

    def info(self, path: str) -> FileInfo:
        """See `Store.info`."""
        try:
            full_path = self._full_path(path)
            stat = full_path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(self.join(path)) from None
        except OSError as error:
            raise self._store_error(error, path) from error
        if full_path.is_dir():
            raise FileNotFoundError(self.join(path))
        return FileInfo(path, stat.st_size, _etag(stat))

    def delete(self, path: str) -> None:
        """See `Store.delete`."""
        try:
            self._full_path(path).unlink(missing_ok=True)
        except OSError as error:
            raise self._store_error(error, path) from error

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
        missing = _missing_folders(Path(self.uri))
        try:
            super().probe()
        finally:
            for folder in missing:  # a job that is refused after the probe leaves no empty folder
                try:
                    folder.rmdir()
                except OSError:
                    break

    def _full_path(self, path: str) -> Path:
        return Path(self.uri, check_path(path))

    def _store_error(self, error: OSError, path: str) -> StoreError:
        hint = {
            "PermissionError": "give this user the right to write there, or choose another folder",
            "FileExistsError": "a file stands where a folder is needed; choose another folder",
            "NotADirectoryError": "a file stands where a folder is needed; choose another folder",
        }.get(type(error).__name__, "choose another folder")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "make room, or choose another folder"
        return StoreError(f"{self.join(path)}: {os.strerror(error.errno) if error.errno else error}; {hint}")


def _write_temporary(target: Path, data: bytes | Path) -> Path:
    """Write the data to a synced file in the target's folder, so that rename and link stay within one file system."""
    temporary = target.parent / f"{TEMP_PREFIX}{uuid4().hex}"
    try:
        with _create_file(temporary) as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, 4 << 20)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _create_file(path: Path) -> BinaryIO:
    """Create a file for writing, and the folders above it, each synced into its own folder."""
    for _ in range(3):
        for folder in reversed(_missing_folders(path.parent)):
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)
        try:
            return open(path, "xb")
        except FileNotFoundError:  # another job's probe has removed the folder that it had created
            continue
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))


def _sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk, so that a new name survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list_folder(folder: Path, prefix: str) -> Iterator[FileInfo]:
    try:
        with os.scandir(folder) as scan:
            entries = [(entry.name + "/" * entry.is_dir(), entry) for entry in scan]
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError:
        raise StoreError(f"{folder}: the folder cannot be read; give this user the right to") from None
    for name, entry in sorted(entries, key=lambda item: os.fsencode(item[0])):  # as an object store orders them
        if name.endswith("/"):
            yield from _list_folder(Path(entry.path), prefix + name)
        elif not name.startswith(TEMP_PREFIX):
            try:
                stat = entry.stat()
            except FileNotFoundError:  # deleted meanwhile, or a link without a target
                continue
            yield FileInfo(prefix + name, stat.st_size, _etag(stat))


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _missing_folders(folder: Path) -> list[Path]:
    """Return the folder and its parents that do not exist, innermost first."""
    return [candidate for candidate in (folder, *folder.parents) if not candidate.exists()]
