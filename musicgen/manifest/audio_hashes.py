"""Melodies and continuations of manifest rows: where they may lie, and the hash of what they hold.

A file is hashed once per plan however many rows name it, many at a time, and over plans it is known again by its
place and ETag (for a local file, size and time).
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from musicgen.audio.fetch import hash_audio, resolve_uri
from musicgen.errors import RowError
from musicgen.storage import Store, open_store

_THREADS = 16
_REMEMBERED_FILES = 200_000  # files; more are asked for again


@dataclass(frozen=True, slots=True)
class HashedAudio:
    """An audio file that a row names: its full URI, and the sha256 of its bytes."""

    uri: str
    sha256: str


@dataclass(frozen=True, slots=True)
class AudioReference:
    """A condition as a row writes it: URI, column, and the manifest's folder that a relative path starts from."""

    uri: str
    what: str  # melody | continuation
    folder: str


class AudioHashes:
    """The audio files that rows of a manifest name. Use as a context manager; safe for one planner at a time.

    `roots` are the local folders that files may lie in, besides the manifest's own. `cache` is a folder for hashes,
    or None to keep none.
    """

    def __init__(self, roots: Sequence[str] = (), cache: Path | None = None):
        self.roots = tuple(roots)
        self._known: dict[AudioReference, HashedAudio | RowError] = {}
        self._hashes = HashCache(cache)
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "AudioHashes":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._hashes.close()

    def look_up(self, wanted: Iterable[AudioReference]) -> dict[AudioReference, HashedAudio | RowError]:
        """Every wanted file's place and hash, or the `RowError` that its rows get: "invalid" if it is not there, else
        "melody".
        """
        distinct = dict.fromkeys(wanted)
        new = [item for item in distinct if item not in self._known]
        if new:
            if len(self._known) + len(new) > _REMEMBERED_FILES:
                self._known.clear()
                new = list(distinct)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="conditions")
            self._known.update(zip(new, self._pool.map(self._look_up, new), strict=True))
        return {item: self._known[item] for item in distinct}

    def _look_up(self, item: AudioReference) -> HashedAudio | RowError:
        try:
            uri, roots = item.uri.strip(), list(self.roots)
            if "://" not in item.folder:
                roots.insert(0, item.folder)
            elif "://" not in uri and not os.path.isabs(uri):
                uri = f"{item.folder}/{uri}"  # beside a manifest in a bucket
            place = resolve_uri(uri, subject=item.what, roots=roots)
            state = _file_state(place)
            sha256 = self._hashes.get(place, state) if state else None
            if sha256 is None:
                sha256 = hash_audio(place, subject=item.what, roots=roots).sha256
                if state and _file_state(place) == state:  # it did not change while it was read
                    self._hashes.put(place, state, sha256)
            return HashedAudio(place, sha256)
        except RowError as error:
            # A file that never was there is a mistake in the row; one that is there and cannot be used is a bad melody.
            return RowError("invalid", str(error)) if isinstance(error.__cause__, FileNotFoundError) else error


class HashCache:
    """sha256 by place and state, in a small SQLite file. A cache that cannot be used is done without."""

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

    def get(self, place: str, state: str) -> str | None:
        """The hash of a file that was in this state, if it is known."""
        rows = self._run("SELECT sha256 FROM hashes WHERE place = ? AND state = ?", place, state)
        return rows[0][0] if rows else None

    def put(self, place: str, state: str, sha256: str) -> None:
        """Remember a hash."""
        self._run("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", place, state, sha256)

    def _run(self, statement: str, *values: str) -> list[tuple[str]]:
        with self._lock:
            if self._db is None:
                return []
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.Error:  # another planner holds it, the disk is full: a cache is not worth an error
                return []

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None


def _file_state(place: str) -> str | None:
    """What changes when the file's content does; None if it cannot be told (then `digest` says why)."""
    try:
        if "://" not in place:
            stat = os.stat(place)
            return f"{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ino:x}"
        scheme, _, path = place.partition("://")
        bucket, _, name = path.partition("/")
        aws = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
        info = _bucket_store(f"{scheme}://{bucket}", aws).info(name)
        return f"{info.size:x}-{info.etag}" if info.etag else None
    except Exception:  # whatever it is, reading the file meets it again and names it
        return None


@lru_cache(maxsize=8)
def _bucket_store(uri: str, environment: tuple[tuple[str, str], ...]) -> Store:
    """One store, with its connections, per bucket and credentials."""
    return open_store(uri)
