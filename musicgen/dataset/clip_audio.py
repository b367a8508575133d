"""Reads the audio of clips, by the columns of the index that locate it."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from musicgen.audio import decode_audio
from musicgen.dataset.schema import AUDIO_STRUCT
from musicgen.dataset.tombstones import is_key, read_tombstones
from musicgen.parallel import map_ordered
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

PLACE_COLUMNS = ["key", "audio", "audio_offset", "audio_bytes"]
_THREADS = 16
_SPARE_S = 1.0  # by which a file may be longer than its row says


def read_audio_bytes(store: Store, row: TableRow) -> bytes:
    """Read the audio file of an index row with `audio`, `audio_offset` and `audio_bytes`, in any layout."""
    cell = row["audio"]
    if isinstance(cell, dict):
        return cell["bytes"]
    if row["audio_offset"] is not None:
        return store.read(cell, row["audio_offset"], row["audio_bytes"])
    return store.read(cell)


def decode_clip(row: TableRow, content: bytes) -> tuple[NDArray[np.float32], int]:
    """Decode the audio file of an index row: float32 [channels, samples], and its sample rate in Hz.

    Raises `ValueError` if it is not audio, or much longer than the row says: a small file can hold hours of silence.
    """
    return decode_audio(content, row["duration_s"] + _SPARE_S)


def find_audio(store: Store, parts: Iterable[str], key: str) -> TableRow | None:
    """Return the columns that locate a clip, of the first of these index parts that has it and shows it; else None."""
    tombstones = read_tombstones(store, key) if is_key(key) else None
    for part_path in parts:
        if tombstones is not None and key in tombstones.hidden_in(part_path):
            continue
        with store.open(part_path) as file:
            part = ParquetReader(file)
            for row_group in range(part.num_row_groups):
                position = pc.index(part.read_row_group(row_group, columns=["key"]).column("key"), key).as_py()
                if position >= 0:
                    place: TableRow = (
                        part.read_row_group(row_group, columns=PLACE_COLUMNS).slice(position, 1).to_pylist()[0]
                    )
                    return place
    return None


def read_cells(store: Store, places: Sequence[TableRow], missing: list[str] | None = None) -> pa.Array:
    """Return clips as Hugging Face's {bytes, path}, from rows with `PLACE_COLUMNS` and `audio_format`.

    A clip whose audio file is missing raises `FileNotFoundError`, unless `missing` is given: then it is null, and its
    file is added to the list.
    """

    def read(place: TableRow) -> dict[str, object] | None:
        try:
            return {"bytes": read_audio_bytes(store, place), "path": f"{place['key']}.{place['audio_format']}"}
        except FileNotFoundError:
            if missing is None:
                raise
            missing.append(place["audio"])
            return None

    return pa.array(list(map_ordered(read, places, threads=_THREADS)), AUDIO_STRUCT)
