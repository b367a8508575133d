"""Rows that were dropped because they equal an earlier row, although the values that they carry are others."""

import hashlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from musicgen.manifest.json_columns import to_json_column
from musicgen.plan.missing import MissingRows
from musicgen.plan.row_schema import select_carried
from musicgen.plan.spilled_manifest import SpilledManifest

_SCHEMA = pa.schema([("row_index", pa.int64()), ("value", pa.int64())])


def count_conflicting(missing_rows: MissingRows, manifest: SpilledManifest, folder: Path) -> int:
    """Count the rows whose carried values are not those of the equal row that is kept.

    Only rows that have an equal one are read again. `folder` is the one of `missing_rows`.
    """
    if not manifest.carried.names:
        return 0
    read_ahead: deque[NDArray[np.int64]] = deque()

    def read_indices() -> Iterator[NDArray[np.int64]]:
        for piece in missing_rows.read_repeated():
            read_ahead.append(piece)
            yield piece

    path = folder / "carried_values.parquet"
    with pq.ParquetWriter(path, _SCHEMA, compression="none", use_dictionary=False) as writer:
        for rows in manifest.select_rows(read_indices()):
            carried = select_carried(rows)
            columns = [to_json_column(carried[name]).to_pylist() for name in sorted(carried.column_names)]
            values = [_hash_values(row) for row in zip(*columns, strict=True)]
            indices = np.concatenate(list(read_ahead))
            read_ahead.clear()
            read_ahead.append(indices[len(values) :])
            pairs = [pa.array(indices[: len(values)]), pa.array(values, pa.int64())]
            writer.write_table(pa.Table.from_arrays(pairs, schema=_SCHEMA))
    return missing_rows.count_conflicting(path)


def _hash_values(values: tuple[object, ...]) -> int:
    digest = hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
