"""Defines the columns of the index and of `failures/`: names, order and types. docs/dataset.md describes each."""

import pyarrow as pa

SCHEMA_VERSION = 1

AUDIO_STRUCT = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""Hugging Face's storage type of an `Audio` feature, used by `layout: parquet`."""

_CREATED_AT = pa.field("created_at", pa.timestamp("us", tz="UTC"))

_INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("sample", pa.int32()),
        ("prompt", pa.string()),
        ("melody", pa.string()),
        ("melody_sha256", pa.string()),
        ("continuation", pa.string()),
        ("duration_s", pa.float64()),
        ("frames", pa.int32()),
        ("sample_rate", pa.int32()),
        ("channels", pa.int16()),
        ("seed", pa.int64()),
        ("temperature", pa.float64()),
        ("top_k", pa.int32()),
        ("top_p", pa.float64()),
        ("guidance_scale", pa.float64()),
        ("model", pa.string()),
        ("model_revision", pa.string()),
        ("audio", pa.string()),
        ("audio_format", pa.string()),
        ("audio_bytes", pa.int64()),
        ("audio_sha256", pa.string()),
        ("pcm_sha256", pa.string()),
        ("audio_offset", pa.int64()),
        ("peak_dbfs", pa.float64()),
        ("loudness_lufs", pa.float64()),
        ("clipped", pa.bool_()),
        ("silent", pa.bool_()),
        ("engine", pa.string()),
        ("run", pa.string()),
        ("shard", pa.int32()),
        _CREATED_AT,
    ]
)

FAILURES = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("source", pa.string()),
        ("error_class", pa.string()),
        ("error", pa.string()),
        ("attempts", pa.int32()),
        ("run", pa.string()),
        ("shard", pa.int32()),
        _CREATED_AT,
    ]
)

INDEX_COLUMNS = tuple(_INDEX.names)
RESERVED = frozenset({*INDEX_COLUMNS, "codes"})
"""Names that a carried column cannot have."""

CODES = pa.field("codes", pa.list_(pa.list_(pa.int16())))
"""The codec's codes, [codebooks][frames], in datasets made with `audio.codes: true`."""


def index_schema(layout: str = "files", carried: pa.Schema | None = None, codes: bool = False) -> pa.Schema:
    """Return the index's schema: its own columns, then `codes` if asked for, then the manifest's carried columns.

    The carried columns must have been renamed by `carried_name`. The column `audio` holds the file itself in `layout:
    parquet`, as Hugging Face's struct, and its path in the dataset in the other layouts.
    """
    schema = _INDEX
    if layout == "parquet":
        schema = schema.set(schema.get_field_index("audio"), pa.field("audio", AUDIO_STRUCT))
    if codes:
        schema = schema.append(CODES)
    for field in carried if carried is not None else ():
        if field.name in RESERVED:
            raise ValueError(f"carried column {field.name!r} was not renamed")
        schema = schema.append(pa.field(field.name, field.type))
    return schema


def carried_name(name: str, taken: frozenset[str] | set[str] = frozenset()) -> str:
    """Return the name of a manifest's column in the index: its own, with as many `manifest_` before it as needed."""
    while name in RESERVED or name in taken:
        name = f"manifest_{name}"
    return name
