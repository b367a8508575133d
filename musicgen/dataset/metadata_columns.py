"""The columns of `metadata.parquet`, from which Hugging Face's AudioFolder takes rows and the paths of their files."""

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset.reader import Dataset

_INT64_MAX = (1 << 63) - 1


def metadata_schema(dataset: Dataset) -> pa.Schema:
    """Return the index's schema with the column `audio` renamed to AudioFolder's `file_name`."""
    return pa.schema([field.with_name(_metadata_name(field.name)) for field in dataset.schema()])


def choose_metadata_types(dataset: Dataset) -> pa.Schema:
    """Return `metadata_schema` with text for unsigned numbers beyond int64.

    AudioFolder takes its rows through Python's numbers, which it stores as int64.
    """
    schema = metadata_schema(dataset)
    unsigned = [field.name for field in dataset.schema() if pa.types.is_uint64(field.type)]
    wide: set[str] = set()
    for batch in dataset.batches(unsigned) if unsigned else ():
        wide |= {name for name in unsigned if (pc.max(batch.column(name)).as_py() or 0) > _INT64_MAX}
    for position, name in enumerate(dataset.schema().names):
        if name in wide:
            schema = schema.set(position, schema.field(position).with_type(pa.string()))
    return schema


def _metadata_name(name: str) -> str:
    """Return the name of an index column in `metadata.parquet`.

    AudioFolder reads files from `file_name` and from every column whose name ends with it, so a carried column with
    such a name gets an underscore at its end.
    """
    if name == "audio":
        return "file_name"
    return f"{name}_" if name.endswith(("file_name", "file_names")) else name
