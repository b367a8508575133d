"""Encodes the audio files of a manifest to a Parquet file of codes."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.fetch import fetch_audio
from musicgen.audio.read import MAX_S, decode_excerpt
from musicgen.audio.sound_places import collect_roots, redact_uri
from musicgen.codes.codes_file import CODEC_KEY, CODES_SCHEMA, CodesSummary, CodesWriter, Progress, describe_codec
from musicgen.errors import RowError
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.csv_choice import DialectChoice
from musicgen.manifest.csv_dialect import DialectChanged
from musicgen.manifest.files import find_files
from musicgen.manifest.manifest import read_manifest
from musicgen.parallel import map_ordered
from musicgen.storage.patience import SHORT_PATIENCE_S, wait_for_store

if TYPE_CHECKING:
    from musicgen.model.codec.codec import Codec

_FILES_AHEAD = 2  # files that are decoded before the codec needs them


@dataclass(frozen=True, slots=True)
class _ManifestRow:
    """A row of the manifest: its place, the file that it names and that file's folder, or why it cannot be read."""

    source: str
    folder: str
    uri: str | None = None
    identifier: str | None = None
    prompt: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _LoadedAudio:
    """A file's hash, if it was fetched, and its waveform, float32 [channels, samples], or why there is none."""

    sha256: str | None
    waveform: NDArray[np.float32] | RowError


def encode_manifest(
    uri: str,
    output: str,
    codec: "Codec",
    *,
    column: str = "audio",
    columns: dict[str, str] | None = None,
    roots: Sequence[str] = (),
    progress: Progress | None = None,
) -> CodesSummary:
    """Encode every audio file that a manifest names; `output` is the Parquet file to write, local or in a store.

    `column` holds the files' URIs; relative ones start at the manifest's folder, and local ones must be there or under
    `roots`. `columns` maps `id` and `prompt` to other names. Audio is resampled and mixed to the codec's channels.
    Memory holds a few files and one row group. Raises `ManifestError` (the manifest is unreadable or lacks a column)
    and `StoreError`.
    """
    mapping = ColumnMap({"melody": column, **(columns or {})}, prompt_required=False)
    failed: list[tuple[str, str]] = []
    made = 0
    with CodesWriter(output, CODES_SCHEMA.with_metadata({CODEC_KEY: json.dumps(describe_codec(codec))})) as writer:
        rows = map_ordered(
            lambda row: (row, _load_audio(row, codec, roots)),
            _read_rows(uri, mapping),
            threads=_FILES_AHEAD,
            ahead=_FILES_AHEAD + 1,
        )
        for row, loaded in rows:
            codes_row: dict[str, object] = {
                "id": row.identifier,
                "prompt": row.prompt,
                "audio": row.uri,
                "audio_sha256": loaded.sha256,
            }
            if isinstance(loaded.waveform, RowError):
                failed.append((row.source, str(loaded.waveform)))
                writer.add(codes_row | {"error": str(loaded.waveform)})
            else:
                codes = codec.encode(loaded.waveform)
                made += 1
                writer.add(codes_row | {"frames": codes.shape[1], "codes": codes.tolist()}, codes.size)
            if progress:
                progress(made + len(failed))
    return CodesSummary(made, failed, output)


def _choose_dialect(uri: str, columns: ColumnMap) -> DialectChoice:
    """Return the dialect of the manifest's CSV files, which is known when all of their rows have been looked at."""
    dialect = DialectChoice()
    if any(file.format == "csv" for file in find_files(uri)):
        with suppress(DialectChanged):  # it has been chosen anew, for good
            for _ in read_manifest(uri, columns, dialect=dialect):
                pass
    return dialect


def _read_rows(uri: str, columns: ColumnMap) -> Iterator[_ManifestRow]:
    for batch in read_manifest(uri, columns, dialect=_choose_dialect(uri, columns)):
        missing = [None] * len(batch)
        for row_number, audio, identifier, prompt in zip(
            batch.numbers,
            batch.fields.get("melody", missing),
            batch.fields.get("id", missing),
            batch.fields.get("prompt", missing),
            strict=True,
        ):
            yield _ManifestRow(
                source=batch.locate(row_number),
                folder=batch.file.folder,
                uri=None if audio is None else str(audio),
                identifier=None if identifier is None else str(identifier),
                prompt=None if prompt is None else str(prompt),
            )
        for broken in batch.unparsable:
            yield _ManifestRow(batch.locate(broken.number), batch.file.folder, problem=broken.reason)


def _load_audio(row: _ManifestRow, codec: "Codec", roots: Sequence[str]) -> _LoadedAudio:
    """Fetch a row's file and decode it for the codec."""
    sha256: str | None = None
    try:
        if row.problem is not None:
            raise RowError("invalid", row.problem)
        uri, folder = (row.uri or "").strip(), row.folder
        if not uri:
            raise RowError("invalid", "the row names no audio file")
        if "://" in folder and "://" not in uri and not os.path.isabs(uri):
            uri = f"{folder}/{uri}"
        allowed = collect_roots(folder, roots)
        with wait_for_store(lambda: fetch_audio(uri, subject="audio", roots=allowed), SHORT_PATIENCE_S) as fetched:
            sha256 = fetched.sha256
            waveform = decode_excerpt(
                fetched.file,
                sample_rate=codec.sample_rate,
                seconds=MAX_S,
                channels=codec.channels,
                subject="audio",
                name=redact_uri(uri),
            )
            return _LoadedAudio(sha256, waveform)
    except RowError as error:
        return _LoadedAudio(sha256, error)
