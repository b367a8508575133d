"""The columns of a normalized manifest, which a plan's shards are cut from."""

import pyarrow as pa

from musicgen.request import Request

# The normalised manifest. Carried columns follow, under their names in the index.
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
        pa.field("keep_continuation", pa.bool_()),
        pa.field("stride_s", pa.float64()),
        pa.field("stems", pa.bool_()),
        pa.field("source", pa.string()),
    ]
)


def make_requests(rows: pa.Table) -> list[Request]:
    """The resolved requests of normalised rows."""
    columns = {name: rows[name].to_pylist() for name in ROW_SCHEMA.names if name not in ("key", "frames", "source")}
    return [Request(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]
