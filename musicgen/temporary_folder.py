"""Temporary folders that are removed even if their process is killed: by the next process on that machine.

Each is `musicgen-<pid>-<random>` in the system's folder for temporary files (TMPDIR), and holds a file that its process
keeps locked. The kernel frees the lock when the process ends, however it ends, so a folder whose file can be locked has
no owner any more. Process numbers would not do: they are used again, and each container has its own.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"musicgen-\d+-[a-z0-9_]{8}")
_LOCK = ".musicgen-lock"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a temporary folder, and remove it with all it holds at the end of the block. Raises `OSError`."""
    folder = Path(tempfile.mkdtemp(prefix=f"musicgen-{os.getpid()}-"))
    try:
        # The file gets its name only once it is locked: before, another process could take the folder for abandoned.
        unnamed_lock = folder / f"{_LOCK}.new"
        with unnamed_lock.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            unnamed_lock.rename(folder / _LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned_folders() -> int:
    """Remove this user's temporary folders whose processes have ended without doing so. Returns their number."""
    removed = 0
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                removed += _remove_if_abandoned(Path(entry.path))
    return removed


def _remove_if_abandoned(folder: Path) -> bool:
    try:
        if folder.lstat().st_uid != os.getuid():
            return False
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # locked by its process, or removed meanwhile, or none of ours because it has no such file
        return False
    return True
