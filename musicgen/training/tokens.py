"""Converts the training data to codes, pitch classes and prompts, once, and keeps them in a folder.

The folder holds `codes.npy` int16 [codebooks, all frames], `bins.npy` int8 [all pitch classes], `clips.parquet` (a row
per clip: where its codes and pitch classes begin and end, prompt, split, seconds per beat), `bad.json` (the rows that
cannot be used, with the reasons) and `tokens.json` (hashes of data and codec: if they are equal, the folder is reused).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from musicgen.audio.read import decode_excerpt
from musicgen.conditioning import chroma
from musicgen.errors import MusicGenError, UserError
from musicgen.model.checkpoint.resolve import Checkpoint
from musicgen.model.checkpoint.tensors import Tensors
from musicgen.model.checkpoint.weights import read_headers
from musicgen.model.codec.codec import Codec
from musicgen.model.load import load_codec
from musicgen.storage import Store
from musicgen.training.data import DataRow, read_rows
from musicgen.value_types import TableRow

_VERSION = 2
_MAX_S = 600.0  # of a clip; the rest is not used
_ALONE = 24  # fewer rows are not worth starting processes
_CHUNK = 8

TokenizedRow = tuple[NDArray[np.int16], NDArray[np.int8]]


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedData:
    """The tokens of a folder, with memory-mapped arrays."""

    codes: NDArray[np.int16]
    pitch_classes: NDArray[np.int8]
    clips: list[TableRow]
    bad_rows: list[tuple[str, str]]  # row, reason

    @classmethod
    def open(cls, folder: Path) -> "TokenizedData":
        """Open the tokens that `make_tokens` wrote into `folder`."""
        return cls(
            np.load(folder / "codes.npy", mmap_mode="r", allow_pickle=False),
            np.load(folder / "bins.npy", mmap_mode="r", allow_pickle=False),
            pq.read_table(folder / "clips.parquet").to_pylist(),
            [(name, reason) for name, reason in json.loads((folder / "bad.json").read_text(encoding="utf-8"))],
        )

    def split(self, *names: str) -> list[int]:
        """Return the numbers of the clips of these splits."""
        return [number for number, clip in enumerate(self.clips) if clip["split"] in names]

    def frames_of(self, *names: str) -> int:
        """Return the total number of frames of the clips of these splits."""
        return sum(clip["frames_end"] - clip["frames_begin"] for clip in self.clips if clip["split"] in names)


def make_tokens(
    store: Store, checkpoint: Checkpoint, folder: Path, processes: int = 0, progress: Callable[[str], None] = print
) -> TokenizedData:
    """Tokenize the data in `store` with the checkpoint's codec, or open the result of an earlier call in `folder`.

    Rows that cannot be used are listed in `bad_rows`. `processes` 0: as many as there are cores. Raises `UserError` if
    no row can be used.
    """
    rows = read_rows(store)
    made_of = {"version": _VERSION, "codec": _codec_identity(checkpoint), "data": _data_identity(store, rows)}
    settings_path = folder / "tokens.json"
    if settings_path.is_file() and json.loads(settings_path.read_text(encoding="utf-8")) == made_of:
        return TokenizedData.open(folder)
    partial_folder = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    _write_tokens(partial_folder, rows, _tokenize_rows(store, checkpoint, rows, processes), progress)
    (partial_folder / "tokens.json").write_text(json.dumps(made_of) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial_folder, folder)
    return TokenizedData.open(folder)


def tokenize_row(row: DataRow, store: Store, codec: Codec, uses_melody: bool) -> TokenizedRow:
    """Compute the codes [codebooks, frames] and the pitch classes of a row.

    Raises RowError, OSError or StoreError for a row that cannot be used.
    """
    with row.open_audio(store) as file:
        audio = decode_excerpt(
            file, sample_rate=codec.sample_rate, seconds=_MAX_S, channels=codec.channels, subject="audio", name=row.name
        )
        codes = np.asarray(codec.encode(audio), np.int16)
        if not uses_melody:
            return codes, np.zeros(0, np.int8)
        if row.melody is None:
            file.seek(0)
            return codes, _read_pitch_classes(file, "audio", row.name)
    with store.open(row.melody) as melody:
        return codes, _read_pitch_classes(melody, "melody", row.melody)


def _read_pitch_classes(file: IO[bytes], subject: str, name: str) -> NDArray[np.int8]:
    """Compute the pitch classes of a file as `musicgen.conditioning.melody` does."""
    return chroma.strongest_pitch_classes(
        decode_excerpt(file, sample_rate=chroma.RATE_HZ, seconds=_MAX_S, subject=subject, name=name)[0]
    )


class _Worker:
    """The codec and store of a process; calling it tokenizes a row, or returns why that is not possible."""

    current: "_Worker"

    def __init__(self, store: Store, checkpoint: Checkpoint):
        torch.set_num_threads(1)
        self.store, self.codec = store, load_codec(checkpoint, "cpu")
        self.uses_melody = checkpoint.spec.kind == "melody"

    def __call__(self, row: DataRow) -> TokenizedRow | str:
        try:
            return tokenize_row(row, self.store, self.codec, self.uses_melody)
        except (MusicGenError, OSError, ValueError) as error:
            return f"there is no {error.args[-1]}" if isinstance(error, FileNotFoundError) else str(error)


def _start_worker(store: Store, checkpoint: Checkpoint) -> None:
    _Worker.current = _Worker(store, checkpoint)


def _tokenize_chunk(chunk: list[DataRow]) -> list[TokenizedRow | str]:
    return [_Worker.current(row) for row in chunk]


def _tokenize_rows(
    store: Store, checkpoint: Checkpoint, rows: list[DataRow], processes: int
) -> Iterator[TokenizedRow | str]:
    if len(rows) < _ALONE or processes == 1:
        yield from map(_Worker(store, checkpoint), rows)
        return
    # Processes are spawned, because torch's threads do not survive a fork.
    initialize = partial(_start_worker, store, checkpoint)
    with ProcessPoolExecutor(processes or os.cpu_count(), get_context("spawn"), initialize) as pool:
        for results in pool.map(_tokenize_chunk, _chunk_rows(rows)):
            yield from results


def _chunk_rows(rows: Iterable[DataRow]) -> Iterator[list[DataRow]]:
    remaining = iter(rows)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _write_tokens(
    folder: Path, rows: list[DataRow], results: Iterable[TokenizedRow | str], progress: Callable[[str], None]
) -> None:
    clips: list[TableRow] = []
    unusable_rows: list[tuple[str, str]] = []
    codes: list[NDArray[np.int16]] = []
    pitch_classes: list[NDArray[np.int8]] = []
    frame_count = class_count = 0
    for row_count, (row, result) in enumerate(zip(rows, results, strict=True), 1):
        if isinstance(result, str):
            unusable_rows.append((row.name, result))
        else:
            codes.append(result[0])
            pitch_classes.append(result[1])
            ends = frame_count + result[0].shape[1], class_count + len(result[1])
            clips.append(
                {"audio": row.name, "prompt": row.prompt, "split": row.split, "beat_s": row.beat_s}
                | {"frames_begin": frame_count, "frames_end": ends[0], "bins_begin": class_count, "bins_end": ends[1]}
            )
            frame_count, class_count = ends
        if row_count % 200 == 0 or row_count == len(rows):
            progress(
                f"tokens: {row_count - len(unusable_rows)} of {len(rows)} clips"
                + (f"; {len(unusable_rows)} cannot be used" if unusable_rows else "")
            )
    if not clips:
        name, reason = unusable_rows[0]
        raise UserError(f"nothing to train on: no row of {len(rows)} can be used; the first, {name}: {reason}")
    np.save(folder / "codes.npy", np.concatenate(codes, axis=1), allow_pickle=False)
    np.save(folder / "bins.npy", np.concatenate(pitch_classes), allow_pickle=False)
    pq.write_table(pa.Table.from_pylist(clips), folder / "clips.parquet")
    (folder / "bad.json").write_text(json.dumps(unusable_rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _codec_identity(checkpoint: Checkpoint) -> str:
    """Hash the codec's config and weights, and the kind of the model."""
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps([config["audio_encoder"], checkpoint.spec.kind], sort_keys=True).encode())
    tensors = Tensors(checkpoint.folder, read_headers(checkpoint.folder)).view("audio_encoder.")
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _data_identity(store: Store, rows: list[DataRow]) -> str:
    """Hash the rows, and the names and sizes of the files."""
    digest = hashlib.sha256()
    for row in rows:
        location = row.location if isinstance(row.location, str) else row.name
        digest.update(json.dumps([row.name, row.prompt, row.split, location, row.melody, row.beat_s]).encode())
    for file_info in store.list():
        digest.update(f"{file_info.path} {file_info.size}\n".encode())
    return digest.hexdigest()
