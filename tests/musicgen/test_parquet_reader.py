"""Parquet objects are read by the calling thread alone, so that no other thread holds a file when a program ends."""

import io
import threading
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musicgen.storage.parquet_reader import ParquetReader

ROWS = 20_000


class RecordingFile(io.BytesIO):
    """A file that records which threads read it."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self.threads: set[int] = set()

    def read(self, size: int | None = -1) -> bytes:
        self.threads.add(threading.get_ident())
        return super().read(size)


@pytest.fixture
def file() -> RecordingFile:
    """Three row groups of eight columns: work that pyarrow would share."""
    table = pa.table({f"column{number}": [f"{number} {row}" for row in range(ROWS)] for number in range(8)})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=ROWS // 3 + 1)
    return RecordingFile(sink.getvalue())


READS: dict[str, Callable[[ParquetReader], int]] = {
    "whole": lambda reader: reader.read().num_rows,
    "columns": lambda reader: reader.read(["column1", "column5"]).num_rows,
    "row groups": lambda reader: sum(reader.read_row_group(group).num_rows for group in range(3)),
    "batches": lambda reader: sum(batch.num_rows for batch in reader.iter_batches(1000)),
}


@pytest.mark.parametrize("name", READS)
def test_only_the_calling_thread_reads(file: RecordingFile, name: str) -> None:
    assert READS[name](ParquetReader(file)) == ROWS
    assert file.threads == {threading.get_ident()}


def test_pyarrow_alone_reads_with_other_threads(file: RecordingFile) -> None:
    """What the reader is for; if this fails, pyarrow has changed and the reader may go."""
    assert pq.read_table(file).num_rows == ROWS
    assert file.threads - {threading.get_ident()}
