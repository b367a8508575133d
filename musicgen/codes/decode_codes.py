"""Decodes Parquet files of codes to audio files."""

import hashlib
import re
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from musicgen import dataset_paths as paths
from musicgen.audio.encode import encode_audio
from musicgen.codes.codes_file import FILES_SCHEMA, CodesSummary, CodesWriter, Progress, check_codec
from musicgen.errors import ManifestError, RowError, first_line
from musicgen.patterns import Codes
from musicgen.storage import expand_uri, open_store
from musicgen.storage.parquet_reader import ParquetReader

if TYPE_CHECKING:
    from musicgen.model.codec.codec import Codec


def decode_codes(
    uri: str,
    output: str,
    codec: "Codec",
    *,
    format: str = "flac",
    left_out: Set[str] = frozenset(),
    progress: Progress | None = None,
) -> CodesSummary:
    """Decode Parquet files of codes (a file, a folder, a glob or a dataset) to audio files in the folder `output`.

    Files are named by the rows' `id` or `key`, or numbered; `files.parquet`, which is written last, lists them. Rows
    whose key is in `left_out` are passed over. Raises `ManifestError` (no such file, no column `codes`, or codes of
    another codec) and `StoreError`.
    """
    store = open_store(output)
    failed: list[tuple[str, str]] = []
    made = 0
    taken_names: set[str] = set()
    with CodesWriter(store.join("files.parquet"), FILES_SCHEMA) as writer:
        for row_index, (source, name, codes) in enumerate(_read_codes(uri, codec, left_out)):
            row: dict[str, object] = {"id": name}
            try:
                encoded = encode_audio(codec.decode(_to_array(codes)), codec.sample_rate, format)
            except (RowError, ValueError) as error:
                failed.append((source, str(error)))
                row["error"] = str(error)
            else:
                path = f"{_choose_file_name(name, row_index, taken_names)}.{format}"
                store.write(path, encoded.data)
                row |= {"audio": path, "audio_sha256": encoded.sha256, "duration_s": encoded.duration_s}
                made += 1
            writer.add(row)
            if progress:
                progress(made + len(failed))
    return CodesSummary(made, failed, output)


def _read_codes(uri: str, codec: "Codec", left_out: Set[str]) -> Iterator[tuple[str, str | None, pa.Scalar]]:
    """Yield (source, name, codes) of every row that has codes."""
    files = [info.path for info in expand_uri(_find_index(uri)) if info.path.endswith((".parquet", ".pq"))]
    if not files:
        raise ManifestError(f"{uri}: there is no Parquet file of codes; `musicgen encode` writes one")
    for path in files:
        folder, _, name = path.rpartition("/")
        with open_store(folder or "/").open(name) as file:
            try:
                parquet = ParquetReader(file)
            except pa.ArrowInvalid as error:
                raise ManifestError(f"{path}: cannot be read as Parquet: {first_line(error)}") from None
            schema = parquet.schema_arrow
            if "codes" not in schema.names:
                raise ManifestError(
                    f"{path}: has no column `codes`; make it with `musicgen encode`, or a dataset with audio.codes: "
                    "true"
                )
            check_codec(schema.metadata or {}, codec, path)
            name_column = next((column for column in ("id", "key") if column in schema.names), None)
            row_number = 0
            columns = {"codes", *([name_column] if name_column else []), *(["key"] if left_out else [])}
            for batch in parquet.iter_batches(batch_size=64, columns=sorted(columns)):
                keys = (
                    batch.column("key").to_pylist() if left_out and "key" in batch.schema.names else [None] * len(batch)
                )
                names = batch.column(name_column).to_pylist() if name_column else [None] * len(batch)
                for index, codes in enumerate(batch.column("codes")):
                    row_number += 1
                    if codes.is_valid and keys[index] not in left_out:
                        yield f"{path} row {row_number}", None if names[index] is None else str(names[index]), codes


def _find_index(uri: str) -> str:
    """Return the index of a dataset, whose other tables (failures, runs) have no codes; anything else as it is."""
    infos = expand_uri(f"{uri.rstrip('/')}/{paths.INFO}")
    return f"{uri.rstrip('/')}/{paths.INDEX}" if infos else uri


def _to_array(codes: pa.Scalar) -> Codes:
    """Convert codes to integers [codebooks, frames] of the stored width; the codec refuses codes beyond its codebooks.

    Raises ValueError for anything else than a full matrix of whole numbers.
    """
    try:
        array = np.asarray(codes.as_py())
    except ValueError:  # codebooks of different lengths
        array = np.empty(0)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError("codes are whole numbers [codebooks][frames], every codebook with as many frames")
    return array


def _choose_file_name(name: str | None, row_index: int, taken_names: set[str]) -> str:
    """Make a file's name from its row's: one that is allowed in any store and not in `taken_names` yet."""
    if name is None:
        return f"{row_index:08d}"
    safe_name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:100].lstrip(".") or "_"
    if safe_name != name or safe_name.lower() in taken_names:
        safe_name = f"{safe_name}-{hashlib.sha256(f'{name}/{row_index}'.encode()).hexdigest()[:12]}"
    taken_names.add(safe_name.lower())
    return safe_name
