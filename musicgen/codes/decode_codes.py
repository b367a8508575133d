"""Parquet files of codes to audio files."""

import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from musicgen.audio.encode import encode_audio
from musicgen.codes.codes_file import FILES_SCHEMA, CodesSummary, CodesWriter, Progress, check_codec
from musicgen.errors import ManifestError, RowError, first_line
from musicgen.storage import expand_uri, open_store
from musicgen.storage.parquet_reader import ParquetReader

if TYPE_CHECKING:
    from musicgen.model.codec.codec import Codec


def decode_codes(
    uri: str, output: str, codec: "Codec", *, format: str = "flac", progress: Progress | None = None
) -> CodesSummary:
    """Decode Parquet files of codes (a file, a folder or a glob) to audio files in the folder `output`.

    Files are named by the rows' `id` or `key`, or numbered; `files.parquet` lists them, written last. Raises
    `ManifestError`: nothing there, no column `codes`, or another codec's codes; `StoreError`.
    """
    store = open_store(output)
    failed: list[tuple[str, str]] = []
    made = 0
    names: set[str] = set()
    with CodesWriter(store.join("files.parquet"), FILES_SCHEMA) as writer:
        for number, (source, name, codes) in enumerate(_codes(uri, codec)):
            row: dict[str, Any] = {"id": name}
            try:
                file = encode_audio(codec.decode(_array(codes)), codec.sample_rate, format)
            except (RowError, ValueError) as error:
                failed.append((source, str(error)))
                row["error"] = str(error)
            else:
                path = f"{_file_name(name, number, names)}.{format}"
                store.write(path, file.data)
                row |= {"audio": path, "audio_sha256": file.sha256, "duration_s": file.duration_s}
                made += 1
            writer.add(row)
            if progress:
                progress(made + len(failed))
    return CodesSummary(made, failed, output)


def _codes(uri: str, codec: "Codec") -> Iterator[tuple[str, str | None, Any]]:
    """(source, name, codes) of every row that has codes."""
    files = [info.path for info in expand_uri(uri) if info.path.endswith((".parquet", ".pq"))]
    if not files:
        raise ManifestError(f"{uri}: there is no Parquet file of codes; `musicgen encode` writes one")
    for path in files:
        folder, _, name = path.rpartition("/")
        with open_store(folder or "/").open(name) as raw:
            try:
                parquet = ParquetReader(raw)
            except pa.ArrowInvalid as error:
                raise ManifestError(f"{path}: cannot be read as Parquet: {first_line(error)}") from None
            schema = parquet.schema_arrow
            if "codes" not in schema.names:
                raise ManifestError(
                    f"{path}: has no column `codes`; make it with `musicgen encode`, or a dataset with audio.codes: "
                    "true"
                )
            check_codec(schema.metadata or {}, codec, path)
            label = next((column for column in ("id", "key") if column in schema.names), None)
            row = 0
            for batch in parquet.iter_batches(batch_size=64, columns=["codes", *([label] if label else [])]):
                names = batch.column(label).to_pylist() if label else [None] * len(batch)
                for index, codes in enumerate(batch.column("codes")):
                    row += 1
                    if codes.is_valid:
                        yield f"{path} row {row}", None if names[index] is None else str(names[index]), codes


def _array(codes: pa.Scalar) -> NDArray[np.integer[Any]]:
    """Codes [codebooks, frames] as wide as they are written: the codec refuses those beyond its books.

    Raises ValueError.
    """
    try:
        found = np.asarray(codes.as_py())
    except ValueError:  # rows of several lengths
        found = np.empty(0)
    if found.ndim != 2 or found.size == 0 or found.dtype.kind not in "iu":
        raise ValueError("codes are whole numbers [codebooks][frames], every codebook with as many frames")
    return found


def _file_name(name: str | None, number: int, taken: set[str]) -> str:
    """A file's name from its row's: safe in any store, and nobody else's."""
    if name is None:
        return f"{number:08d}"
    safe = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:100].lstrip(".") or "_"
    if safe != name or safe.lower() in taken:
        safe = f"{safe}-{hashlib.sha256(f'{name}/{number}'.encode()).hexdigest()[:12]}"
    taken.add(safe.lower())
    return safe
