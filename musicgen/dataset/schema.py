"""Defines the columns of the index and of `failures/`: names, order and types. docs/dataset.md describes each.

A dataset keeps the columns of the schema version that began it, whichever release adds to it. A later version only adds
columns, at the end of the index's own; `failures/` is the same in both versions.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import pyarrow as pa

SCHEMA_VERSION = 2
"""The version of datasets that are begun now. Those of every earlier version are read and added to as well."""

AUDIO_STRUCT = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""Hugging Face's storage type of an `Audio` feature, used by `layout: parquet`."""

_CREATED_AT = pa.field("created_at", pa.timestamp("us", tz="UTC"))

_VERSION_1 = pa.schema(
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

_ADDED_IN_2 = [
    pa.field("prompt_tokens", pa.int32()),
    pa.field("prompt_unknown", pa.int32()),
    pa.field("continuation_sha256", pa.string()),
    pa.field("stems", pa.string()),
    pa.field("family", pa.string()),
    pa.field("negative_prompt", pa.string()),
    pa.field("steps", pa.int32()),
]
_INDEX = {1: _VERSION_1, 2: pa.schema([*_VERSION_1, *_ADDED_IN_2])}

MELODY_STEMS = "vocals+other"
"""The value of `stems` for a melody whose drums and bass were left out (musicgen/conditioning/stems.py)."""

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

CODES = pa.field("codes", pa.list_(pa.list_(pa.int16())))
"""The codec's codes, [codebooks][frames], in datasets made with `audio.codes: true`."""


def index_columns(version: int = SCHEMA_VERSION) -> tuple[str, ...]:
    """Return the names of the index's own columns in a schema version; for a later one, those that are known here."""
    return tuple(_INDEX[min(version, SCHEMA_VERSION)].names)


def index_schema(
    layout: str = "files", carried: pa.Schema | None = None, codes: bool = False, version: int = SCHEMA_VERSION
) -> pa.Schema:
    """Return the index's schema: its own columns, then `codes` if asked for, then the manifest's carried columns.

    The carried columns must have been renamed by `carried_name`. The column `audio` holds the file itself in `layout:
    parquet`, as Hugging Face's struct, and its path in the dataset in the other layouts. `version` is the dataset's
    schema version; of a later one than ours the schema has the columns that are known here.
    """
    schema = _INDEX[min(version, SCHEMA_VERSION)]
    if layout == "parquet":
        schema = schema.set(schema.get_field_index("audio"), pa.field("audio", AUDIO_STRUCT))
    if codes:
        schema = schema.append(CODES)
    reserved = _reserved_names(version)
    for field in carried if carried is not None else ():
        if field.name in reserved:
            raise ValueError(f"carried column {field.name!r} was not renamed")
        schema = schema.append(pa.field(field.name, field.type))
    return schema


def name_carried_columns(
    columns: Sequence[str], named: Mapping[str, str] | None = None, version: int = SCHEMA_VERSION
) -> dict[str, str]:
    """Return the index's name of each of a manifest's carried columns, in the manifest's order.

    `named` are the names that the dataset has given already (manifest's name -> index's); they stay. Since version 2
    the names do not depend on the order of the columns, and those that differ in case alone count as equal, because
    they do in SQL.
    """
    if version == 1:
        names: dict[str, str] = {}
        for column in columns:
            names[column] = carried_name(column, set(names.values()), version)
        return names
    names = dict(named or {})
    taken = {name.casefold() for name in names.values()} | _reserved_names(version)
    new_columns = [column for column in columns if column not in names]
    for column in sorted(new_columns, key=lambda column: (carried_name(column) != column, column)):
        names[column] = _prefix_name(column, taken)
        taken.add(names[column].casefold())
    return {column: names[column] for column in columns}


def carried_name(name: str, taken: frozenset[str] | set[str] = frozenset(), version: int = SCHEMA_VERSION) -> str:
    """Return the name of a manifest's column in the index: its own, with as many `manifest_` before it as needed."""
    reserved = _reserved_names(version)
    while (name if version == 1 else name.casefold()) in reserved | taken:
        name = f"manifest_{name}"
    return name


def _prefix_name(name: str, taken: set[str]) -> str:
    while name.casefold() in taken:
        name = f"manifest_{name}"
    return name


@cache
def _reserved_names(version: int) -> frozenset[str]:
    """Return the names that a carried column cannot have."""
    return frozenset({*index_columns(version), CODES.name})
