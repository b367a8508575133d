"""The three places that a clip's audio can have: a file of its own, a cell of the index, a member of a WebDataset tar.

A layout takes clips as they are finished, from any thread, and gives the index columns `audio` and `audio_offset`. What
it keeps until the commit lies on disk, not in memory.
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
from typing import Any, Protocol

from musicgen.dataset import paths
from musicgen.storage import Store


@dataclass(frozen=True, slots=True)
class Place:
    """The index columns that say where a clip's audio is."""

    audio: Any
    audio_offset: int | None = None


class Layout(Protocol):
    """Where a shard's audio goes."""

    def add(self, position: int, key: str, data: bytes, sha256: str) -> None:
        """Take one clip's file. Thread-safe."""

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, Any]]) -> Iterator[Place]:
        """Finish the audio and say where each clip is, in this order. `rows` are index rows without audio."""

    def discard(self) -> None:
        """Remove what only this attempt could have used, after a lost race."""

    def close(self) -> None:
        """Free what is held on disk."""


class Files:
    """Each clip is an object, written at once."""

    def __init__(self, store: Store, extension: str):
        self._store, self._extension = store, extension
        self._paths: dict[int, str] = {}

    def add(self, position: int, key: str, data: bytes, sha256: str) -> None:
        path = paths.audio_file(key, sha256, self._extension)
        self._store.write(path, data)
        self._paths[position] = path

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, Any]]) -> Iterator[Place]:
        return (Place(self._paths[position]) for position in positions)

    def discard(self) -> None:
        """Nothing: the winner may have written the very same objects."""

    def close(self) -> None:
        """Nothing is held."""


class _Spool:
    """Bytes by position in an anonymous temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self._lock = threading.Lock()
        self._spans: dict[int, tuple[int, int]] = {}

    def add(self, position: int, data: bytes) -> None:
        with self._lock:
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._spans[position] = (start, len(data))

    def get(self, position: int) -> bytes:
        with self._lock:
            start, size = self._spans[position]
            self._file.seek(start)
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()


class Cells:
    """Each clip is a cell of the index, as Hugging Face's {bytes, path}."""

    def __init__(self, extension: str):
        self._extension = extension
        self._spool = _Spool()
        self._names: dict[int, str] = {}

    def add(self, position: int, key: str, data: bytes, sha256: str) -> None:
        self._spool.add(position, data)
        self._names[position] = f"{key}.{self._extension}"

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, Any]]) -> Iterator[Place]:
        return (Place({"bytes": self._spool.get(position), "path": self._names[position]}) for position in positions)

    def discard(self) -> None:
        """Nothing was written."""

    def close(self) -> None:
        self._spool.close()


class Tar:
    """Each clip is a member `<key>.flac` of the shard's tar, followed by its row as `<key>.json`.

    The tar is written in the order of positions, with nothing of time or user in it: equal clips, equal tar. The index
    gives the offset of each member's bytes, so that one range read fetches a clip.
    """

    def __init__(self, store: Store, extension: str, path: str):
        self._store, self._extension, self._path = store, extension, path
        self._spool = _Spool()
        self._keys: dict[int, str] = {}
        self._written = False

    def add(self, position: int, key: str, data: bytes, sha256: str) -> None:
        self._spool.add(position, data)
        self._keys[position] = key

    def places(self, positions: Sequence[int], rows: Mapping[int, dict[str, Any]]) -> Iterator[Place]:
        if not positions:
            return iter(())
        offsets = []
        with tempfile.TemporaryDirectory() as folder:
            temp = Path(folder, "shard.tar")
            with tarfile.open(temp, "w", format=tarfile.USTAR_FORMAT) as tar:
                for position in positions:
                    key = self._keys[position]
                    offsets.append(_add_member(tar, f"{key}.{self._extension}", self._spool.get(position)))
                    _add_member(tar, f"{key}.json", _json(rows[position]))
            self._store.write(self._path, temp)
        self._written = True
        return (Place(self._path, offset) for offset in offsets)

    def discard(self) -> None:
        if self._written:
            self._store.delete(self._path)

    def close(self) -> None:
        self._spool.close()


def make_layout(name: str, store: Store, format: str, run: str, shard: int, attempt: str) -> Layout:
    """The layout of a job's `audio.layout`."""
    if name == "files":
        return Files(store, format)
    if name == "parquet":
        return Cells(format)
    return Tar(store, format, paths.audio_tar(run, shard, attempt))


def _add_member(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member; the offset of its bytes in the tar."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _json(row: Mapping[str, Any]) -> bytes:
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False, default=str).encode()


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
