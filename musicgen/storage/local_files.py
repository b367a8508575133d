"""Files that appear whole on a local disk: a temporary file and fsync, then a rename, or a hard link if absent."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from musicgen.errors import StoreError
from musicgen.storage.local_faults import NO_LINK_ERRORS, NO_SYNC_ERRORS
from musicgen.storage.local_scan import TEMP_PREFIX, make_etag


def link_file(source: Path, target: Path) -> None:
    """Give the file another name. Raises `FileExistsError`, and `StoreError` where there are no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINK_ERRORS:
            raise
        raise StoreError(
            f"{target}: this file system has no hard links ({error.strerror}), so two writers could overwrite each "
            "other; use another folder, or set output.single_writer: true if only one job ever writes here"
        ) from error


def write_temporary(target: Path, data: bytes | Path) -> Path:
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
        for folder in reversed(find_missing_folders(path.parent)):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
        try:
            return open(path, "xb")
        except FileNotFoundError:  # another job's probe has removed the folder that it had created
            continue
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk, so that a new name survives a power cut.

    Some file systems (FUSE, SMB, 9p) cannot sync folders, and say so; they keep entries in their own way.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC_ERRORS:
            raise
    finally:
        os.close(descriptor)


def find_missing_folders(folder: Path) -> list[Path]:
    """Return the folder and its parents that do not exist, innermost first."""
    return [candidate for candidate in (folder, *folder.parents) if not candidate.exists()]


def write_whole(target: Path, data: bytes | Path) -> None:
    """Write a file that nobody sees in part; what was there is replaced."""
    temporary = write_temporary(target, data)
    try:
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def replace_if_match(target: Path, data: bytes | Path, etag: str) -> bool:
    """Replace a file if its state is still `etag` (`make_etag`); return whether it was replaced.

    All who replace a file hold a lock on it meanwhile. Raises `FileNotFoundError` if there is none.
    """
    with _lock_file(target) as status:
        if status is None or make_etag(status) != etag:
            return False
        write_whole(target, data)
    return True


@contextmanager
def _lock_file(path: Path) -> Iterator[os.stat_result | None]:
    """Lock a file, and yield its status; None if it was replaced by another one before the lock was had."""
    try:
        descriptor = os.open(path, os.O_RDWR)  # NFS locks only what is open for writing
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        status, current = os.fstat(descriptor), path.stat()
        yield status if os.path.samestat(status, current) else None
    finally:
        os.close(descriptor)
