"""Compiles the CPU kernels and caches the library: once per source, compiler and processor.

A loaded library runs with the user's rights. So it is loaded only from folders that no other user can write to, and
only if it is intact: its digest is appended to the file, where a loader never looks.
"""

import ctypes
import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.model.checkpoint.identity import cache_folder

_FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-pthread", "-shared", "-fPIC"),
    # No strict aliasing: pairs overwrite the numbers they are made of (attention.h), and vectors are read as integers.
    *("-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing", "-Wno-psabi"),
)
_DIGEST = 32  # bytes of a sha256


def compile_kernels(source: Path, compiler: Sequence[str]) -> ctypes.CDLL:
    """Load the library of `source`/kernels.cpp, compiled by the command `compiler` unless a cached one is intact.

    Any number of processes may do this at once. Raises `OSError` or `subprocess.SubprocessError` if it cannot be
    compiled.
    """
    name = _library_name(source, compiler)
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch, name)
        for folder in _cache_folders():
            with suppress(OSError):  # read-only, full, somebody else's, nothing may be run from it: try the next
                _claim_folder(folder)
                kept = folder / name
                if _is_intact(kept):
                    with suppress(
                        OSError
                    ):  # compiled beside another system's libraries, say, in a home that both share
                        return ctypes.CDLL(str(kept))
                _store_library(_run_compiler(source, compiler, fresh), kept)
                return ctypes.CDLL(str(kept))
        return ctypes.CDLL(str(_run_compiler(source, compiler, fresh)))  # it stays loaded when its file is gone


def _library_name(source: Path, compiler: Sequence[str]) -> str:
    macros = [
        *compiler,
        "-march=native",
        "-E",
        "-dM",
        "-x",
        "c++",
        os.devnull,
    ]  # they name the compiler and the processor
    processor = subprocess.run(macros, capture_output=True, check=True, timeout=60)
    parts = [path.read_bytes() for path in sorted(source.iterdir()) if path.is_file()]
    digest = hashlib.sha256(b"\0".join([*parts, " ".join(_FLAGS).encode(), processor.stdout]))
    return f"kernels-{digest.hexdigest()[:20]}.so"


def _cache_folders() -> Iterator[Path]:
    """The folders to try, in order: the cache folder, and a folder of this user's among the temporary files."""
    with suppress(ModelError):  # there is no home
        yield cache_folder() / "kernels"
    yield Path(tempfile.gettempdir()) / f"musicgen-batch-{os.getuid()}"


def _claim_folder(folder: Path) -> None:
    """Make the folder if it is missing.

    Raises `PermissionError` if it belongs to another user or others may write to it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not stat.S_ISDIR(folder.lstat().st_mode) or not _is_private(folder):
        raise PermissionError(f"{folder} is not a folder that only its user can write to")


def _is_private(path: Path) -> bool:
    status = path.lstat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_intact(library: Path) -> bool:
    """Whether there is a library that only its user could write, unchanged since it was written."""
    if not library.is_file() or library.is_symlink() or not _is_private(library):
        return False
    content = library.read_bytes()
    return hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def _run_compiler(source: Path, compiler: Sequence[str], fresh: Path) -> Path:
    if not fresh.exists():
        command = [*compiler, *_FLAGS, str(source / "kernels.cpp"), "-o", str(fresh)]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return fresh


def _store_library(fresh: Path, library: Path) -> None:
    content = fresh.read_bytes()
    handle, partial = tempfile.mkstemp(dir=library.parent, prefix=".")  # readable and writable by the user alone
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content + hashlib.sha256(content).digest())
        os.replace(partial, library)  # another process may replace it by the same content
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
        raise
