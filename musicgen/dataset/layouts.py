"""Writes a shard's audio in one of three layouts: a file per clip, a cell of the index, a member of a WebDataset tar.

A layout takes finished clips from any thread, and gives the index columns `audio` and `audio_offset`. Clips that are
kept until the commit are on disk, not in memory.
"""

import io
import json
import math
import os
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from musicgen.dataset import paths
from musicgen.storage import Store


@dataclass(frozen=True, slots=True)
class Place:
    """The index columns that locate a clip's audio."""

    audio: object
    audio_offset: int | None = None


class Layout(Protocol):
    """Writes the audio of one attempt at a shard."""

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

    def __init__(self, store: Store, extension: str):
        self._store, self._extension = store, extension
        self._paths: dict[int, str] = {}

    def add(self, position: int, key: str, content: bytes, sha256: str) -> None:
        """Write one clip's file. Thread-safe."""
        path = paths.audio_file(key, sha256, self._extension)
        self._store.write(path, content)
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
        self._file.close()


class Cells:
    """Writes each clip into a cell of the index, as Hugging Face's {bytes, path}."""

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

    def __init__(self, store: Store, extension: str, path: str):
        self._store, self._extension, self._path = store, extension, path
        self._spool = _Spool()
        self._keys: dict[int, str] = {}
        self._written = False

    def add(self, position: int, key: str, content: bytes, sha256: str) -> None:
        """Keep one clip's file on disk. Thread-safe."""
        self._spool.add(position, content)
        self._keys[position] = key

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, object]]) -> Iterator[Place]:
        """Write the tar and locate each clip in it, in this order."""
        if not positions:
            return iter(())
        offsets = []
        with tempfile.TemporaryDirectory() as folder:
            temporary_path = Path(folder, "shard.tar")
            with tarfile.open(temporary_path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for position in positions:
                    key = self._keys[position]
                    offsets.append(_add_member(tar, f"{key}.{self._extension}", self._spool.get(position)))
                    _add_member(tar, f"{key}.json", _encode_row(rows[position]))
            self._store.write(self._path, temporary_path)
        self._written = True
        return (Place(self._path, offset) for offset in offsets)

    def discard(self) -> None:
        """Delete the tar, whose name is this attempt's own."""
        if self._written:
            self._store.delete(self._path)

    def close(self) -> None:
        """Free the temporary file."""
        self._spool.close()


def make_layout(name: str, store: Store, format: str, run: str, shard: int, attempt: str) -> Layout:
    """Make the layout of a job's `audio.layout`, for one attempt at a shard."""
    if name == "files":
        return Files(store, format)
    if name == "parquet":
        return Cells(format)
    return Tar(store, format, paths.audio_tar(run, shard, attempt))


def _add_member(tar: tarfile.TarFile, member_name: str, member_bytes: bytes) -> int:
    """Add a member. Returns the offset of its bytes in the tar."""
    member_info = tarfile.TarInfo(member_name)
    member_info.size, member_info.mode = len(member_bytes), 0o644
    tar.addfile(member_info, io.BytesIO(member_bytes))
    return tar.offset - -(-len(member_bytes) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _encode_row(row: Mapping[str, object]) -> bytes:
    return json.dumps(
        {name: _replace_nan(value) for name, value in row.items()}, ensure_ascii=False, default=str
    ).encode()


def _replace_nan(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
