"""What a dataset holds already: the keys of its index, the rows that failed, the runs that were planned."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.index_part import parse_footer
from musicgen.errors import StoreError, first_line
from musicgen.parallel import map_ordered
from musicgen.plan.spill import split_digests
from musicgen.run_plan import Plan
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader

_THREADS = 16

KEY_SCHEMA = pa.schema([("k1", pa.int64()), ("k2", pa.int64())])
FAILED_SCHEMA = pa.schema([*KEY_SCHEMA, ("error_class", pa.string()), ("created_at", pa.timestamp("us", tz="UTC"))])
KNOWN_INVALID_SCHEMA = pa.schema([("h1", pa.int64()), ("h2", pa.int64())])


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A planned run, and which of its shards have committed."""

    plan: Plan
    committed: frozenset[int]
    superseded: bool

    @property
    def pending(self) -> list[int]:
        """The shards that have not."""
        return [shard for shard in self.plan.shards if shard not in self.committed]

    @property
    def finished(self) -> bool:
        """Whether nothing more will come from it."""
        return self.superseded or not self.pending


def load_plan(store: Store, run: str) -> Plan:
    """The plan of a run. Raises `FileNotFoundError` if there is none, `StoreError` if it is damaged."""
    return Plan.from_json(store.read(paths.plan_file(run)))


def pending_shards(store: Store, plan: Plan) -> list[int]:
    """The shards of a run that have not committed: one listing of `index/<run>/`."""
    done = {
        found[1] for info in store.list(paths.index_folder(plan.run)) if (found := paths.parse_index_part(info.path))
    }
    return [shard for shard in plan.shards if shard not in done]


def read_history(store: Store, folder: Path) -> dict[str, PlannedRun]:
    """The dataset's runs by name.

    What it holds goes into files of a local folder: the keys of its index to `made.parquet`, rows that failed to
    `failed.parquet`, rows refused while planning to `known_refused.parquet`.
    """
    index_parts = [info.path for info in store.list(paths.INDEX) if info.path.endswith(".parquet")]
    invalid_parts = [info.path for info in store.list(paths.FAILURES) if paths.is_plan_failures(info.path)]
    committed: dict[str, set[int]] = {}
    for path in index_parts:
        if parsed := paths.parse_index_part(path):
            run, shard = parsed
            committed.setdefault(run, set()).add(shard)
    planned: list[str] = []
    superseded: set[str] = set()
    for info in store.list(paths.RUNS):
        run = [*info.path.split("/"), ""][1]
        if info.path == paths.plan_file(run):
            planned.append(run)
        elif info.path == paths.superseded_note(run):
            superseded.add(run)
    runs = {
        plan.run: PlannedRun(plan, frozenset(committed.get(plan.run, ())), plan.run in superseded)
        for plan in map_ordered(lambda run: load_plan(store, run), planned, threads=_THREADS)
    }
    failures: list[str] = []
    with pq.ParquetWriter(folder / "made.parquet", KEY_SCHEMA, compression="none", use_dictionary=False) as made:
        for table, file in map_ordered(lambda path: _read_index_part(store, path), index_parts, threads=_THREADS):
            made.write_table(table)
            failures += [file] if file else []
    with pq.ParquetWriter(folder / "failed.parquet", FAILED_SCHEMA) as failed:
        for table in map_ordered(lambda path: _read_failures_part(store, path), failures, threads=_THREADS):
            failed.write_table(table)
    with pq.ParquetWriter(folder / "known_refused.parquet", KNOWN_INVALID_SCHEMA) as known:
        for table in map_ordered(lambda path: _read_invalid_rows(store, path), invalid_parts, threads=_THREADS):
            known.write_table(table)
    return runs


def _read_index_part(store: Store, path: str) -> tuple[pa.Table, str | None]:
    """The keys of an index part, and the failures file that its footer names."""
    with _open_part(store, path) as part:
        try:
            failures = parse_footer(part.metadata.metadata, path).failures
        except ValueError:  # an index part that something else has written anew; its rows still count
            failures = None
        return _keys_table(part.read(columns=["key"])["key"]), failures


def _read_failures_part(store: Store, path: str) -> pa.Table:
    with _open_part(store, path) as part:
        table = part.read(columns=["key", "error_class", "created_at"])
    table = table.filter(table["key"].is_valid())
    keys = _keys_table(table["key"])
    return pa.Table.from_arrays(
        [*keys.columns, table["error_class"], table["created_at"].cast(FAILED_SCHEMA.field(3).type)],
        schema=FAILED_SCHEMA,
    )


def _read_invalid_rows(store: Store, path: str) -> pa.Table:
    with _open_part(store, path) as part:
        table = part.read(columns=["source", "error_class", "error"])
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    h1, h2 = split_digests(
        [hashlib.sha256("\0".join(value or "" for value in row).encode()).digest() for row in rows], 32
    )
    return pa.Table.from_arrays([pa.array(h1), pa.array(h2)], schema=KNOWN_INVALID_SCHEMA)


class _open_part:
    """A Parquet object of the dataset, closed afterwards, damage named."""

    def __init__(self, store: Store, path: str):
        self.store, self.path = store, path

    def __enter__(self) -> ParquetReader:
        self.file = self.store.open(self.path)
        try:
            return ParquetReader(self.file)
        except pa.ArrowException as error:
            self.file.close()
            raise StoreError(
                f"{self.store.join(self.path)} is damaged ({first_line(error)}); run `musicgen verify`"
            ) from None

    def __exit__(self, *exc: object) -> None:
        self.file.close()


def _keys_table(column: pa.ChunkedArray) -> pa.Table:
    """Keys (64 hex digits) as 128 bits in two columns."""
    keys = column.to_pylist()
    words = np.frombuffer(bytes.fromhex("".join(key[:32] for key in keys)), dtype="<i8").reshape(len(keys), 2)
    return pa.Table.from_arrays([pa.array(words[:, 0]), pa.array(words[:, 1])], schema=KEY_SCHEMA)
