"""Blanks out what a person has written about removed clips in files that keep a row for each: failures, manifests.

The rows stay, with their keys and numbers, because other objects count them; prompt, id, source, URIs, error and
carried columns become empty.
"""

from collections.abc import Set
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.errors import StoreError, first_line
from musicgen.own_checksum import PARQUET_KEY
from musicgen.plan.row_schema import blank_rows
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.parquet_writer import open_parquet_writer
from musicgen.temporary_folder import temporary_folder

_TRIES = 5


def purge_rows(store: Store, path: str, gone: Set[str]) -> int:
    """Blank out the rows of these keys in a Parquet file with a column `key`; returns how many were not blank yet.

    Raises `StoreError` if the file is damaged, or if others replace it again and again.
    """
    for _ in range(_TRIES):
        try:
            purged = _replace_file(store, path, gone)
        except (pa.ArrowException, ValueError, KeyError, FileNotFoundError) as error:
            raise StoreError(
                f"{store.join(path)} cannot be read ({first_line(error)}); repair the dataset first: "
                f"musicgen repair {store.uri}"
            ) from None
        if purged is not None:
            return purged
    raise StoreError(f"{store.join(path)} is replaced by others again and again; run again")


def _replace_file(store: Store, path: str, gone: Set[str]) -> int | None:
    """Return the number of rows that were blanked out; None if the file has changed since it was read."""
    etag = store.info(path).etag
    wanted = pa.array(sorted(gone), pa.string())
    with store.open(path) as file, temporary_folder() as folder:
        part = ParquetReader(file)
        marks = part.read(["key", "id", "prompt"])
        is_written = pc.or_(pc.is_valid(marks["id"]), pc.not_equal(pc.fill_null(marks["prompt"], ""), ""))
        to_purge = pc.sum(pc.and_(pc.is_in(marks["key"], value_set=wanted), is_written)).as_py() or 0
        if not to_purge:
            return 0
        temporary_path = folder / Path(path).name
        schema = _without_checksum(part.schema_arrow)
        with open_parquet_writer(temporary_path, schema, use_dictionary=False, write_statistics=False) as writer:
            for row_group in range(part.num_row_groups):  # a manifest's row groups are the shards
                table = part.read_row_group(row_group).replace_schema_metadata(schema.metadata)
                blank = blank_rows(table, pc.is_in(table["key"], value_set=wanted))
                writer.write_table(blank, row_group_size=max(1, table.num_rows))
        return to_purge if store.replace_if_match(path, temporary_path, etag) else None


def _without_checksum(schema: pa.Schema) -> pa.Schema:
    """Return a schema without the checksum of the file that it was read from."""
    metadata = {name: value for name, value in (schema.metadata or {}).items() if name != PARQUET_KEY.encode()}
    return schema.with_metadata(metadata or None)
