"""Writes and reads index parts: Parquet files with a footer that names their shard and attempt."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.storage import Store
from musicgen.value_types import JsonObject

_FOOTER_KEY = b"musicgen"
_HUGGINGFACE_KEY = b"huggingface"


@dataclass(frozen=True, slots=True)
class Footer:
    """The metadata of an index part: which attempt committed the shard, and its counts.

    Of the planned `rows`, `made` are in this part and `failed` in the file `failures` (None if no row failed).
    """

    run: str
    shard: int
    attempt: str
    rows: int
    made: int
    failed: int
    failures: str | None
    audio_s: float
    version: int = 1


def schema_with(schema: pa.Schema, footer: Footer) -> pa.Schema:
    """Add the footer to the schema's metadata, and for a column with audio the feature type that `datasets` reads."""
    if pa.types.is_struct(schema.field("audio").type):
        schema = with_audio(schema)
    return schema.with_metadata({**(schema.metadata or {}), _FOOTER_KEY: json.dumps(asdict(footer)).encode()})


def with_audio(schema: pa.Schema, column: str = "audio") -> pa.Schema:
    """Return the schema with metadata that makes a column an Audio feature for `datasets`."""
    features = {"info": {"features": {column: {"_type": "Audio"}}}}
    return schema.with_metadata({_HUGGINGFACE_KEY: json.dumps(features).encode()})


def write_part(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write an index part with a row group for each batch; without batches it has no rows."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema), row_group_size=max(1, batch.num_rows))


def read_footer(store: Store, path: str) -> Footer:
    """Read the footer of an index part, without its rows.

    Raises `FileNotFoundError` if there is no part, `ValueError` if the file is not an index part.
    """
    with store.open(path) as file:
        try:
            metadata = pq.read_metadata(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{store.join(path)} is not a Parquet file: {error}") from None
    return parse_footer(metadata.metadata, store.join(path))


def parse_footer(metadata: dict[bytes, bytes] | None, location: str) -> Footer:
    """Parse the footer in a Parquet file's metadata. Raises `ValueError` if there is none."""
    try:
        document: JsonObject = json.loads((metadata or {})[_FOOTER_KEY])
        return Footer(**{name: document[name] for name in Footer.__dataclass_fields__})
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{location} has no musicgen footer; it is not an index part") from None
