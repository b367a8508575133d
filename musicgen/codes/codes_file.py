"""The Parquet files of this package: their columns, the codec they name, and a writer that streams."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.errors import ManifestError
from musicgen.storage import open_store

if TYPE_CHECKING:
    from musicgen.model.codec.codec import Codec

CODES_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("audio", pa.string()),
        pa.field("audio_sha256", pa.string()),
        pa.field("frames", pa.int64()),
        pa.field("codes", pa.list_(pa.list_(pa.int16()))),
        pa.field("error", pa.string()),
    ]
)
FILES_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("audio", pa.string()),
        pa.field("audio_sha256", pa.string()),
        pa.field("duration_s", pa.float64()),
        pa.field("error", pa.string()),
    ]
)
CODEC = b"musicgen.codec"  # key of the schema's metadata

_GROUP_CODES = 1 << 20  # codes of a row group: an hour and a half of mono
_GROUP_ROWS = 1024


@dataclass(frozen=True, slots=True)
class CodesSummary:
    """What came of it: files made, and rows that failed with their reasons."""

    made: int
    failed: list[tuple[str, str]]
    output: str


Progress = Callable[[int], None]
"""Called with the number of rows done so far."""


def describe_codec(codec: "Codec") -> dict[str, Any]:
    """What tells one codec's codes from another's."""
    return {
        "sample_rate": codec.sample_rate,
        "frame_rate": codec.frame_rate,
        "channels": codec.channels,
        "codebooks": codec.codebooks,
        "codebook_size": codec.codebook_size,
    }


def check_codec(metadata: dict[bytes, bytes], codec: "Codec", path: str) -> None:
    """Raise ManifestError if the codes of the file at `path` are another codec's. An index does not say."""
    if CODEC not in metadata:
        return  # an index: the shape of the codes must tell
    theirs, ours = json.loads(metadata[CODEC]), describe_codec(codec)
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ManifestError(
                f"{path}: its codes have {name} {theirs.get(name)}, this model's {value}; decode them with the "
                "model that made them"
            )


class CodesWriter:
    """A Parquet file that grows by row groups in a temporary file and is put in its place when it is whole."""

    def __init__(self, output: str, schema: pa.Schema):
        self._output = output
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self._temp = Path(tempfile.mkdtemp(prefix="musicgen-")) / "rows.parquet"
        self._writer = pq.ParquetWriter(self._temp, schema, compression="zstd")

    def add(self, row: dict[str, Any], size: int = 0) -> None:
        """Add a row that holds `size` codes."""
        self._rows.append(row)
        self._size += size
        if self._size >= _GROUP_CODES or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._size = [], 0

    def __enter__(self) -> "CodesWriter":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                folder, _, name = self._output.rpartition("/")
                open_store(folder or ".").write(name, self._temp)
        finally:
            with suppress(OSError):
                self._temp.unlink()
                self._temp.parent.rmdir()
