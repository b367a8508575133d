"""The rows of a manifest on local disk while it is planned, so that memory does not grow with the manifest."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from musicgen.dataset.digests import split_digests
from musicgen.dataset.manifest_rows import KeyDigest
from musicgen.errors import ManifestError
from musicgen.manifest.carried import JsonTypes, build_json_table, fit_columns, unify_schemas
from musicgen.manifest.carried_types import choose_index_type, find_unrepresentable
from musicgen.manifest.source_batch import SourceBatch
from musicgen.plan.invalid_rows import INVALID_ROW_SCHEMA, build_invalid_table
from musicgen.plan.keyed_rows import ParsedBatch
from musicgen.plan.row_schema import append_carried, select_carried

# A row's index in the spill, 128 bits of its key, 128 bits of its id or null, its sample, and its seconds of audio.
ROW_KEY_SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("row_index", "k1", "k2", "i1", "i2")),
        ("sample", pa.int32()),
        ("duration_s", pa.float64()),
    ]
)
_JSON = "json"  # a column of carried values whose types are not known yet


class Spill:
    """The keyed rows of a manifest, in the manifest's order, in files of a local folder.

    Whole rows go to Arrow files. The columns by which DuckDB compares rows (`ROW_KEY_SCHEMA`) go to `row_keys.parquet`,
    invalid rows to `invalid.parquet`.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows = 0
        self.invalid = 0
        self.has_ids = False
        self.key_digest = KeyDigest()  # of all rows in their order
        self._json_types = JsonTypes()
        self._carried_schemas: list[pa.Schema] = []
        self._unrepresentable: set[str] = set()
        self.fields_used: set[str] = set()  # fields of a row that have a column
        self.left_out: tuple[str, ...] = ()  # columns in the names of folders that the dataset has not
        self.not_carried: tuple[str, ...] = ()  # columns that the job does not carry
        self._chunks: list[Path] = []
        self._chunk_writer: pa.RecordBatchFileWriter | None = None
        self._chunk_schema: pa.Schema | None = None
        self._key_writer = pq.ParquetWriter(
            folder / "row_keys.parquet", ROW_KEY_SCHEMA, compression="none", use_dictionary=False
        )
        self._invalid_writer = pq.ParquetWriter(self.invalid_path, INVALID_ROW_SCHEMA, compression="zstd")

    @property
    def invalid_path(self) -> Path:
        """The file of the invalid rows (`INVALID_ROW_SCHEMA`)."""
        return self.folder / "invalid.parquet"

    @property
    def lacks_schema(self) -> bool:
        """Whether the manifest is JSON, where a row that lacks a key may mean null."""
        return not self._carried_schemas

    def add(self, batch: SourceBatch, parsed: ParsedBatch) -> None:
        """Write keyed rows of a batch, and its invalid rows."""
        self._note_fields(batch)
        if parsed.keys:
            self._add_rows(batch, parsed)
            self._add_keys(parsed)
            self.rows += len(parsed.keys)
        if parsed.invalid:
            self._invalid_writer.write_table(build_invalid_table(parsed.invalid))
            self.invalid += len(parsed.invalid)

    def _note_fields(self, batch: SourceBatch) -> None:
        for name, cells in batch.fields.items():
            if name not in self.fields_used and (
                not isinstance(batch.carried, list) or any(cell is not None for cell in cells)
            ):
                self.fields_used.add(name)

    def _add_rows(self, batch: SourceBatch, parsed: ParsedBatch) -> None:
        if isinstance(batch.carried, list):
            rows = parsed.rows.append_column(_JSON, self._carried_as_json(batch.carried, parsed.positions))
        else:
            carried = batch.carried
            self._unrepresentable |= find_unrepresentable(carried)
            if carried.num_columns and parsed.positions != list(range(len(batch))):
                carried = carried.take(pa.array(parsed.positions, pa.int64()))
            rows = append_carried(parsed.rows, carried)
        if self._chunk_writer is None or rows.schema != self._chunk_schema:
            self._close_chunk()
            self._chunks.append(self.folder / f"rows-{len(self._chunks):05d}.arrow")
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._chunk_writer = pa.ipc.new_stream(str(self._chunks[-1]), rows.schema, options=options)
            self._chunk_schema = rows.schema
            if not isinstance(batch.carried, list):
                self._carried_schemas.append(batch.carried.schema)
        self._chunk_writer.write_table(rows)

    def _carried_as_json(self, carried: list[dict[str, object]], positions: list[int]) -> pa.Array:
        texts: dict[int, str] = {}
        for position in positions:
            if position not in texts:
                self._json_types.observe(carried[position])
                texts[position] = json.dumps(carried[position], ensure_ascii=False, separators=(",", ":"))
        return pa.array([texts[position] for position in positions], pa.string())

    def _add_keys(self, parsed: ParsedBatch) -> None:
        count = len(parsed.keys)
        digests = b"".join(parsed.keys)
        self.key_digest.add(digests)
        k1, k2 = split_digests(digests, hashlib.sha256().digest_size)
        ids = parsed.rows["id"].to_pylist()
        has_id = np.array([id is not None for id in ids])
        i1 = i2 = np.zeros(count, np.int64)
        if has_id.any():
            self.has_ids = True
            i1, i2 = split_digests(b"".join(map(_hash_id, ids)), 16)
        arrays = [
            pa.array(np.arange(self.rows, self.rows + count)),
            pa.array(k1),
            pa.array(k2),
            pa.array(i1, mask=~has_id),
            pa.array(i2, mask=~has_id),
            parsed.rows["sample"].combine_chunks(),
            parsed.rows["duration_s"].combine_chunks(),
        ]
        self._key_writer.write_table(pa.Table.from_arrays(arrays, schema=ROW_KEY_SCHEMA))

    def _close_chunk(self) -> None:
        if self._chunk_writer is not None:
            self._chunk_writer.close()
            self._chunk_writer = None

    def add_invalid(self, rows: Iterable[pa.Table]) -> None:
        """Add rows (`INVALID_ROW_SCHEMA`) that turned out to be invalid when all had been read, after `close`."""
        longer = self.folder / "more-invalid.parquet"
        with pq.ParquetWriter(longer, INVALID_ROW_SCHEMA, compression="zstd") as writer:
            for batch in pq.ParquetFile(self.invalid_path).iter_batches():
                writer.write_batch(batch)
            for table in rows:
                writer.write_table(table)
                self.invalid += table.num_rows
        longer.replace(self.invalid_path)

    def close(self) -> None:
        """Close the files: all rows have been added, and can be read."""
        self._close_chunk()
        self._key_writer.close()
        self._invalid_writer.close()

    def carried_schema(self, manifest: str) -> pa.Schema:
        """The carried columns of the whole manifest by the manifest's names; `manifest` is its name in a message.

        Raises `ManifestError` if files disagree.
        """
        return unify_schemas([*self._carried_schemas, self._json_types.schema()], manifest)

    def index_type(self, column: pa.Field) -> pa.DataType:
        """Return the type that a carried column of the manifest has in the index of a new dataset."""
        return pa.string() if column.name in self._unrepresentable else choose_index_type(column.type)

    def may_not_fit(self, carried: pa.Schema, names: Mapping[str, str]) -> bool:
        """Whether values of a file have to be cast to the types of the index."""
        return any(
            column.type != (chosen := carried.field(names[column.name]).type) and not pa.types.is_string(chosen)
            for schema in self._carried_schemas
            for column in schema
            if column.name in names
        ) or bool(self._unrepresentable)

    def first_invalid(self, count: int) -> list[tuple[str, str]]:
        """Read the source and reason of the first invalid rows."""
        rows: list[tuple[str, str]] = []
        for batch in pq.ParquetFile(self.invalid_path).iter_batches(columns=["source", "reason"]):
            rows += zip(batch["source"].to_pylist(), batch["reason"].to_pylist(), strict=True)
            if len(rows) >= count:
                break
        return rows[:count]

    def read_batches(self) -> Iterator[tuple[int, pa.Table]]:
        """Read all rows in order, each batch with the index of its first row; carried columns are as they were read."""
        row_index = 0
        for chunk in self._chunks:
            # Not mapped: its batches are decompressed anyway, and mapped pages count as memory of the process.
            with pa.OSFile(str(chunk)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    yield row_index, pa.Table.from_batches([batch])
                    row_index += batch.num_rows

    def select_rows(self, row_indices: Iterable[NDArray[np.int64]]) -> Iterator[pa.Table]:
        """Read the rows of these indices, which come in pieces, in ascending order."""
        pieces = iter(row_indices)
        piece = next(pieces, None)
        for first, rows in self.read_batches():
            chosen: list[NDArray[np.int64]] = []
            while piece is not None:
                inside = int(np.searchsorted(piece, first + rows.num_rows))
                chosen.append(piece[:inside] - first)
                if inside < len(piece):
                    piece = piece[inside:]
                    break
                piece = next(pieces, None)
            positions = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
            if len(positions) == rows.num_rows:
                yield rows
            elif len(positions):
                yield rows.take(pa.array(positions))

    def carried_columns(self, rows: pa.Table, schema: pa.Schema, names: dict[str, str]) -> pa.Table:
        """Return the carried columns of spilled rows, under their names and types in the index.

        `names` maps the manifest's columns to those of the index, whose types `schema` gives. Raises `ManifestError`,
        with file and row, if a value does not fit its column's type.
        """
        if not names:
            return pa.table({})
        if _JSON in rows.column_names:
            objects = [json.loads(text) for text in rows[_JSON].to_pylist()]
            table = build_json_table(objects, self._json_types.schema())
        else:
            table = select_carried(rows)
        try:
            return fit_columns(table, schema, names, "")
        except ManifestError:
            for position, source in enumerate(rows["source"].to_pylist()):
                fit_columns(table.slice(position, 1), schema, names, source)
            raise


def _hash_id(id: str | None) -> bytes:
    return hashlib.blake2b(str(id).encode(), digest_size=16).digest()
