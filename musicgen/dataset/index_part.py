"""Writes and reads index parts: Parquet files with a footer that names their shard and attempt."""

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.storage import Store
from musicgen.storage.parquet_writer import open_parquet_writer
from musicgen.value_types import JsonObject

_FOOTER_KEY = b"musicgen"
_HUGGINGFACE_KEY = b"huggingface"


@dataclass(frozen=True, slots=True)
class Footer:
    """The metadata of an index part: which attempt committed the shard, and its counts.

    Of the planned `rows`, `made` are in this part, `failed` in the file `failures` (None if no row failed), and
    `removed` were in this part until their clips were deleted. Fields that an earlier version did not write have their
    defaults; those of a later one are passed over.
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
    closed: str | None = (
        None  # the run for which this shard was closed; the part has no rows then, whatever `rows` says
    )
    tar_sha256: str | None = None  # of the shard's tar, with layout webdataset
    tar: str | None = None  # the path of that tar, where it was replaced; else it is that of the attempt
    revision: int = 0  # how often the part was replaced
    reason: str | None = None  # why it was replaced last, and by what
    replaced: dict[str, str] | None = None  # key -> `audio_sha256` that a clip had before it got other bits
    removed: int = 0  # rows that were made, and deleted since


def schema_with(schema: pa.Schema, footer: Footer) -> pa.Schema:
    """Add the footer to the schema's metadata, and for a column with audio the feature type that `datasets` reads."""
    if pa.types.is_struct(schema.field("audio").type):
        schema = with_audio(schema)
    document = asdict(footer)
    for name in ("closed", "tar_sha256", "tar", "revision", "reason", "replaced", "removed"):
        if not document[name]:
            del document[name]  # earlier releases refuse a footer with a field that they do not know
    return schema.with_metadata({**(schema.metadata or {}), _FOOTER_KEY: json.dumps(document).encode()})


def with_audio(schema: pa.Schema, column: str = "audio") -> pa.Schema:
    """Return the schema with metadata that makes a column an Audio feature for `datasets`."""
    features = {"info": {"features": {column: {"_type": "Audio"}}}}
    return schema.with_metadata({_HUGGINGFACE_KEY: json.dumps(features).encode()})


def write_part(sink: Path | io.BytesIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write an index part with a row group for each batch; without batches it has no rows."""
    with open_parquet_writer(sink, schema) as writer:
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
        return Footer(**{name: document[name] for name in Footer.__dataclass_fields__ if name in document})
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{location} has no musicgen footer; it is not an index part") from None
