"""Compiles the CPU kernels and caches the library: once per source, compiler and processor.

A loaded library runs with the user's rights. So it is loaded only from folders that no other user can write to, and
only if it is intact: its digest is appended to the file, where a loader never looks.

A portable build (`MUSICGEN_COMPILE=portable`) is for an image or a home that unlike machines share: it is compiled for
two instruction sets, of which each machine loads what it has, and a machine that finds it compiled needs no compiler.
"""

import ctypes
import hashlib
import os
import platform
import stat
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from musicgen.errors import ModelError
from musicgen.model.checkpoint.identity import cache_folder

_FLAGS = (
    *("-O3", "-std=c++17", "-pthread", "-shared", "-fPIC"),
    # A product and a sum become one operation where the source says so (multiply_add), not where a compiler likes.
    "-ffp-contract=off",
    # No strict aliasing: pairs overwrite the numbers they are made of (attention.h), and vectors are read as integers.
    *("-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing", "-Wno-psabi"),
)
_DIGEST = 32  # bytes of a sha256
_compile_times_s: list[float] = []  # of this process


@dataclass(frozen=True, slots=True)
class Target:
    """What a library is compiled for; `processor_flags` are those that Linux shows for a processor that can run it."""

    flags: tuple[str, ...]
    processor_flags: frozenset[str] = frozenset()


NATIVE = Target(("-march=native",))
# The best one first.
PORTABLE = (
    Target(
        ("-march=x86-64-v4", "-mavx512bf16", "-DMUSICGEN_PORTABLE"),
        frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16"}),
    ),
    Target(
        ("-march=x86-64-v3", "-DMUSICGEN_PORTABLE"),
        frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "abm", "movbe"}),
    ),
)


def choose_target(processor_flags: Collection[str]) -> Target | None:
    """Return the best portable target that a processor with these flags can run; None if it can run none of them."""
    return next((target for target in PORTABLE if target.processor_flags <= set(processor_flags)), None)


def compile_kernels(source: Path, compiler: Sequence[str], target: Target = NATIVE) -> ctypes.CDLL:
    """Load the library of `source`/kernels.cpp, compiled by the command `compiler` unless a cached one is intact.

    Any number of processes may do this at once. Where a portable target is compiled, the other ones are too. Raises
    `OSError` or `subprocess.SubprocessError` if it cannot be compiled.
    """
    name = _library_name(source, compiler, target)
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
                _store_library(_run_compiler(source, compiler, fresh, target), kept)
                for other in PORTABLE if target in PORTABLE else ():
                    path = folder / _library_name(source, compiler, other)
                    if not _is_intact(path):
                        _store_library(_run_compiler(source, compiler, Path(scratch, path.name), other), path)
                return ctypes.CDLL(str(kept))
        return ctypes.CDLL(str(_run_compiler(source, compiler, fresh, target)))  # it stays when its file is gone


def is_compiled(source: Path, compiler: Sequence[str], target: Target = NATIVE) -> bool:
    """Whether a cached library of `source` is there. Raises like `compile_kernels`."""
    name = _library_name(source, compiler, target)
    return any(_is_intact(folder / name) for folder in _cache_folders())


def find_private_folder() -> Path | None:
    """Return the first cache folder that only its user can write to, and make it if it is missing; None without any."""
    for folder in _cache_folders():
        with suppress(OSError):
            _claim_folder(folder)
            if os.access(folder, os.W_OK):
                return folder
    return None


def measure_compile_s() -> float:
    """Return the seconds that this process has spent in the compiler."""
    return sum(_compile_times_s)


def _library_name(source: Path, compiler: Sequence[str], target: Target = NATIVE) -> str:
    """Name a library by all that it depends on: sources, flags, the C library and, but for a portable one, compiler and
    processor.
    """
    parts = [path.read_bytes() for path in sorted(source.iterdir()) if path.is_file()]
    parts += [" ".join([*_FLAGS, *target.flags]).encode(), " ".join(platform.libc_ver()).encode()]
    if target not in PORTABLE:
        # The compiler's macros name it and the processor.
        macros = [*compiler, *target.flags, "-E", "-dM", "-x", "c++", os.devnull]
        parts.append(subprocess.run(macros, capture_output=True, check=True, timeout=60).stdout)
    digest = hashlib.sha256(b"\0".join(parts))
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


def _run_compiler(source: Path, compiler: Sequence[str], fresh: Path, target: Target = NATIVE) -> Path:
    if not fresh.exists():
        command = [*compiler, *_FLAGS, *target.flags, str(source / "kernels.cpp"), "-o", str(fresh)]
        begun_at = time.monotonic()
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        _compile_times_s.append(time.monotonic() - begun_at)
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
