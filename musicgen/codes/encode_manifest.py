"""A manifest of audio to a Parquet file of codes."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from musicgen.audio.fetch import fetch_audio, redact_uri
from musicgen.audio.read import MAX_S, decode_excerpt
from musicgen.codes.codes_file import CODEC, CODES_SCHEMA, CodesSummary, CodesWriter, Progress, describe_codec
from musicgen.errors import RowError
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.manifest import read_manifest

if TYPE_CHECKING:
    from musicgen.model.codec.codec import Codec

_AHEAD = 2  # files decoded before the codec is ready for them


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

    `column` holds the files' URIs; relative ones start at the manifest's folder, and local ones must lie there or under
    `roots`. `columns` maps `id` and `prompt` to other names. Sound is resampled, and mixed to the codec's channels.
    Memory holds a few files and one row group. Raises `ManifestError` (unreadable, column missing), `StoreError`.
    """
    mapping = ColumnMap({"melody": column, **(columns or {})}, prompt_required=False)
    failed: list[tuple[str, str]] = []
    made = 0
    with CodesWriter(output, CODES_SCHEMA.with_metadata({CODEC: json.dumps(describe_codec(codec))})) as writer:
        for row, audio in _ahead(_sources(uri, mapping), lambda row: _load(row, codec, roots)):
            if isinstance(audio, RowError):
                row |= {"error": str(audio)}
                failed.append((row.pop("source"), str(audio)))
            else:
                row.pop("source")
                codes = codec.encode(audio)
                row |= {"frames": codes.shape[1], "codes": codes.tolist()}
                made += 1
            row.pop("folder")
            writer.add(row, 0 if row.get("frames") is None else row["frames"] * codec.codebooks)
            if progress:
                progress(made + len(failed))
    return CodesSummary(made, failed, output)


def _sources(uri: str, columns: ColumnMap) -> Iterator[dict[str, Any]]:
    for batch in read_manifest(uri, columns):
        absent = [None] * len(batch)
        for number, audio, name, prompt in zip(
            batch.numbers,
            batch.fields.get("melody", absent),
            batch.fields.get("id", absent),
            batch.fields.get("prompt", absent),
            strict=True,
        ):
            yield {
                "id": None if name is None else str(name),
                "prompt": None if prompt is None else str(prompt),
                "audio": None if audio is None else str(audio),
                "source": batch.locate(number),
                "folder": batch.file.folder,
            }
        for broken in batch.unparsable:
            source = batch.locate(broken.number)
            yield {"audio": None, "source": source, "folder": batch.file.folder, "broken": broken.reason}


def _load(row: dict[str, Any], codec: "Codec", roots: Sequence[str]) -> NDArray[np.float32] | RowError:
    """The row's sound float32 [channels, samples] as the codec wants it, or why there is none. Adds the file's hash."""
    try:
        if (reason := row.pop("broken", None)) is not None:
            raise RowError("invalid", reason)
        uri, folder = (row["audio"] or "").strip(), row["folder"]
        if not uri:
            raise RowError("invalid", "the row names no audio file")
        if "://" in folder and "://" not in uri and not os.path.isabs(uri):
            uri = f"{folder}/{uri}"
        allowed = list(roots) if "://" in folder else [folder, *roots]
        with fetch_audio(uri, subject="audio", roots=allowed) as file:
            row["audio_sha256"] = file.sha256
            return decode_excerpt(
                file.file,
                sample_rate=codec.sample_rate,
                seconds=MAX_S,
                channels=codec.channels,
                subject="audio",
                name=redact_uri(uri),
            )
    except RowError as error:
        return error


def _ahead(
    rows: Iterable[dict[str, Any]], load: Callable[[dict[str, Any]], NDArray[np.float32] | RowError]
) -> Iterator[tuple[dict[str, Any], NDArray[np.float32] | RowError]]:
    """Each row with what `load` gives, in order; the next few are loaded meanwhile."""
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="load") as pool:
        loading: deque[tuple[dict[str, Any], Future[NDArray[np.float32] | RowError]]] = deque()
        try:
            for row in rows:
                loading.append((row, pool.submit(load, row)))
                if len(loading) > _AHEAD:
                    first, future = loading.popleft()
                    yield first, future.result()
            while loading:
                first, future = loading.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)
