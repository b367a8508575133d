"""What Hugging Face's `load_dataset(folder)` needs to see each layout as audio: the card's front matter, and for
the layouts files and webdataset a table beside it.

- parquet: the Parquet loader on the index, whose schema says which column is audio.
- files: AudioFolder, which takes rows and paths from `metadata.parquet`. (The Parquet loader would take the index as it
  stands, but leaves relative paths relative to wherever the reader happens to be.)
- webdataset: the WebDataset loader on the tars that the index names; the front matter gives the types, which it would
  otherwise guess from the first five rows.

The last two loaders want torchcodec, and with it FFmpeg, before they take a single row. So up to 256 MB of audio, both
layouts get the same columns another way: the Parquet loader on `huggingface.parquet`, a copy with the bytes in it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.index_part import with_audio
from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import AUDIO_STRUCT

SMALL_BYTES = 256 << 20
"""Up to so much audio, a dataset is copied into one Parquet file for `load_dataset`."""

_GROUP_ROWS = 10_000
_GROUP_BYTES = 64 << 20
_NOT_IN_MEMBERS = frozenset(
    {"audio", "audio_offset", "created_at", "codes"}
)  # see writer: what a tar's JSON leaves out


def front_matter(dataset: Dataset, small: bool) -> dict[str, Any]:
    """The keys `configs` and `dataset_info` of the card; `small` is what `write_table` said."""
    layout = dataset.info.layout
    if layout == "parquet":
        return {"configs": [_config([f"{paths.INDEX}/**/*.parquet"])]}
    if small:
        return {"configs": [_config([paths.HUGGINGFACE_COPY])]}
    if layout == "files":
        return {"configs": [_config([paths.METADATA, f"{paths.AUDIO}/**"])]}
    tars = _committed_tars(dataset)
    matter: dict[str, Any] = {"configs": [_config(tars)]}
    features = [_feature(field) for field in dataset.schema() if field.name not in _NOT_IN_MEMBERS]
    matter["dataset_info"] = {
        "config_name": "default",
        "features": [
            {"name": dataset.info.format, "dtype": "audio"},
            {"name": "json", "struct": features},
            {"name": "__key__", "dtype": "string"},
            {"name": "__url__", "dtype": "string"},
        ],
    }
    return matter


def is_small(dataset: Dataset) -> bool:
    """Whether a dataset has audio outside the index, and so little that a copy of it does not matter."""
    return dataset.info.layout != "parquet" and _audio_bytes(dataset) <= SMALL_BYTES


def write_table(dataset: Dataset) -> bool:
    """Write the table that `load_dataset` reads, if it needs one, and remove the one it does not; whether the dataset
    is small.

    Streamed, so a dataset's size does not matter.
    """
    small = is_small(dataset)
    wanted = paths.HUGGINGFACE_COPY if small else paths.METADATA if dataset.info.layout == "files" else None
    if wanted is not None:
        with tempfile.TemporaryDirectory() as folder:
            temp = Path(folder, "table.parquet")
            _write_embedded(dataset, temp) if small else _write_metadata(dataset, temp)
            dataset.store.write(wanted, temp)
    for other in {paths.HUGGINGFACE_COPY, paths.METADATA} - {wanted}:
        dataset.store.delete(other)
    return small


def _audio_bytes(dataset: Dataset) -> int:
    total = 0
    for batch in dataset.batches(["audio_bytes"]):
        total += pc.sum(batch.column("audio_bytes")).as_py() or 0
        if total > SMALL_BYTES:
            break
    return total


def _write_metadata(dataset: Dataset, path: Path) -> None:
    """The index with `audio` as AudioFolder's `file_name`."""
    schema = pa.schema([field.with_name(_metadata_name(field.name)) for field in dataset.schema()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in _grouped(dataset):
            writer.write_table(table.rename_columns(schema.names).cast(schema), row_group_size=_GROUP_ROWS)


def _write_embedded(dataset: Dataset, path: Path) -> None:
    """The columns that the layout's own loader gives, each clip's bytes among them as Hugging Face's {bytes, path}."""
    arrange = _as_folder if dataset.info.layout == "files" else _as_webdataset
    column = "audio" if dataset.info.layout == "files" else dataset.info.format
    empty = arrange(dataset.schema().empty_table(), pa.array([], AUDIO_STRUCT), column)
    schema = with_audio(empty.schema, column)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in dataset.batches():
            rows = max(1, int(_GROUP_BYTES / max(1.0, pc.mean(batch.column("audio_bytes")).as_py() or 1.0)))
            for start in range(0, batch.num_rows, rows):
                part = pa.Table.from_batches([batch.slice(start, rows)])
                table = arrange(part, dataset.cells(part), column)
                writer.write_table(table.cast(schema), row_group_size=rows)


def _as_folder(part: pa.Table, cells: pa.Array, column: str) -> pa.Table:
    return part.set_column(part.schema.get_field_index(column), column, cells)


def _as_webdataset(part: pa.Table, cells: pa.Array, column: str) -> pa.Table:
    fields = [
        pa.field(field.name, _json_type(field.type)) for field in part.schema if field.name not in _NOT_IN_MEMBERS
    ]
    values = [part.column(field.name).cast(field.type).combine_chunks() for field in fields]
    members = pa.StructArray.from_arrays(values, fields=fields)
    return pa.table({column: cells, "json": members, "__key__": part.column("key"), "__url__": part.column("audio")})


def _metadata_name(name: str) -> str:
    """What a column of the index is called in `metadata.parquet`.

    AudioFolder takes the file from `file_name`, and every other column whose name ends so for a file too: a carried
    column of such a name gets an underscore behind it.
    """
    if name == "audio":
        return "file_name"
    return f"{name}_" if name.endswith(("file_name", "file_names")) else name


def _grouped(dataset: Dataset) -> Iterator[pa.Table]:
    """The index in tables of about ten thousand rows: the loader takes a row group at a time."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in dataset.batches():
        waiting.append(batch.replace_schema_metadata(None))
        rows += batch.num_rows
        if rows >= _GROUP_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _committed_tars(dataset: Dataset) -> list[str]:
    """The tars to load: a glob where every tar is committed, else each by name, so that none is loaded twice."""
    named: set[str] = set()
    for batch in dataset.batches(["audio"]):
        named.update(pc.unique(batch.column("audio")).to_pylist())
    there = {info.path for info in dataset.store.list(paths.AUDIO)}
    return [f"{paths.AUDIO}/*/*.tar"] if named == there or not named else sorted(named)


def _config(files: list[str]) -> dict[str, Any]:
    return {"config_name": "default", "data_files": [{"split": "train", "path": files}]}


def _feature(field: pa.Field) -> dict[str, Any]:
    kind = _json_type(field.type)
    if pa.types.is_list(kind):
        return {"name": field.name, "list": _dtype(kind.value_type)}
    return {"name": field.name, "dtype": _dtype(kind)}


def _json_type(kind: pa.DataType) -> pa.DataType:
    """The type that a value has after it was JSON in a tar: what JSON cannot hold is text there."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_json_type(kind.value_type))
    is_number = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return kind if is_number else pa.string()


def _dtype(kind: pa.DataType) -> str:
    """The name that `datasets` has for a type."""
    return {"float": "float32", "double": "float64", "halffloat": "float16"}.get(str(kind), str(kind))
