"""Lists one local folder: its files, its folders, and its links to folders."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from musicgen.storage.local_faults import translate_error
from musicgen.storage.store import FileInfo, Scan, UnfinishedWrite

TEMP_PREFIX = ".tmp-"
_TEMPORARY = re.compile(re.escape(TEMP_PREFIX) + "[0-9a-f]{32}")


def scan_folder(folder: Path, prefix: str, stem: str) -> Scan:
    """See `Store.scan`; `prefix` is put before the paths of files. Raises `StoreError`."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry for entry in scan if entry.name.startswith(stem)), key=_by_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return Scan([], [], [])
    except OSError as error:
        raise translate_error(error, str(folder)) from error
    listed = Scan([], [], [])
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:  # deleted meanwhile, a link without a target, or one to itself
            continue
        if stat.S_ISDIR(status.st_mode):
            (listed.links if entry.is_symlink() else listed.folders).append(entry.name)
        elif stat.S_ISREG(status.st_mode) and not entry.name.startswith(TEMP_PREFIX):
            listed.files.append(FileInfo(prefix + entry.name, status.st_size, make_etag(status)))
    return listed


def find_temporary_files(folder: Path) -> Iterator[UnfinishedWrite]:
    """Yield the temporary files of writers below a folder; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(filter(_TEMPORARY.fullmatch, names)):
            path = Path(parent, name)
            try:
                yield UnfinishedWrite(path.relative_to(folder).as_posix(), path.lstat().st_size)
            except FileNotFoundError:  # its writer has just ended
                continue


def make_etag(status: os.stat_result) -> str:
    """Return a text that changes when a file does."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _by_bytes(entry: "os.DirEntry[str]") -> bytes:
    return os.fsencode(entry.name)  # as an object store orders them
