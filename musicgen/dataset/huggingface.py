"""What Hugging Face's `load_dataset(folder)` needs to see each layout as audio: the card's front matter, and for
`layout: files` one table beside it.

- files: up to 256 MB of audio, the Parquet loader on `huggingface.parquet`, the index with the bytes beside it: that loads
  without torchcodec too. Beyond, AudioFolder, which takes rows and paths from `metadata.parquet` and copies nothing. Both
  give the same columns. (The Parquet loader would take the index as it stands, but leaves relative paths relative to
  wherever the reader happens to be.)
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
from musicgen.dataset.parts import with_audio
from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import AUDIO_STRUCT

SMALL_BYTES = 256 << 20
"""Up to so much audio, a dataset in `layout: files` is copied into one Parquet file for `load_dataset`."""

_GROUP_ROWS = 10_000
_GROUP_BYTES = 64 << 20
_NOT_IN_MEMBERS = frozenset({"audio", "audio_offset", "created_at", "codes"})  # see writer: what a tar's JSON leaves out


def front_matter(dataset: Dataset, small: bool) -> dict[str, Any]:
    """The keys `configs` and `dataset_info` of the card; `small` is what `write_table` said."""
    layout = dataset.pins.layout
    if layout == "parquet":
        return {"configs": [_config([f"{paths.INDEX}/**/*.parquet"])]}
    if layout == "files":
        return {"configs": [_config([paths.EMBEDDED] if small else [paths.METADATA, f"{paths.AUDIO}/**"])]}
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


def is_small(dataset: Dataset) -> bool:
    """Whether a dataset in `layout: files` has so little audio that a copy of it does not matter."""
    return (
        dataset.pins.layout == "files"
        and sum(footer.audio_s for _, footer in dataset.footers()) > 0
        and _audio_bytes(dataset) <= SMALL_BYTES
    )


def write_table(dataset: Dataset) -> bool:
    """Write the table that `load_dataset` reads for `layout: files`, removing the other one; whether the dataset is small.

    Streamed, so a dataset's size does not matter. One in another layout needs no table.
    """
    if dataset.pins.layout != "files":
        return False
    small = is_small(dataset)
    with tempfile.TemporaryDirectory() as folder:
        temp = Path(folder, "table.parquet")
        _write_embedded(dataset, temp) if small else _write_metadata(dataset, temp)
        dataset.store.write(paths.EMBEDDED if small else paths.METADATA, temp)
    dataset.store.delete(paths.METADATA if small else paths.EMBEDDED)
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
    """The index with each clip's bytes in `audio`, as Hugging Face's {bytes, path}."""
    schema = dataset.schema()
    at = schema.get_field_index("audio")
    schema = with_audio(schema.set(at, pa.field("audio", AUDIO_STRUCT)))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in dataset.batches():
            rows = max(1, int(_GROUP_BYTES / max(1.0, pc.mean(batch.column("audio_bytes")).as_py() or 1.0)))
            for start in range(0, batch.num_rows, rows):
                part = pa.Table.from_batches([batch.slice(start, rows)])
                cells = [{"bytes": dataset.store.read(name), "path": name} for name in part.column("audio").to_pylist()]
                writer.write_table(part.set_column(at, "audio", pa.array(cells, AUDIO_STRUCT)).cast(schema), row_group_size=rows)


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
