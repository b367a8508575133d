"""What a dataset holds already: the keys of its index, the rows that failed, the runs that were planned."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.index_part import parse_footer
from musicgen.errors import StoreError, first_line
from musicgen.parallel import map_ordered
from musicgen.plan.digests import split_digests
from musicgen.plan.invalid_rows import KNOWN_INVALID_SCHEMA, build_known_table
from musicgen.run_plan import Plan
from musicgen.storage import Store
from musicgen.storage.parquet_reader import ParquetReader

_THREADS = 16

KEY_SCHEMA = pa.schema([("k1", pa.int64()), ("k2", pa.int64())])
FAILED_SCHEMA = pa.schema([*KEY_SCHEMA, ("error_class", pa.string()), ("created_at", pa.timestamp("us", tz="UTC"))])


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that was planned, and which of its shards have committed."""

    plan: Plan
    committed: frozenset[int]
    superseded: bool

    @property
    def name_prefix(self) -> str:
        """The run's name without its number: runs that share it have the same rows, model and encoding."""
        return self.plan.run.rpartition("-")[0]

    @property
    def pending(self) -> list[int]:
        """The shards that have not committed."""
        return [shard for shard in self.plan.shards if shard not in self.committed]

    @property
    def finished(self) -> bool:
        """Whether nothing more will come from it."""
        return self.superseded or not self.pending


def load_plan(store: Store, run: str) -> Plan:
    """Read the plan of a run. Raises `FileNotFoundError` if there is none, `StoreError` if it is damaged."""
    return Plan.from_json(store.read(paths.plan_file(run)))


def pending_shards(store: Store, plan: Plan) -> list[int]:
    """List the shards of a run that have not committed, by one listing of `index/<run>/`."""
    parsed_paths = (paths.parse_index_part(info.path) for info in store.list(paths.index_folder(plan.run)))
    committed = {parsed[1] for parsed in parsed_paths if parsed is not None}
    return [shard for shard in plan.shards if shard not in committed]


def read_history(store: Store, folder: Path) -> dict[str, PlannedRun]:
    """Return the dataset's runs by name, and write what the dataset holds into files of a local folder.

    The keys of its index go to `made.parquet`, the rows that failed to `failed.parquet`, and the rows that were refused
    while planning to `known_invalid.parquet`.
    """
    index_parts = [info.path for info in store.list(paths.INDEX) if info.path.endswith(".parquet")]
    runs = _read_runs(store, index_parts)
    failures_parts: list[str] = []
    with pq.ParquetWriter(folder / "made.parquet", KEY_SCHEMA, compression="none", use_dictionary=False) as made:
        for table, file in map_ordered(lambda path: _read_index_part(store, path), index_parts, threads=_THREADS):
            made.write_table(table)
            failures_parts += [file] if file else []
    with pq.ParquetWriter(folder / "failed.parquet", FAILED_SCHEMA) as failed:
        for table in map_ordered(lambda path: _read_failures_part(store, path), failures_parts, threads=_THREADS):
            failed.write_table(table)
    invalid_parts = [info.path for info in store.list(paths.FAILURES) if paths.is_plan_failures(info.path)]
    with pq.ParquetWriter(folder / "known_invalid.parquet", KNOWN_INVALID_SCHEMA) as known:
        for table in map_ordered(lambda path: _read_invalid_part(store, path), invalid_parts, threads=_THREADS):
            known.write_table(table)
    return runs


def _read_runs(store: Store, index_parts: list[str]) -> dict[str, PlannedRun]:
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
    return {
        plan.run: PlannedRun(plan, frozenset(committed.get(plan.run, ())), plan.run in superseded)
        for plan in map_ordered(lambda run: load_plan(store, run), planned, threads=_THREADS)
    }


def _read_index_part(store: Store, path: str) -> tuple[pa.Table, str | None]:
    """Return the keys of an index part, and the failures file that its footer names."""
    with _open_part(store, path) as part:
        try:
            failures = parse_footer(part.metadata.metadata, path).failures
        except ValueError:  # an index part that another program has written anew; its rows still count
            failures = None
        return _build_key_table(part.read(columns=["key"])["key"]), failures


def _read_failures_part(store: Store, path: str) -> pa.Table:
    with _open_part(store, path) as part:
        table = part.read(columns=["key", "error_class", "created_at"])
    table = table.filter(table["key"].is_valid())
    created_at = table["created_at"].cast(FAILED_SCHEMA.field("created_at").type)
    columns = [*_build_key_table(table["key"]).columns, table["error_class"], created_at]
    return pa.Table.from_arrays(columns, schema=FAILED_SCHEMA)


def _read_invalid_part(store: Store, path: str) -> pa.Table:
    with _open_part(store, path) as part:
        return build_known_table(part.read(columns=["source", "error_class", "error"]))


@contextmanager
def _open_part(store: Store, path: str) -> Iterator[ParquetReader]:
    """Open a Parquet object of the dataset. Raises `StoreError` if it is damaged."""
    with store.open(path) as file:
        try:
            part = ParquetReader(file)
        except pa.ArrowException as error:
            raise StoreError(f"{store.join(path)} is damaged ({first_line(error)}); run `musicgen verify`") from None
        yield part


def _build_key_table(keys: pa.ChunkedArray) -> pa.Table:
    """Return keys (64 hex digits) as 128 bits in two columns."""
    prefixes = bytes.fromhex("".join(key[:32] for key in keys.to_pylist()))
    return pa.Table.from_arrays([pa.array(words) for words in split_digests(prefixes, 16)], schema=KEY_SCHEMA)
