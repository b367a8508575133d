"""Reads Parquet from objects of a store."""

from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq


class ParquetReader(pq.ParquetFile):
    """A Parquet file that only the calling thread reads; used like `pyarrow.parquet.ParquetFile`.

    pyarrow's own threads would keep the Python file object for a moment after a read has returned. A thread that gives
    it back while the interpreter ends is stopped by force, and C++ then aborts the process (exit code 134, "terminate
    called without an active exception"). Raises pyarrow's exceptions for a file that is not Parquet, and for a page
    that does not fit its checksum; pages without one, as an earlier release wrote them, are read as they are.
    """

    def __init__(self, file: IO[bytes], read_dictionary: Sequence[str] = (), buffer_bytes: int = 0):
        super().__init__(
            file,
            pre_buffer=False,
            buffer_size=buffer_bytes,
            page_checksum_verification=True,
            read_dictionary=list(read_dictionary) or None,
        )

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read the whole file, or only these columns."""
        return super().read(columns=columns, use_threads=False)

    def read_row_group(self, i: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one row group, or only these columns of it."""
        return super().read_row_group(i, columns=columns, use_threads=False)

    def iter_batches(self, batch_size: int = 65536, **options: Any) -> Iterator[pa.RecordBatch]:
        """Read the file batch by batch; `options` as in pyarrow."""
        return super().iter_batches(batch_size, use_threads=False, **options)
