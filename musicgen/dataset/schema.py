"""The columns of the index and of `failures/`: names, order and types. docs/dataset.md describes each."""

import pyarrow as pa

SCHEMA_VERSION = 1

AUDIO_STRUCT = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""Hugging Face's storage type of an `Audio` feature, used by `layout: parquet`."""

_CREATED_AT = pa.field("created_at", pa.timestamp("us", tz="UTC"))

_INDEX = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("id", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("prompt", pa.string()),
        pa.field("melody", pa.string()),
        pa.field("melody_sha256", pa.string()),
        pa.field("continuation", pa.string()),
        pa.field("duration_s", pa.float64()),
        pa.field("frames", pa.int32()),
        pa.field("sample_rate", pa.int32()),
        pa.field("channels", pa.int16()),
        pa.field("seed", pa.int64()),
        pa.field("temperature", pa.float64()),
        pa.field("top_k", pa.int32()),
        pa.field("top_p", pa.float64()),
        pa.field("guidance_scale", pa.float64()),
        pa.field("model", pa.string()),
        pa.field("model_revision", pa.string()),
        pa.field("audio", pa.string()),
        pa.field("audio_format", pa.string()),
        pa.field("audio_bytes", pa.int64()),
        pa.field("audio_sha256", pa.string()),
        pa.field("pcm_sha256", pa.string()),
        pa.field("audio_offset", pa.int64()),
        pa.field("peak_dbfs", pa.float64()),
        pa.field("loudness_lufs", pa.float64()),
        pa.field("clipped", pa.bool_()),
        pa.field("silent", pa.bool_()),
        pa.field("engine", pa.string()),
        pa.field("run", pa.string()),
        pa.field("shard", pa.int32()),
        _CREATED_AT,
    ]
)

FAILURES = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("id", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("source", pa.string()),
        pa.field("error_class", pa.string()),
        pa.field("error", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("run", pa.string()),
        pa.field("shard", pa.int32()),
        _CREATED_AT,
    ]
)

INDEX_COLUMNS = tuple(_INDEX.names)
RESERVED = frozenset({*INDEX_COLUMNS, "codes"})
"""Names that a carried column cannot have."""

CODES = pa.field("codes", pa.list_(pa.list_(pa.int16())))
"""The codec's codes, [codebooks][frames], in datasets made with `audio.codes: true`."""


def index_schema(layout: str = "files", carried: pa.Schema | None = None, codes: bool = False) -> pa.Schema:
    """The index's schema: our columns in order, then `codes` if asked for, then the manifest's carried columns.

    These are already renamed by `carried_name`. `layout: parquet` holds the audio itself, as Hugging Face's struct; the
    others hold its path in the dataset.
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
    """What a manifest's column is called in the index: itself, or with `manifest_` before it as often as needed."""
    while name in RESERVED or name in taken:
        name = f"manifest_{name}"
    return name
