"""Makes datasets readable by Hugging Face's `load_dataset(folder)`, by the card's front matter and a table.

- parquet: the Parquet loader reads the index, whose schema marks the audio column.
- files: AudioFolder reads rows and paths from `metadata.parquet`. (The Parquet loader could read the index itself, but
  it resolves relative paths against the reader's working folder.)
- webdataset: the WebDataset loader reads the tars that the index names; the front matter gives the types, which it
  would otherwise guess from the first five rows.

The last two loaders need torchcodec, and with it FFmpeg, before they give the first row. So datasets of these layouts
with up to 256 MB of audio get `huggingface.parquet`, a copy with the audio bytes in it, for the Parquet loader.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.index_part import with_audio
from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import AUDIO_STRUCT

SMALL_BYTES = 256 << 20
"""Datasets with up to this much audio are copied into one Parquet file for `load_dataset`."""

_GROUP_ROWS = 10_000
_GROUP_BYTES = 64 << 20
# These columns are not in the JSON of a tar's members (musicgen/dataset/writer.py).
_COLUMNS_NOT_IN_TARS = frozenset({"audio", "audio_offset", "created_at", "codes"})


def front_matter(dataset: Dataset, small: bool) -> dict[str, object]:
    """Return the keys `configs` and `dataset_info` of the card; `small` is the result of `write_table`."""
    layout = dataset.info.layout
    if layout == "parquet":
        return {"configs": [_format_config([f"{paths.INDEX}/**/*.parquet"])]}
    if small:
        return {"configs": [_format_config([paths.HUGGINGFACE_COPY])]}
    if layout == "files":
        return {"configs": [_format_config([paths.METADATA, f"{paths.AUDIO}/**"])]}
    tars = _committed_tars(dataset)
    metadata: dict[str, object] = {"configs": [_format_config(tars)]}
    features = [_describe_feature(field) for field in dataset.schema() if field.name not in _COLUMNS_NOT_IN_TARS]
    metadata["dataset_info"] = {
        "config_name": "default",
        "features": [
            {"name": dataset.info.format, "dtype": "audio"},
            {"name": "json", "struct": features},
            {"name": "__key__", "dtype": "string"},
            {"name": "__url__", "dtype": "string"},
        ],
    }
    return metadata


def is_small(dataset: Dataset) -> bool:
    """Return whether a dataset has its audio outside the index, and at most `SMALL_BYTES` of it."""
    return dataset.info.layout != "parquet" and _count_audio_bytes(dataset) <= SMALL_BYTES


def write_table(dataset: Dataset) -> bool:
    """Write the table that `load_dataset` needs, if any, and delete an obsolete one. Returns `is_small(dataset)`.

    The table is streamed, so that memory does not grow with the dataset.
    """
    small = is_small(dataset)
    table_path = paths.HUGGINGFACE_COPY if small else paths.METADATA if dataset.info.layout == "files" else None
    if table_path is not None:
        with tempfile.TemporaryDirectory() as folder:
            temporary_path = Path(folder, "table.parquet")
            _write_embedded(dataset, temporary_path) if small else _write_metadata(dataset, temporary_path)
            dataset.store.write(table_path, temporary_path)
    for obsolete_path in {paths.HUGGINGFACE_COPY, paths.METADATA} - {table_path}:
        dataset.store.delete(obsolete_path)
    return small


def _count_audio_bytes(dataset: Dataset) -> int:
    byte_count = 0
    for batch in dataset.batches(["audio_bytes"]):
        byte_count += pc.sum(batch.column("audio_bytes")).as_py() or 0
        if byte_count > SMALL_BYTES:
            break
    return byte_count


def _write_metadata(dataset: Dataset, path: Path) -> None:
    """Write the index with the column `audio` renamed to AudioFolder's `file_name`."""
    schema = pa.schema([field.with_name(_metadata_name(field.name)) for field in dataset.schema()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in _group_batches(dataset):
            writer.write_table(table.rename_columns(schema.names).cast(schema), row_group_size=_GROUP_ROWS)


def _write_embedded(dataset: Dataset, path: Path) -> None:
    """Write the columns that the layout's own loader gives, with each clip as Hugging Face's {bytes, path}."""
    arrange = _arrange_as_folder if dataset.info.layout == "files" else _arrange_as_webdataset
    column = "audio" if dataset.info.layout == "files" else dataset.info.format
    empty_table = arrange(dataset.schema().empty_table(), pa.array([], AUDIO_STRUCT), column)
    schema = with_audio(empty_table.schema, column)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in dataset.batches():
            rows_per_group = max(1, int(_GROUP_BYTES / max(1.0, pc.mean(batch.column("audio_bytes")).as_py() or 1.0)))
            for start in range(0, batch.num_rows, rows_per_group):
                rows = pa.Table.from_batches([batch.slice(start, rows_per_group)])
                table = arrange(rows, dataset.cells(rows), column)
                writer.write_table(table.cast(schema), row_group_size=rows_per_group)


def _arrange_as_folder(rows: pa.Table, cells: pa.Array, column: str) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(column), column, cells)


def _arrange_as_webdataset(rows: pa.Table, cells: pa.Array, column: str) -> pa.Table:
    fields = [
        pa.field(field.name, _json_type(field.type)) for field in rows.schema if field.name not in _COLUMNS_NOT_IN_TARS
    ]
    values = [rows.column(field.name).cast(field.type).combine_chunks() for field in fields]
    members = pa.StructArray.from_arrays(values, fields=fields)
    return pa.table({column: cells, "json": members, "__key__": rows.column("key"), "__url__": rows.column("audio")})


def _metadata_name(name: str) -> str:
    """Return the name of an index column in `metadata.parquet`.

    AudioFolder reads files from `file_name` and from every column whose name ends with it, so a carried column with
    such a name gets an underscore at its end.
    """
    if name == "audio":
        return "file_name"
    return f"{name}_" if name.endswith(("file_name", "file_names")) else name


def _group_batches(dataset: Dataset) -> Iterator[pa.Table]:
    """Yield the index in tables of about ten thousand rows, because the loader reads a row group at a time."""
    pending: list[pa.RecordBatch] = []
    row_count = 0
    for batch in dataset.batches():
        pending.append(batch.replace_schema_metadata(None))
        row_count += batch.num_rows
        if row_count >= _GROUP_ROWS:
            yield pa.Table.from_batches(pending)
            pending, row_count = [], 0
    if pending:
        yield pa.Table.from_batches(pending)


def _committed_tars(dataset: Dataset) -> list[str]:
    """List the tars to load: one glob if every tar is committed, else the committed ones by name.

    Tars of uncommitted attempts would give their clips twice.
    """
    indexed: set[str] = set()
    for batch in dataset.batches(["audio"]):
        indexed.update(pc.unique(batch.column("audio")).to_pylist())
    stored = {file_info.path for file_info in dataset.store.list(paths.AUDIO)}
    return [f"{paths.AUDIO}/*/*.tar"] if indexed == stored or not indexed else sorted(indexed)


def _format_config(data_files: list[str]) -> dict[str, object]:
    return {"config_name": "default", "data_files": [{"split": "train", "path": data_files}]}


def _describe_feature(field: pa.Field) -> dict[str, object]:
    json_type = _json_type(field.type)
    if pa.types.is_list(json_type):
        return {"name": field.name, "list": _datasets_type(json_type.value_type)}
    return {"name": field.name, "dtype": _datasets_type(json_type)}


def _json_type(arrow_type: pa.DataType) -> pa.DataType:
    """Return the type of a column's values in a tar's JSON; types that JSON does not have are strings there."""
    if pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type):
        return pa.list_(_json_type(arrow_type.value_type))
    is_number = pa.types.is_boolean(arrow_type) or pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type)
    return arrow_type if is_number else pa.string()


def _datasets_type(arrow_type: pa.DataType) -> str:
    """Return the name of a type in `datasets`."""
    return {"float": "float32", "double": "float64", "halffloat": "float16"}.get(str(arrow_type), str(arrow_type))
