"""Writes the Parquet files of a dataset: with a checksum of every page, and one of the whole file in it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.own_checksum import BLANK, PARQUET_KEY, fill_parquet_checksum


@contextmanager
def open_parquet_writer(sink: Path | io.BytesIO, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """Open a writer of a file on the local disk or in memory; `options` as in pyarrow. It is complete after the block.

    The file's own sha256 (`musicgen.own_checksum`) is an entry of its key-value metadata, and not of its Arrow schema.
    """
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True, **options) as writer:
        yield writer
        writer.add_key_value_metadata({PARQUET_KEY: BLANK})
    if isinstance(sink, Path):
        with sink.open("r+b") as file:
            fill_parquet_checksum(file)
    else:
        fill_parquet_checksum(sink)


def encode_parquet(table: pa.Table) -> bytes:
    """Return a small table as such a file."""
    sink = io.BytesIO()
    with open_parquet_writer(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
