"""Fetch a melody or a continuation: from allowed places only, never more than so many bytes, hashed on the way.

The planner uses `digest`, the generator `fetch`; both give a `RowError` of class `melody` for anything that is wrong
with one row's file, since no row may stop the others. No torch, no librosa: `musicgen plan` comes through here.
"""

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from musicgen.errors import RowError, StoreError

if TYPE_CHECKING:
    from musicgen.storage import Store

MAX_BYTES = 200_000_000  # 19 minutes of 16-bit stereo at 44.1 kHz, uncompressed
PLANNED_MAX_BYTES = 4_096_000_000  # of a file whose size the planner has judged already
REMOTE_SCHEMES = frozenset({"s3"})

_CHUNK = 1 << 20
_REMOTE_CHUNK = 8 << 20
_IN_MEMORY = 16 << 20  # larger files wait on disk, not in memory
_AWS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION")


class _TooLarge(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Digest:
    """What the planner keeps of a file: the sha256 (hex) and size in bytes of its content."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A private copy of a file, at its beginning, with the hash of exactly these bytes. Close it, or use `with`."""

    uri: str
    file: IO[bytes]
    sha256: str
    size: int

    def close(self) -> None:
        """Drop the copy."""
        self.file.close()

    def __enter__(self) -> "Fetched":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def fetch_audio(
    uri: str,
    *,
    what: str = "melody",
    roots: Sequence[str | os.PathLike[str]] | None = None,
    sha256: str | None = None,
    max_bytes: int | None = None,
) -> Fetched:
    """Copy the file at `uri`, of at most `max_bytes`, to a temporary file that nobody else can change.

    `what` names the column in messages. `roots` are the folders a local file may lie in (None: anywhere, for the Python
    API, where the caller is the owner of the files). With `sha256` the content must still be what was planned.
    `max_bytes` is `MAX_BYTES` where it is not given, and wider for a file that was planned. Raises RowError("melody")
    for a place that is not allowed, a missing, unreadable, empty, too large or changed file.
    """
    copy = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - handed to the caller
    try:
        if max_bytes is None:
            max_bytes = MAX_BYTES if sha256 is None else PLANNED_MAX_BYTES
        digest = _read(uri, what, roots, max_bytes, copy)
        if sha256 is not None and digest.sha256 != sha256:
            raise RowError(
                "melody",
                f"{what} {redact_uri(uri)} has changed since the run was planned (sha256 {digest.sha256[:12]}..., "
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
    what: str = "melody",
    roots: Sequence[str | os.PathLike[str]] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Digest:
    """The hash and size of the file at `uri`, in constant memory. Raises like `fetch`."""
    return _read(uri, what, roots, max_bytes, None)


def resolve_uri(uri: str, *, what: str = "melody", roots: Sequence[str | os.PathLike[str]] | None = None) -> str:
    """Where `uri` really points: an s3:// URI as it is, a local file as an absolute path without links or `..`.

    Touches no file's content and no network. A relative path is looked up in the first of `roots`. Raises
    RowError("melody") for other schemes, other hosts, and local files outside `roots`; whether such a file exists is
    not told.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets that are no IPv6 address, and the like
        parts = None
    if parts is None or not uri.strip() or "\0" in uri:
        raise RowError("melody", f"{what} is not a path or URI: {redact_uri(uri)!r}")
    scheme = parts.scheme.lower()
    if scheme in REMOTE_SCHEMES:
        if not parts.netloc or not parts.path.strip("/"):
            raise RowError(
                "melody", f"{what} {redact_uri(uri)} names no object: write {scheme}://bucket/path/to/file.wav"
            )
        return uri
    if "://" in uri and scheme != "file":
        raise RowError(
            "melody", f"{what} {redact_uri(uri)}: {scheme}:// is not allowed, use s3:// or a file beside the manifest"
        )
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise RowError(
                "melody", f"{what} {redact_uri(uri)} names a file on another host: use s3:// or a local path"
            )
        path = Path(unquote(parts.path))
    else:
        path = Path(uri)
    if not path.is_absolute() and roots:
        path = Path(roots[0]) / path
    real = _real(path)
    if roots is not None and not any(real.is_relative_to(_real(Path(root))) for root in roots):
        raise RowError(
            "melody",
            f"{what} {redact_uri(uri)} is outside the manifest's own folder: move it there, or add its folder to "
            "manifest.melody_roots",
        )
    return str(real)


def redact_uri(uri: str) -> str:
    """The URI for a message: without user, password or query (they may be secrets), and not longer than a line."""
    scheme, separator, rest = uri.partition("://")
    if separator:
        host, slash, path = rest.partition("/")
        if (
            scheme.lower() not in REMOTE_SCHEMES
        ):  # an object's name may hold these, a web address has its secrets behind them
            path = path.partition("?")[0].partition("#")[0]
            host = host.partition("?")[0].partition("#")[0]
        uri = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"
    return uri if len(uri) <= 200 else f"{uri[:100]}...{uri[-90:]}"


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links, a name that is too long
        return Path(os.path.normpath(path.absolute()))


def _read(
    uri: str, what: str, roots: Sequence[str | os.PathLike[str]] | None, max_bytes: int, copy: IO[bytes] | None
) -> Digest:
    place = resolve_uri(uri, what=what, roots=roots)
    sha, size = hashlib.sha256(), 0
    try:
        for chunk in _remote(place, max_bytes) if _is_remote(place) else _local(place):
            size += len(chunk)
            if size > max_bytes:
                raise _TooLarge
            sha.update(chunk)
            if copy is not None:
                copy.write(chunk)
    except _TooLarge as error:
        raise RowError(
            "melody", f"{what} {redact_uri(uri)} is larger than {max_bytes / 1e6:g} MB: cut it or compress it"
        ) from error
    except FileNotFoundError as error:
        raise RowError("melody", f"{what} {redact_uri(uri)} does not exist") from error
    except (StoreError, ValueError) as error:  # ValueError: a path that no store can hold
        raise RowError("melody", f"{what} {redact_uri(uri)} cannot be read: {error}") from error
    except OSError as error:
        raise RowError("melody", f"{what} {redact_uri(uri)} cannot be read: {error.strerror or error}") from error
    if size == 0:
        raise RowError("melody", f"{what} {redact_uri(uri)} is empty (0 bytes)")
    return Digest(sha.hexdigest(), size)


def _is_remote(place: str) -> bool:
    return urlsplit(place).scheme.lower() in REMOTE_SCHEMES


def _remote(place: str, max_bytes: int) -> Iterator[bytes]:
    parts = urlsplit(place, allow_fragments=False)
    store = _store(f"{parts.scheme.lower()}://{parts.netloc}", *(os.environ.get(name) for name in _AWS))
    path = place.partition("://")[2].partition("/")[2]
    size = store.info(path).size
    if size > max_bytes:  # spares the download
        raise _TooLarge
    for start in range(0, size, _REMOTE_CHUNK):
        yield store.read(path, start, min(_REMOTE_CHUNK, size - start))


def _local(place: str) -> Iterator[bytes]:
    # Not blocking and not following: a pipe must not hang us, nor a link put there since `locate` looked lead away.
    descriptor = os.open(
        place, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    )
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        while chunk := file.read(_CHUNK):
            yield chunk


@lru_cache(maxsize=16)
def _store(bucket: str, *environment: str | None) -> "Store":
    """Return one store, with its connections, per bucket and environment (which holds the credentials)."""
    from musicgen.storage import open_store

    return open_store(bucket)
