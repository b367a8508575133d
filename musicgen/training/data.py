"""Reads the rows to train on, from a folder of audio and Parquet captions or from a dataset of `musicgen run`.

A folder holds audio files and Parquet files with the columns `audio` (a path relative to the Parquet file's folder) and
`prompt`. Optional columns are `melody` (the path of a sound to take the melody from; null: the audio itself), `split`
(train, valid or test) and `beat_s` (seconds per beat; the first beat is at 0 s). Rows without a split get one by a hash
of their audio's name.
"""

import hashlib
import io
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from musicgen.dataset import paths
from musicgen.dataset.reader import open_dataset, read_audio_bytes
from musicgen.errors import UserError
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.value_types import TableRow

SPLITS = ("train", "valid", "test")
_VALIDATION_EVERY = 50  # one of so many rows without a split is for validation


@dataclass(frozen=True, slots=True)
class DataRow:
    """A row of the data.

    `location` is the path of its audio, or for a dataset the row of the index (`musicgen.dataset.reader.read_audio`).
    """

    name: str
    prompt: str
    split: str
    location: Any
    melody: str | None = None
    beat_s: float | None = None

    def open_audio(self, store: Store) -> IO[bytes]:
        """Open the audio file. Raises FileNotFoundError, StoreError."""
        if isinstance(self.location, str):
            return store.open(self.location)
        return io.BytesIO(read_audio_bytes(store, self.location))


def read_rows(store: Store) -> list[DataRow]:
    """Read every row of the data in `store`, in the order of its Parquet files.

    Raises `UserError` if there are no rows or a column is missing.
    """
    store.check()
    rows = list(_read_dataset_rows(store) if store.exists(paths.INFO) else _read_folder_rows(store))
    if not rows:
        raise UserError(f"{store.uri}: nothing to train on: its Parquet files have no rows")
    return rows


def _read_folder_rows(store: Store) -> Iterator[DataRow]:
    files = [info.path for info in store.list() if info.path.endswith(".parquet")]
    if not files:
        raise UserError(
            f"{store.uri}: nothing to train on; give a folder of audio files with a Parquet file of the columns "
            "audio and prompt, or a dataset that `musicgen run` made"
        )
    for path in files:
        with store.open(path) as file:
            parquet = ParquetReader(file)
            missing = {"audio", "prompt"} - set(parquet.schema_arrow.names)
            if missing:
                raise UserError(
                    f"{store.join(path)}: lacks the column {sorted(missing)[0]!r}; it has "
                    f"{', '.join(parquet.schema_arrow.names)}"
                )
            columns = [
                name for name in ("audio", "prompt", "melody", "split", "beat_s") if name in parquet.schema_arrow.names
            ]
            for row in parquet.read(columns=columns).to_pylist():
                yield _parse_folder_row(row, posixpath.dirname(path))


def _parse_folder_row(row: TableRow, folder: str) -> DataRow:
    audio, melody = str(row["audio"] or ""), row.get("melody")
    split = row.get("split")
    return DataRow(
        name=audio,
        prompt=str(row["prompt"] or "").strip(),
        split=split if split in SPLITS else _hash_split(audio),
        location=posixpath.join(folder, audio),
        melody=posixpath.join(folder, str(melody)) if melody else None,
        beat_s=_positive_or_none(row.get("beat_s")),
    )


def _positive_or_none(value: object) -> float | None:
    return float(value) if isinstance(value, float) and 0 < value < float("inf") else None


def _read_dataset_rows(store: Store) -> Iterator[DataRow]:
    for batch in open_dataset(store.uri).batches(["key", "prompt", "audio", "audio_offset", "audio_bytes"]):
        for row in batch.to_pylist():
            yield DataRow(row["key"], (row["prompt"] or "").strip(), _hash_split(row["key"]), row)


def _hash_split(name: str) -> str:
    return (
        "valid"
        if int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % _VALIDATION_EVERY == 0
        else "train"
    )
