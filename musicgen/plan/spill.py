"""What planning keeps on local disk while it reads a manifest, so that memory does not grow with it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from musicgen.errors import ManifestError
from musicgen.manifest.carried import JsonTypes, build_json_table, fit_columns, unify_schemas
from musicgen.manifest.source_batch import SourceBatch
from musicgen.plan.keyed_rows import InvalidRow, ParsedBatch
from musicgen.plan.row_schema import ROW_SCHEMA

# Rows of the ledger: their place in the manifest, 128 bits of the key, 128 bits of (id, sample) or null, the duration.
ROW_KEY_SCHEMA = pa.schema(
    [*((name, pa.int64()) for name in ("place", "k1", "k2", "i1", "i2")), ("seconds", pa.float64())]
)
INVALID_ROW_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("source", "id", "prompt", "error_class", "reason")]
    + [("h1", pa.int64()), ("h2", pa.int64())]
)
_JSON = "json"


class Spill:
    """The parsed rows of a manifest on disk: whole rows to be written later, and a narrow ledger for DuckDB.

    128 bits of a sha256 stand for a key: among 10^9 rows two share them with a chance of about 10^-21.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = 0
        self.refused = 0
        self.has_ids = False
        self._types = JsonTypes()
        self._schemas: list[pa.Schema] = []
        self._chunks: list[Path] = []
        self._writer: pa.RecordBatchFileWriter | None = None
        self._written: pa.Schema | None = None
        self._ledger = pq.ParquetWriter(
            folder / "ledger.parquet", ROW_KEY_SCHEMA, compression="none", use_dictionary=False
        )
        self._refusals = pq.ParquetWriter(folder / "refused.parquet", INVALID_ROW_SCHEMA, compression="zstd")

    def add(self, batch: SourceBatch, parsed: ParsedBatch) -> None:
        """Keep a parsed batch."""
        if parsed.keys:
            self._add_rows(batch, parsed)
            self._add_keys(parsed)
            self.rows += len(parsed.keys)
        if parsed.invalid:
            self._refusals.write_table(build_invalid_table(parsed.invalid))
            self.refused += len(parsed.invalid)

    def _add_rows(self, batch: SourceBatch, parsed: ParsedBatch) -> None:
        rows = parsed.rows
        if isinstance(batch.carried, list):
            texts: dict[int, str] = {}
            for position in parsed.positions:
                if position not in texts:
                    self._types.observe(batch.carried[position])
                    texts[position] = json.dumps(batch.carried[position], ensure_ascii=False, separators=(",", ":"))
            rows = rows.append_column(_JSON, pa.array([texts[position] for position in parsed.positions], pa.string()))
        else:
            carried = batch.carried
            if carried.num_columns and parsed.positions != list(range(len(batch))):
                carried = carried.take(pa.array(parsed.positions, pa.int64()))
            for field, column in zip(carried.schema, carried.columns, strict=True):
                rows = rows.append_column(pa.field(f"carried {field.name}", field.type), column)
        if self._writer is None or rows.schema != self._written:
            self._close_chunk()
            self._chunks.append(self.folder / f"rows-{len(self._chunks):05d}.arrow")
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_stream(str(self._chunks[-1]), rows.schema, options=options)
            self._written = rows.schema
            if not isinstance(batch.carried, list):
                self._schemas.append(batch.carried.schema)
        self._writer.write_table(rows)

    def _add_keys(self, parsed: ParsedBatch) -> None:
        count = len(parsed.keys)
        k1, k2 = split_digests(parsed.keys, 32)
        ids, samples = parsed.rows["id"].to_pylist(), parsed.rows["sample"].to_pylist()
        named = np.array([id is not None for id in ids])
        i1 = i2 = np.zeros(count, np.int64)
        if named.any():
            self.has_ids = True
            i1, i2 = split_digests([_hash_id(id, sample) for id, sample in zip(ids, samples, strict=True)], 16)
        places = np.arange(self.rows, self.rows + count)
        arrays = [pa.array(places), pa.array(k1), pa.array(k2), pa.array(i1, mask=~named), pa.array(i2, mask=~named)]
        arrays.append(parsed.rows["duration_s"].combine_chunks())
        self._ledger.write_table(pa.Table.from_arrays(arrays, schema=ROW_KEY_SCHEMA))

    def _close_chunk(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        """Everything has been added: what was kept can be read."""
        self._close_chunk()
        self._ledger.close()
        self._refusals.close()

    def carried_schema(self, where: str) -> pa.Schema:
        """The carried columns of the whole manifest by the manifest's names.

        Raises `ManifestError` if files disagree.
        """
        return unify_schemas([*self._schemas, self._types.schema()], where)

    @property
    def schemaless(self) -> bool:
        """Whether a column may be missing without anybody having decided so: JSON rows just lack a key."""
        return not self._schemas

    def read_row(self, place: int) -> dict[str, Any]:
        """A kept row."""
        for first, rows in self.read_batches():
            if place < first + rows.num_rows:
                return rows.slice(place - first, 1).to_pylist()[0]
        raise IndexError(place)

    def first_invalid(self, count: int) -> list[tuple[str, str]]:
        """The source and reason of the first refused rows."""
        found: list[tuple[str, str]] = []
        for batch in pq.ParquetFile(self.folder / "refused.parquet").iter_batches(columns=["source", "reason"]):
            found += zip(batch["source"].to_pylist(), batch["reason"].to_pylist(), strict=True)
            if len(found) >= count:
                break
        return found[:count]

    def read_batches(self) -> Iterator[tuple[int, pa.Table]]:
        """The kept rows in order, each batch with the place of its first row; carried columns not yet fitted."""
        place = 0
        for chunk in self._chunks:
            with pa.memory_map(str(chunk)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    yield place, pa.Table.from_batches([batch])
                    place += batch.num_rows

    def carried_columns(self, rows: pa.Table, schema: pa.Schema, names: dict[str, str]) -> pa.Table:
        """The carried columns of spilled rows, under their names and types in the index.

        Raises `ManifestError`, with file and row, if a value does not fit its column's type.
        """
        if not names:
            return pa.table({})
        if _JSON in rows.column_names:
            objects = [json.loads(text) for text in rows[_JSON].to_pylist()]
            table = build_json_table(objects, self._types.schema())
        else:
            own = rows.column_names[len(ROW_SCHEMA) :]
            table = pa.Table.from_arrays(
                [rows[name] for name in own], names=[name.removeprefix("carried ") for name in own]
            )
        try:
            return fit_columns(table, schema, names, "")
        except ManifestError:
            for row, source in enumerate(rows["source"].to_pylist()):
                fit_columns(table.slice(row, 1), schema, names, source)
            raise


def split_digests(digests: Sequence[bytes], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first 128 bits of digests of `size` bytes, as two columns of integers."""
    words = np.frombuffer(b"".join(digests), dtype="<i8").reshape(len(digests), size // 8)
    return words[:, 0].copy(), words[:, 1].copy()


def build_invalid_table(refused: Sequence[InvalidRow]) -> pa.Table:
    """Refused rows as a table. What makes two of them the same is source, class and reason."""
    marks = [hashlib.sha256(f"{row.source}\0{row.error_class}\0{row.reason}".encode()).digest() for row in refused]
    h1, h2 = split_digests(marks, 32)
    columns = [pa.array([getattr(row, name) for row in refused], pa.string()) for name in INVALID_ROW_SCHEMA.names[:5]]
    return pa.Table.from_arrays([*columns, pa.array(h1), pa.array(h2)], schema=INVALID_ROW_SCHEMA)


def _hash_id(id: str | None, sample: int) -> bytes:
    return hashlib.blake2b(f"{sample}\0{id}".encode(), digest_size=16).digest()
