"""What Hugging Face's `load_dataset(folder)` needs to see each layout as audio: the card's front matter, and for
`layout: files` one table beside it.

- files: AudioFolder, which takes rows and paths from `metadata.parquet`. (The Parquet loader would take the index as it
  stands, but leaves relative paths relative to wherever the reader happens to be.)
- parquet: the Parquet loader on the index, whose schema says which column is audio.
- webdataset: the WebDataset loader on the tars that the index names; the front matter gives the types, which it would
  otherwise guess from the first five rows.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.reader import Dataset

_METADATA_GROUP_ROWS = 10_000
_NOT_IN_MEMBERS = frozenset({"audio", "audio_offset", "created_at", "codes"})  # see writer: what a tar's JSON leaves out


def front_matter(dataset: Dataset) -> dict[str, Any]:
    """The keys `configs` and `dataset_info` of the card."""
    layout = dataset.pins.layout
    if layout == "parquet":
        return {"configs": [_config([f"{paths.INDEX}/**/*.parquet"])]}
    if layout == "files":
        return {"configs": [_config([paths.METADATA, f"{paths.AUDIO}/**"])]}
    tars = _committed_tars(dataset)
    matter: dict[str, Any] = {"configs": [_config(tars)]}
    features = [_feature(field) for field in dataset.schema() if field.name not in _NOT_IN_MEMBERS]
    matter["dataset_info"] = {
        "config_name": "default",
        "features": [
            {"name": dataset.pins.format, "dtype": "audio"},
            {"name": "json", "struct": features},
            {"name": "__key__", "dtype": "string"},
            {"name": "__url__", "dtype": "string"},
        ],
    }
    return matter


def write_metadata(dataset: Dataset) -> None:
    """Write `metadata.parquet` for a dataset in `layout: files`: the index with `audio` as AudioFolder's `file_name`.

    Streamed, so its size does not matter; a dataset in another layout needs none.
    """
    if dataset.pins.layout != "files":
        return
    schema = dataset.schema()
    schema = pa.schema([field.with_name(_metadata_name(field.name)) for field in schema])
    with tempfile.TemporaryDirectory() as folder:
        temp = Path(folder, paths.METADATA)
        with pq.ParquetWriter(temp, schema, compression="zstd") as writer:
            for table in _grouped(dataset):
                writer.write_table(table.rename_columns(schema.names).cast(schema), row_group_size=_METADATA_GROUP_ROWS)
        dataset.store.write(paths.METADATA, temp)


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
        if rows >= _METADATA_GROUP_ROWS:
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
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        return {"name": field.name, "list": _dtype(field.type.value_type)}
    return {"name": field.name, "dtype": _dtype(field.type)}


def _dtype(kind: pa.DataType) -> str:
    """The name that `datasets` has for the type a value gets as JSON: what JSON cannot hold is text there."""
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return {"float": "float32", "double": "float64", "halffloat": "float16"}.get(str(kind), str(kind))
    return "string"
