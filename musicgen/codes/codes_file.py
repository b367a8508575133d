"""Defines the columns and metadata of codes files, and writes them as a stream."""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.errors import ManifestError
from musicgen.storage import open_store

if TYPE_CHECKING:
    from musicgen.model.codec.codec import Codec

CODES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("audio", pa.string()),
        ("audio_sha256", pa.string()),
        ("frames", pa.int64()),
        ("codes", pa.list_(pa.list_(pa.int16()))),
        ("error", pa.string()),
    ]
)
FILES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.string()),
        ("audio_sha256", pa.string()),
        ("duration_s", pa.float64()),
        ("error", pa.string()),
    ]
)
CODEC_KEY = b"musicgen.codec"  # of the schema's metadata

_GROUP_CODES = 1 << 20  # codes of a row group: an hour and a half of mono audio
_GROUP_ROWS = 1024


@dataclass(frozen=True, slots=True)
class CodesSummary:
    """The number of files made, the failed rows as (source, reason), and the place of the output."""

    made: int
    failed: list[tuple[str, str]]
    output: str


Progress = Callable[[int], None]
"""Called with the number of rows finished so far."""


def describe_codec(codec: "Codec") -> dict[str, float]:
    """Return the properties by which the codes of two codecs differ."""
    return {
        "sample_rate": codec.sample_rate,
        "frame_rate": codec.frame_rate,
        "channels": codec.channels,
        "codebooks": codec.codebooks,
        "codebook_size": codec.codebook_size,
    }


def check_codec(metadata: dict[bytes, bytes], codec: "Codec", path: str) -> None:
    """Raise ManifestError if the codes of the file at `path` were made by another codec."""
    if CODEC_KEY not in metadata:
        return  # an index does not describe its codec; the codec itself checks the shape of the codes
    file_codec, model_codec = json.loads(metadata[CODEC_KEY]), describe_codec(codec)
    for name, value in model_codec.items():
        if file_codec.get(name) != value:
            raise ManifestError(
                f"{path}: its codes have {name} {file_codec.get(name)}, this model's {value}; decode them with the "
                "model that made them"
            )


class CodesWriter:
    """Writes a Parquet file in row groups to a temporary file, and to `output` when it is complete."""

    def __init__(self, output: str, schema: pa.Schema):
        self._output = output
        self._schema = schema
        self._rows: list[Mapping[str, object]] = []
        self._code_count = 0
        self._temporary_path = Path(tempfile.mkdtemp(prefix="musicgen-")) / "rows.parquet"
        self._writer = pq.ParquetWriter(self._temporary_path, schema, compression="zstd")

    def add(self, row: Mapping[str, object], code_count: int = 0) -> None:
        """Add a row that holds `code_count` codes."""
        self._rows.append(row)
        self._code_count += code_count
        if self._code_count >= _GROUP_CODES or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._code_count = [], 0

    def __enter__(self) -> "CodesWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                folder, _, name = self._output.rpartition("/")
                open_store(folder or ".").write(name, self._temporary_path)
        finally:
            with suppress(OSError):
                self._temporary_path.unlink()
                self._temporary_path.parent.rmdir()
