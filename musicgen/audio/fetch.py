"""Fetches and hashes a row's audio file: from allowed places only, and never more than a maximum of bytes.

The planner uses `hash_audio`, the generator `fetch_audio`. Both raise a `RowError` of class `melody` for anything that
is wrong with one row's file, since no row may stop the others. A store or disk that cannot be used at the moment is not
the row's fault: that is a `StoreError`. Neither torch nor librosa is imported here, because `musicgen plan` uses this
module.
"""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, cast
from urllib.parse import urlsplit

from musicgen.audio.sound_places import is_remote, redact_uri, resolve_uri
from musicgen.errors import RowError, StoreDenied, StoreError, StoreFull, StoreUnavailable
from musicgen.storage import local_faults, open_store

MAX_BYTES = 200_000_000  # 19 minutes of 16-bit stereo at 44.1 kHz, uncompressed
PLANNED_MAX_BYTES = 4_096_000_000  # of a file whose size the planner has checked already

_CHUNK_BYTES = 1 << 20
_REMOTE_CHUNK_BYTES = 8 << 20
_IN_MEMORY_BYTES = 16 << 20  # larger files are held on disk, not in memory


class _FileTooLarge(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Digest:
    """The sha256 (hex) and size in bytes of a file's content, as the plan stores them."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A private copy of a file, open at its beginning, and the hash of exactly these bytes. Close it, or use `with`."""

    uri: str
    file: IO[bytes]
    sha256: str
    size: int

    def close(self) -> None:
        """Delete the copy."""
        self.file.close()

    def __enter__(self) -> "Fetched":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def fetch_audio(
    uri: str,
    *,
    subject: str = "melody",
    roots: Sequence[str | os.PathLike[str]] | None = None,
    sha256: str | None = None,
    max_bytes: int | None = None,
) -> Fetched:
    """Copy the file at `uri`, of at most `max_bytes`, to a temporary file that no other process can change.

    `subject` names the column in messages. `roots` are the folders that a local file may lie in (None: any folder, for
    the Python API, whose caller owns the files). With `sha256` the content must have this hash. `max_bytes` is by
    default `MAX_BYTES`, or `PLANNED_MAX_BYTES` with a `sha256`. Raises RowError("melody") for a place that is not
    allowed, and for a file that is missing, unreadable, empty, too large or changed. Raises `StoreUnavailable` or
    `StoreDenied` if the store cannot be used at the moment, `StoreFull` if there is no room for the copy.
    """
    copy = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - handed to the caller
    try:
        if max_bytes is None:
            max_bytes = MAX_BYTES if sha256 is None else PLANNED_MAX_BYTES
        digest = _read_and_hash(uri, subject, roots, max_bytes, copy)
        if sha256 is not None and digest.sha256 != sha256:
            raise RowError(
                "melody",
                f"{subject} {redact_uri(uri)} has changed since the run was planned (sha256 {digest.sha256[:12]}..., "
                "planned "
                f"{sha256[:12]}...): put the old file back, or give the new one another name and run again",
            )
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return Fetched(uri, cast(IO[bytes], copy), digest.sha256, digest.size)


def hash_audio(
    uri: str,
    *,
    subject: str = "melody",
    roots: Sequence[str | os.PathLike[str]] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Digest:
    """Compute the hash and size of the file at `uri`, in constant memory. Raises as `fetch_audio` does."""
    return _read_and_hash(uri, subject, roots, max_bytes, None)


def _read_and_hash(
    uri: str, subject: str, roots: Sequence[str | os.PathLike[str]] | None, max_bytes: int, copy: IO[bytes] | None
) -> Digest:
    location = resolve_uri(uri, subject=subject, roots=roots)
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in _read_remote_chunks(location, max_bytes) if is_remote(location) else _read_local_chunks(location):
            size += len(chunk)
            if size > max_bytes:
                raise _FileTooLarge
            digest.update(chunk)
            if copy is not None:
                _write(copy, chunk)
    except _FileTooLarge as error:
        raise RowError(
            "melody", f"{subject} {redact_uri(uri)} is larger than {max_bytes / 1e6:g} MB: cut it or compress it"
        ) from error
    except FileNotFoundError as error:
        raise RowError("melody", f"{subject} {redact_uri(uri)} does not exist") from error
    except (StoreUnavailable, StoreDenied, StoreFull):
        raise
    except (StoreError, ValueError) as error:  # ValueError: a path that is not possible in a store
        raise RowError("melody", f"{subject} {redact_uri(uri)} cannot be read: {error}") from error
    except OSError as error:
        fault = local_faults.translate_error(error, location)
        if isinstance(fault, StoreUnavailable):
            raise fault from error
        raise RowError("melody", f"{subject} {redact_uri(uri)} cannot be read: {error.strerror or error}") from error
    if size == 0:
        raise RowError("melody", f"{subject} {redact_uri(uri)} is empty (0 bytes)")
    return Digest(digest.hexdigest(), size)


def _write(copy: IO[bytes], chunk: bytes) -> None:
    try:
        copy.write(chunk)
    except OSError as error:  # the disk of the temporary folder
        raise local_faults.translate_error(error, tempfile.gettempdir()) from error


def _read_remote_chunks(location: str, max_bytes: int) -> Iterator[bytes]:
    split_uri = urlsplit(location, allow_fragments=False)
    store = open_store(f"{split_uri.scheme.lower()}://{split_uri.netloc}")
    path = location.partition("://")[2].partition("/")[2]
    size = store.info(path).size
    if size > max_bytes:  # saves the download
        raise _FileTooLarge
    for start in range(0, size, _REMOTE_CHUNK_BYTES):
        yield store.read(path, start, min(_REMOTE_CHUNK_BYTES, size - start))


def _read_local_chunks(path: str) -> Iterator[bytes]:
    # O_NONBLOCK, because opening a pipe must not block; O_NOFOLLOW, because the file may have been replaced by a link
    # to a place outside the roots since `resolve_uri` checked it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
