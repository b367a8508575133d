"""The sha256 of the melodies and continuations that manifest rows name.

A file is hashed once per plan however many rows name it, many files at a time. A later plan recognizes it by its URI
and ETag (a local file by its size and times), and takes its hash from a cache on disk.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from musicgen.audio.fetch import hash_audio
from musicgen.audio.sound_places import collect_roots, resolve_uri
from musicgen.errors import RowError, StoreDenied, StoreUnavailable
from musicgen.storage import open_store
from musicgen.storage.patience import SHORT_PATIENCE_S, wait_for_store

_THREADS = 16
_DENIED_PATIENCE_S = 15.0  # somebody may have given a row a file that nobody here may read, and waits for the answer
_REMEMBERED_FILES = 200_000  # beyond it, the cache on disk is asked again


@dataclass(frozen=True, slots=True)
class HashedAudio:
    """An audio file that a row names: its full URI, and the sha256 of its bytes."""

    uri: str
    sha256: str


@dataclass(frozen=True, slots=True)
class AudioReference:
    """An audio file as a row names it: URI, column, and the manifest's folder that a relative path starts from.

    `source` is the file and row, for messages; references of other rows are equal.
    """

    uri: str
    column: str  # melody | continuation
    folder: str
    source: str = field(default="", compare=False)


class AudioHashes:
    """The audio files that rows of a manifest name. A context manager, for one planner at a time.

    `roots` are the local folders that files may lie in, besides the manifest's own. `cache` is a folder for hashes,
    or None to keep none.
    """

    def __init__(self, roots: Sequence[str] = (), cache: Path | None = None):
        self.roots = tuple(roots)
        self._known: dict[AudioReference, HashedAudio | RowError] = {}
        self._cache = HashCache(cache)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "AudioHashes":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._cache.close()

    def look_up(self, references: Iterable[AudioReference]) -> dict[AudioReference, HashedAudio | RowError]:
        """Return each file's URI and hash, or the error of its rows.

        The error is of class "invalid" if there is no such file, else "melody". A store that cannot be used is waited
        for; if it stays so, `StoreUnavailable` or `StoreDenied` is raised, since what becomes of a row must not depend
        on the state of a store at one moment.
        """
        distinct = dict.fromkeys(references)
        new = [reference for reference in distinct if reference not in self._known]
        if new:
            if len(self._known) + len(new) > _REMEMBERED_FILES:
                self._known.clear()
                new = list(distinct)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="audio_hashes")
            self._known.update(zip(new, self._pool.map(self._hash, new), strict=True))
        return {reference: self._known[reference] for reference in distinct}

    def _hash(self, reference: AudioReference) -> HashedAudio | RowError:
        try:
            return wait_for_store(
                lambda: self._hash_now(reference), SHORT_PATIENCE_S, denied_patience_s=_DENIED_PATIENCE_S
            )
        except (StoreUnavailable, StoreDenied) as error:
            raise type(error)(f"{reference.source}: the {reference.column} cannot be read: {error}") from error

    def _hash_now(self, reference: AudioReference) -> HashedAudio | RowError:
        try:
            uri, roots = reference.uri.strip(), collect_roots(reference.folder, self.roots)
            if "://" in reference.folder and "://" not in uri and not os.path.isabs(uri):
                uri = f"{reference.folder}/{uri}"  # relative to a manifest in a bucket
            uri = resolve_uri(uri, subject=reference.column, roots=roots)
            version = _file_version(uri)
            sha256 = self._cache.get(uri, version) if version else None
            if sha256 is None:
                sha256 = hash_audio(uri, subject=reference.column, roots=roots).sha256
                if version and _file_version(uri) == version:  # it did not change while it was read
                    self._cache.put(uri, version, sha256)
            return HashedAudio(uri, sha256)
        except RowError as error:
            # A file that does not exist is a mistake in the row; one that exists and cannot be used is a bad melody.
            return RowError("invalid", str(error)) if isinstance(error.__cause__, FileNotFoundError) else error


class HashCache:
    """The sha256 of files by URI and version, in a small SQLite file. Without a usable folder nothing is kept."""

    def __init__(self, folder: Path | None):
        self._lock = Lock()
        self._db: sqlite3.Connection | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                folder / "conditions.sqlite", timeout=5, check_same_thread=False, isolation_level=None
            )
            self._db.execute("PRAGMA synchronous=OFF")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS hashes (place TEXT PRIMARY KEY, state TEXT, sha256 TEXT) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error):
            self._db = None

    def get(self, uri: str, version: str) -> str | None:
        """Return the hash of a file in this version; None if it is not known."""
        rows = self._execute("SELECT sha256 FROM hashes WHERE place = ? AND state = ?", uri, version)
        return rows[0][0] if rows else None

    def put(self, uri: str, version: str, sha256: str) -> None:
        """Keep a hash."""
        self._execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", uri, version, sha256)

    def _execute(self, statement: str, *values: str) -> list[tuple[str]]:
        with self._lock:
            if self._db is None:
                return []
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.Error:  # locked by another planner, or the disk is full: planning goes on without it
                return []

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None


def _file_version(uri: str) -> str | None:
    """Return a text that changes when the file's content does; None if there is none (`hash_audio` then says why)."""
    try:
        if "://" not in uri:
            stat = os.stat(uri)
            return f"{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ino:x}"
        scheme, _, path = uri.partition("://")
        bucket, _, name = path.partition("/")
        info = open_store(f"{scheme}://{bucket}").info(name)
        return f"{info.size:x}-{info.etag}" if info.etag else None
    except (StoreUnavailable, StoreDenied):
        raise
    except Exception:  # reading the file meets the same fault and reports it
        return None
