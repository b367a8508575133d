"""Fetches and hashes a row's audio file: from allowed places only, and never more than a maximum of bytes.

The planner uses `hash_audio`, the generator `fetch_audio`. Both raise a `RowError` of class `melody` for anything that
is wrong with one row's file, since no row may stop the others. Neither torch nor librosa is imported here, because
`musicgen plan` uses this module.
"""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from urllib.parse import unquote, urlsplit

from musicgen.errors import RowError, StoreError
from musicgen.storage import open_store

MAX_BYTES = 200_000_000  # 19 minutes of 16-bit stereo at 44.1 kHz, uncompressed
PLANNED_MAX_BYTES = 4_096_000_000  # of a file whose size the planner has checked already
REMOTE_SCHEMES = frozenset({"s3"})

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
    allowed, and for a file that is missing, unreadable, empty, too large or changed.
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


def resolve_uri(uri: str, *, subject: str = "melody", roots: Sequence[str | os.PathLike[str]] | None = None) -> str:
    """Resolve `uri`: an s3:// URI is returned as it is, a local file as an absolute path without links or `..`.

    Reads no file's content and uses no network. A relative path starts at the first of `roots`. Raises
    RowError("melody") for other schemes, other hosts, and local files outside `roots`; the message does not reveal
    whether such a file exists.
    """
    try:
        split_uri = urlsplit(uri)
    except ValueError:  # such as brackets that are no IPv6 address
        split_uri = None
    if split_uri is None or not uri.strip() or "\0" in uri:
        raise RowError("melody", f"{subject} is not a path or URI: {redact_uri(uri)!r}")
    scheme = split_uri.scheme.lower()
    if scheme in REMOTE_SCHEMES:
        if not split_uri.netloc or not split_uri.path.strip("/"):
            raise RowError(
                "melody", f"{subject} {redact_uri(uri)} names no object: write {scheme}://bucket/path/to/file.wav"
            )
        return uri
    if "://" in uri and scheme != "file":
        raise RowError(
            "melody",
            f"{subject} {redact_uri(uri)}: {scheme}:// is not allowed, use s3:// or a file beside the manifest",
        )
    if scheme == "file":
        if split_uri.netloc not in ("", "localhost"):
            raise RowError(
                "melody", f"{subject} {redact_uri(uri)} names a file on another host: use s3:// or a local path"
            )
        path = Path(unquote(split_uri.path))
    else:
        path = Path(uri)
    if not path.is_absolute() and roots:
        path = Path(roots[0]) / path
    resolved = _resolve_links(path)
    if roots is not None and not any(resolved.is_relative_to(_resolve_links(Path(root))) for root in roots):
        raise RowError(
            "melody",
            f"{subject} {redact_uri(uri)} is outside the manifest's own folder: move it there, or add its folder to "
            "manifest.melody_roots",
        )
    return str(resolved)


def redact_uri(uri: str) -> str:
    """Return a URI for messages: without user, password or query (they may be secrets), at most 200 characters."""
    scheme, separator, rest = uri.partition("://")
    if separator:
        host, slash, path = rest.partition("/")
        # An object's name may contain ? and #; in a web address secrets may follow them.
        if scheme.lower() not in REMOTE_SCHEMES:
            path = path.partition("?")[0].partition("#")[0]
            host = host.partition("?")[0].partition("#")[0]
        uri = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return uri if len(uri) <= 200 else f"{uri[:100]}...{uri[-90:]}"


def _resolve_links(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links, a name that is too long
        return Path(os.path.normpath(path.absolute()))


def _read_and_hash(
    uri: str, subject: str, roots: Sequence[str | os.PathLike[str]] | None, max_bytes: int, copy: IO[bytes] | None
) -> Digest:
    location = resolve_uri(uri, subject=subject, roots=roots)
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in _read_remote_chunks(location, max_bytes) if _is_remote(location) else _read_local_chunks(location):
            size += len(chunk)
            if size > max_bytes:
                raise _FileTooLarge
            digest.update(chunk)
            if copy is not None:
                copy.write(chunk)
    except _FileTooLarge as error:
        raise RowError(
            "melody", f"{subject} {redact_uri(uri)} is larger than {max_bytes / 1e6:g} MB: cut it or compress it"
        ) from error
    except FileNotFoundError as error:
        raise RowError("melody", f"{subject} {redact_uri(uri)} does not exist") from error
    except (StoreError, ValueError) as error:  # ValueError: a path that is not possible in a store
        raise RowError("melody", f"{subject} {redact_uri(uri)} cannot be read: {error}") from error
    except OSError as error:
        raise RowError("melody", f"{subject} {redact_uri(uri)} cannot be read: {error.strerror or error}") from error
    if size == 0:
        raise RowError("melody", f"{subject} {redact_uri(uri)} is empty (0 bytes)")
    return Digest(digest.hexdigest(), size)


def _is_remote(location: str) -> bool:
    return urlsplit(location).scheme.lower() in REMOTE_SCHEMES


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
