"""Writes a shard's audio in one of three layouts: a file per clip, a cell of the index, a member of a WebDataset tar.

A layout takes finished clips from any thread, and gives the index columns `audio` and `audio_offset`. Clips that are
kept until the commit are on disk, not in memory. Writes to a store that cannot be used wait for it, for at most
`patience_s` seconds.
"""

import hashlib
import io
import json
import math
import os
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from musicgen.dataset import paths
from musicgen.storage import Store
from musicgen.storage.patience import wait_for_store
from musicgen.temporary_folder import temporary_folder


@dataclass(frozen=True, slots=True)
class Place:
    """The index columns that locate a clip's audio."""

    audio: object
    audio_offset: int | None = None


class Layout(Protocol):
    """Writes the audio of one attempt at a shard."""

    tar_sha256: str | None  # of the tar that was written, if any

    def add(self, position: int, key: str, content: bytes, sha256: str) -> None:
        """Add one clip's file. Thread-safe."""

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, object]]) -> Iterator[Place]:
        """Finish the audio and locate each clip, in this order. `rows` are index rows without audio, by position."""

    def discard(self) -> None:
        """Delete the objects that only this attempt uses, after another attempt has committed the shard."""

    def close(self) -> None:
        """Free temporary files."""


class Files:
    """Writes each clip as an object of its own, as soon as it is added."""

    tar_sha256: str | None = None

    def __init__(self, store: Store, extension: str, patience_s: float):
        self._store, self._extension, self._patience_s = store, extension, patience_s
        self._paths: dict[int, str] = {}

    def add(self, position: int, key: str, content: bytes, sha256: str) -> None:
        """Write one clip's file. Thread-safe."""
        path = paths.audio_file(key, sha256, self._extension)
        wait_for_store(lambda: self._store.write(path, content), self._patience_s)
        self._paths[position] = path

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, object]]) -> Iterator[Place]:
        """Locate each clip, in this order."""
        return (Place(self._paths[position]) for position in positions)

    def discard(self) -> None:
        """Do nothing, because the other attempt may have written the same objects."""

    def close(self) -> None:
        """Do nothing, because there are no temporary files."""


class _Spool:
    """Keeps bytes by position in an anonymous temporary file. Thread-safe."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self._lock = threading.Lock()
        self._spans: dict[int, tuple[int, int]] = {}

    def add(self, position: int, content: bytes) -> None:
        """Write bytes for a position."""
        with self._lock:
            offset = self._file.seek(0, os.SEEK_END)
            self._file.write(content)
            self._spans[position] = (offset, len(content))

    def get(self, position: int) -> bytes:
        """Read the bytes of a position."""
        with self._lock:
            offset, size = self._spans[position]
            self._file.seek(offset)
            return self._file.read(size)

    def close(self) -> None:
        """Delete the file."""
        with suppress(OSError):  # closing writes what is buffered, for which a full disk has no room
            self._file.close()


class Cells:
    """Writes each clip into a cell of the index, as Hugging Face's {bytes, path}."""

    tar_sha256: str | None = None

    def __init__(self, extension: str):
        self._extension = extension
        self._spool = _Spool()
        self._names: dict[int, str] = {}

    def add(self, position: int, key: str, content: bytes, sha256: str) -> None:
        """Keep one clip's file on disk. Thread-safe."""
        self._spool.add(position, content)
        self._names[position] = f"{key}.{self._extension}"

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, object]]) -> Iterator[Place]:
        """Return each clip's cell, in this order."""
        return (Place({"bytes": self._spool.get(position), "path": self._names[position]}) for position in positions)

    def discard(self) -> None:
        """Do nothing, because nothing was written to the store."""

    def close(self) -> None:
        """Free the temporary file."""
        self._spool.close()


class Tar:
    """Writes each clip as a member `<key>.flac` of the shard's tar, followed by its row as `<key>.json`.

    The tar is written in the order of positions and holds neither times nor users, so that equal clips give an equal
    tar. The index gives the offset of each member's bytes, so that one range read fetches a clip.
    """

    def __init__(self, store: Store, extension: str, path: str, patience_s: float):
        self._store, self._extension, self._path, self._patience_s = store, extension, path, patience_s
        self._spool = _Spool()
        self._keys: dict[int, str] = {}
        self._written = False
        self.tar_sha256: str | None = None

    def add(self, position: int, key: str, content: bytes, sha256: str) -> None:
        """Keep one clip's file on disk. Thread-safe."""
        self._spool.add(position, content)
        self._keys[position] = key

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, object]]) -> Iterator[Place]:
        """Write the tar and locate each clip in it, in this order."""
        if not positions:
            return iter(())
        offsets = []
        with temporary_folder() as folder:
            temporary_path = folder / "shard.tar"
            with tarfile.open(temporary_path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for position in positions:
                    key = self._keys[position]
                    offsets.append(add_member(tar, f"{key}.{self._extension}", self._spool.get(position)))
                    add_member(tar, f"{key}.json", _encode_row(rows[position]))
            with temporary_path.open("rb") as file:
                self.tar_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            wait_for_store(lambda: self._store.write(self._path, temporary_path), self._patience_s)
        self._written = True
        return (Place(self._path, offset) for offset in offsets)

    def rename(self, path: str) -> None:
        """Write the tar under another name."""
        self._path = path

    def discard(self) -> None:
        """Delete the tar, whose name is this attempt's own."""
        if self._written:
            self._store.delete(self._path)

    def close(self) -> None:
        """Free the temporary file."""
        self._spool.close()


def make_layout(
    name: str, store: Store, format: str, run: str, shard: int, attempt: str, patience_s: float = 0.0
) -> Layout:
    """Make the layout of a job's `audio.layout`, for one attempt at a shard."""
    if name == "files":
        return Files(store, format, patience_s)
    if name == "parquet":
        return Cells(format)
    return Tar(store, format, paths.audio_tar(run, shard, attempt), patience_s)


def add_member(tar: tarfile.TarFile, member_name: str, member_bytes: bytes) -> int:
    """Add a member. Returns the offset of its bytes in the tar."""
    member_info = tarfile.TarInfo(member_name)
    member_info.size, member_info.mode = len(member_bytes), 0o644
    tar.addfile(member_info, io.BytesIO(member_bytes))
    return tar.offset - -(-len(member_bytes) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _encode_row(row: Mapping[str, object]) -> bytes:
    return json.dumps(
        {name: _replace_nan(value) for name, value in row.items()}, ensure_ascii=False, default=_encode_value
    ).encode()


def _replace_nan(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _encode_value(value: object) -> object:
    """Return a value that JSON lacks as one that it has. Only rows of datasets of version 1 have others than halves."""
    return float(value) if isinstance(value, np.floating) else str(value)
