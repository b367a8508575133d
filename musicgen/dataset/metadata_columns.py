"""The columns of `metadata.parquet`, from which Hugging Face's AudioFolder takes rows and the paths of their files."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_keys import find_beyond_int64
from musicgen.dataset.status import RunStatus, run_statuses


def metadata_schema(dataset: Dataset) -> pa.Schema:
    """Return the index's schema with the column `audio` renamed to AudioFolder's `file_name`."""
    return pa.schema([field.with_name(_metadata_name(field.name)) for field in dataset.schema()])


def choose_metadata_types(dataset: Dataset, runs: Sequence[RunStatus] | None = None) -> pa.Schema:
    """Return `metadata_schema` with text for unsigned numbers beyond int64.

    AudioFolder takes its rows through Python's numbers, which it stores as int64. `runs` are the dataset's, if they are
    known already; parts are read only of those whose file of keys does not tell.
    """
    schema = metadata_schema(dataset)
    unsigned = [field.name for field in dataset.schema() if pa.types.is_uint64(field.type)]
    if not unsigned:
        return schema
    wide: set[str] = set()
    for run in run_statuses(dataset) if runs is None else runs:
        own = Dataset(dataset.store, dataset.info, run.run)
        wide.update(_find_wide(own, unsigned) if run.beyond_int64 is None else run.beyond_int64)
    for position, name in enumerate(dataset.schema().names):
        if name in wide:
            schema = schema.set(position, schema.field(position).with_type(pa.string()))
    return schema


def _find_wide(run: Dataset, unsigned: Sequence[str]) -> Iterator[str]:
    for batch in run.batches(unsigned):
        yield from find_beyond_int64(pa.Table.from_batches([batch]))


def _metadata_name(name: str) -> str:
    """Return the name of an index column in `metadata.parquet`.

    AudioFolder reads files from `file_name` and from every column whose name ends with it, so a carried column with
    such a name gets an underscore at its end.
    """
    if name == "audio":
        return "file_name"
    return f"{name}_" if name.endswith(("file_name", "file_names")) else name
