"""The columns of a normalized manifest, which a plan's shards are cut from."""

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.request import Request

# Carried columns follow these, each under `_CARRIED` and its name in the index.
ROW_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("id", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("prompt", pa.string()),
        pa.field("melody", pa.string()),
        pa.field("melody_sha256", pa.string()),
        pa.field("continuation", pa.string()),
        pa.field("continuation_sha256", pa.string()),
        pa.field("duration_s", pa.float64()),
        pa.field("frames", pa.int32()),
        pa.field("seed", pa.int64()),
        pa.field("temperature", pa.float64()),
        pa.field("top_k", pa.int32()),
        pa.field("top_p", pa.float64()),
        pa.field("guidance_scale", pa.float64()),
        pa.field("negative_prompt", pa.string()),
        pa.field("steps", pa.int32()),
        pa.field("keep_continuation", pa.bool_()),
        pa.field("stride_s", pa.float64()),
        pa.field("stems", pa.bool_()),
        pa.field("source", pa.string()),
    ]
)
_TEXT_COLUMNS = ("prompt", "negative_prompt")  # empty, because requests have no null there
_KEPT_COLUMNS = frozenset(
    {
        *(field.name for field in ROW_SCHEMA if not pa.types.is_string(field.type)),
        *("key", "error_class", "attempts", "run", "shard", "created_at"),
    }
)
_NOT_OF_REQUESTS = ("key", "frames", "source")
# A carried column may have the name of one of ours; in files that only this program reads, the prefix tells them apart.
_CARRIED = "carried:"


def make_requests(rows: pa.Table) -> list[Request]:
    """Return the resolved requests of normalized rows; a column that an earlier release did not write has defaults."""
    names = [name for name in ROW_SCHEMA.names if name in rows.column_names and name not in _NOT_OF_REQUESTS]
    columns = {name: rows[name].to_pylist() for name in names}
    return [Request(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def append_carried(rows: pa.Table, carried: pa.Table) -> pa.Table:
    """Return normalized rows and their carried columns as one table."""
    own = rows.select(ROW_SCHEMA.names)
    fields = [pa.field(_CARRIED + field.name, field.type) for field in carried.schema]
    return pa.Table.from_arrays([*own.columns, *carried.columns], schema=pa.schema([*own.schema, *fields]))


def select_carried(rows: pa.Table) -> pa.Table:
    """Return the carried columns of a table that `append_carried` made, under their own names."""
    names = [name for name in rows.column_names if name.startswith(_CARRIED)]
    return rows.select(names).rename_columns([name.removeprefix(_CARRIED) for name in names])


def blank_rows(table: pa.Table, is_gone: pa.ChunkedArray) -> pa.Table:
    """Return rows of a manifest or of `failures/` with nothing in those of `is_gone` that a person has written."""
    kept = pa.array([None if gone else index for index, gone in enumerate(is_gone.to_pylist())], pa.int64())
    for position, column in enumerate(table.schema):
        if column.name in _TEXT_COLUMNS:
            values = pc.if_else(is_gone, pa.scalar("", column.type), table.column(position))
        elif column.name not in _KEPT_COLUMNS:
            values = table.column(position).combine_chunks().take(kept)  # null where the place is null
        else:
            continue
        table = table.set_column(position, column, values)
    return table
