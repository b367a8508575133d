"""What a dataset holds already: its runs, the keys of its index, the rows that failed or were refused."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.folded_runs import open_folded_runs
from musicgen.dataset.index_part import parse_footer
from musicgen.dataset.refused_rows import HASHED_COLUMNS, hash_refused_rows
from musicgen.dataset.run_keys import REFUSED_SHARD, RunCounts, parse_run_counts, split_keys
from musicgen.dataset.tombstones import read_tombstones
from musicgen.errors import StoreError, first_line
from musicgen.own_checksum import check_parquet
from musicgen.parallel import map_ordered
from musicgen.plan.invalid_rows import KNOWN_INVALID_SCHEMA, build_known_table
from musicgen.plan.planned_runs import RunListing, list_runs
from musicgen.plan.shard_files import read_shard
from musicgen.run_plan import Plan
from musicgen.storage import FileInfo, Store
from musicgen.storage.parquet_reader import ParquetReader

_THREADS = 16
_READ_AT_ONCE_BYTES = 8 << 20

KEY_SCHEMA = pa.schema([("k1", pa.int64()), ("k2", pa.int64())])
FAILED_SCHEMA = pa.schema([*KEY_SCHEMA, ("error_class", pa.string()), ("run_rank", pa.int64())])


class History:
    """Reads what a dataset holds into files of a local folder, and lists its runs.

    Each `refresh` lists the dataset anew, and adds what is new since the one before: the keys of the index to
    `made-<n>.parquet`, the rows that failed to `failed-<n>.parquet`, and the rows that were refused while planning to
    `known_invalid-<n>.parquet`. The keys of removed clips are in `removed.parquet`, which is written anew.
    """

    def __init__(self, store: Store, folder: Path):
        self.store, self.folder = store, folder
        self._read_paths: set[str] = set()
        self._read_runs: set[str] = set()  # by their key files
        self._refused_runs: set[str] = set()  # of whose refused rows the key files told
        self._fetched = self._refreshes = self._plans = 0

    def refresh(self, before: RunListing | None = None, with_invalid: bool = True) -> RunListing:
        """List the dataset's runs, and read the parts that have been added. `before` is the last listing.

        Of a run that has a file of its keys neither its parts nor the rows that it refused are read. Without
        `with_invalid` no other run's refused rows are read either.
        """
        listing = list_runs(self.store, before.runs if before else None)
        ranks = listing.ranks()
        read_runs = self._read_run_keys(listing, ranks)
        index_parts = self._take_unread(
            [path for path in listing.index_parts if (paths.parse_index_part(path) or ("", 0))[0] not in read_runs]
        )
        failures_parts: list[tuple[str, int]] = []
        with self._writer("made", KEY_SCHEMA) as made:
            for table, failures, run in map_ordered(self._read_index_part, index_parts, threads=_THREADS):
                made.write_table(table)
                failures_parts += [(failures, ranks.get(run, -len(ranks)))] if failures else []
        with self._writer("failed", FAILED_SCHEMA) as failed:
            for table in map_ordered(self._read_failures_part, failures_parts, threads=_THREADS):
                failed.write_table(table)
        infos = self.store.list(paths.FAILURES) if with_invalid else ()
        refused = [info.path for info in infos if paths.is_plan_failures(info.path)]
        invalid_parts = self._take_unread([path for path in refused if path.split("/")[1] not in self._refused_runs])
        with self._writer("known_invalid", KNOWN_INVALID_SCHEMA) as known:
            for hashes in map_ordered(self._read_invalid_part, invalid_parts, threads=_THREADS):
                self._write_refused(hashes, known)
        self._write_removed()
        self._refreshes += 1
        return listing

    def _write_removed(self) -> None:
        """Write the keys of all removed clips.

        They are listed after the index was read: a clip that was removed before its row was taken out of the index is
        among them, so a key that is in neither was never made.
        """
        keys = pa.array(read_tombstones(self.store).hidden_keys(), pa.string())
        pq.write_table(_build_key_table(pa.chunked_array([keys])), self.folder / "removed.parquet")

    def _read_run_keys(self, listing: RunListing, ranks: Mapping[str, int]) -> set[str]:
        """Read the key files of finished runs; returns the runs whose parts need not be read.

        A run of which a part was read before has to be read so to the end: its rows would count twice else. A damaged
        file is passed over.
        """
        read_runs = self._read_runs & listing.run_keys.keys()
        started = {(paths.parse_index_part(path) or ("", 0))[0] for path in self._read_paths} - self._read_runs
        unread = {run: file for run, file in listing.run_keys.items() if run not in read_runs | started}
        read_runs |= self._read_folded_runs(listing, unread, ranks)
        left = [(run, file) for run, file in unread.items() if run not in read_runs]
        first = self._fetched
        self._fetched += len(left)
        numbered = [(first + number, run, file) for number, (run, file) in enumerate(left)]
        for number, run, is_read in map_ordered(self._fetch_run_keys, numbered, threads=_THREADS):
            if is_read:
                self._convert_run_keys(number, ranks.get(run, -len(ranks)))
                read_runs.add(run)
        self._read_runs |= read_runs
        return read_runs

    def _read_folded_runs(
        self, listing: RunListing, unread: Mapping[str, FileInfo], ranks: Mapping[str, int]
    ) -> set[str]:
        """Read those of these runs that are folded, from one object; returns them."""
        read_runs: set[str] = set()
        if not unread:
            return read_runs
        with (
            open_folded_runs(self.store, listing.folded_file, self.folder) as folded,
            self._writer("made-folded", KEY_SCHEMA) as made,
            self._writer("failed-folded", FAILED_SCHEMA) as failed,
            self._writer("known_invalid-folded", KNOWN_INVALID_SCHEMA) as known,
        ):
            for run, file in unread.items():
                if (folded_run := folded.find(run, file)) is not None:
                    pieces = folded.read_keys(folded_run)
                    self._split_rows(folded_run.counts, pieces, ranks.get(run, -len(ranks)), made, failed, known)
                    read_runs.add(run)
        return read_runs

    def _fetch_run_keys(self, numbered: tuple[int, str, FileInfo]) -> tuple[int, str, bool]:
        """Copy a key file to `run-keys-<n>.parquet`; whether it is whole is told with it."""
        number, run, file = numbered
        path = self.folder / f"run-keys-{number}.parquet"
        try:
            if file.size <= _READ_AT_ONCE_BYTES:
                path.write_bytes(self.store.read(file.path))
            else:
                with self.store.open(file.path) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, _READ_AT_ONCE_BYTES)
            with path.open("rb") as copy:
                return number, run, check_parquet(copy) == "right"
        except FileNotFoundError:
            return number, run, False

    def _convert_run_keys(self, number: int, run_rank: int) -> None:
        """Write the rows of a fetched key file to `made-keys-<n>.parquet` and the like."""
        path = self.folder / f"run-keys-{number}.parquet"
        keys = pq.ParquetFile(path)
        pieces = (pa.Table.from_batches([batch]) for batch in keys.iter_batches())
        with (
            pq.ParquetWriter(self.folder / f"made-keys-{number}.parquet", KEY_SCHEMA, use_dictionary=False) as made,
            pq.ParquetWriter(self.folder / f"failed-keys-{number}.parquet", FAILED_SCHEMA) as failed,
            pq.ParquetWriter(self.folder / f"known_invalid-keys-{number}.parquet", KNOWN_INVALID_SCHEMA) as known,
        ):
            self._split_rows(parse_run_counts(keys.metadata), pieces, run_rank, made, failed, known)
        path.unlink()

    def _split_rows(
        self,
        counts: RunCounts,
        pieces: Iterable[pa.Table],
        run_rank: int,
        made: pq.ParquetWriter,
        failed: pq.ParquetWriter,
        known: pq.ParquetWriter,
    ) -> None:
        """Write a run's rows (`RUN_KEYS_SCHEMA`): those that were made, that failed, and that were refused."""
        refused = [KEY_SCHEMA.empty_table()]
        for rows in pieces:
            is_made = rows["error_class"].is_null()
            made.write_table(rows.filter(is_made).select(KEY_SCHEMA.names))
            rest = rows.filter(pc.invert(is_made))
            is_refused = pc.equal(rest["shard"], REFUSED_SHARD)
            refused.append(rest.filter(is_refused).select(KEY_SCHEMA.names))
            rest = rest.filter(pc.invert(is_refused))
            columns = [rest["k1"], rest["k2"], rest["error_class"], pa.array([run_rank] * len(rest), pa.int64())]
            failed.write_table(pa.Table.from_arrays(columns, schema=FAILED_SCHEMA))
        if counts.refused is not None:
            self._refused_runs.add(counts.run)
            self._write_refused(pa.concat_tables(refused).columns, known)

    def _write_refused(self, hashes: Sequence[pa.Array | pa.ChunkedArray], known: pq.ParquetWriter) -> None:
        known.write_table(build_known_table(hashes, self._plans))
        self._plans += 1

    def write_pending_keys(self, plan: Plan, pending: Sequence[int]) -> None:
        """Write the keys of these shards of a run to `pending_keys.parquet`. Raises `StoreError`."""
        path = self.folder / "pending_keys.parquet"
        with pq.ParquetWriter(path, KEY_SCHEMA, compression="none", use_dictionary=False) as writer:
            for rows in map_ordered(lambda shard: read_shard(self.store, plan, shard), pending, threads=_THREADS):
                writer.write_table(_build_key_table(pa.chunked_array([rows.keys], pa.string())))

    def _take_unread(self, found: list[str]) -> list[str]:
        unread = [path for path in found if path not in self._read_paths]
        self._read_paths.update(unread)
        return unread

    def _writer(self, name: str, schema: pa.Schema) -> pq.ParquetWriter:
        path = self.folder / f"{name}-{self._refreshes}.parquet"
        return pq.ParquetWriter(path, schema, compression="none", use_dictionary=False)

    def _read_index_part(self, path: str) -> tuple[pa.Table, str | None, str]:
        """Return the keys of an index part, the failures file that its footer names, and its run."""
        run, _ = paths.parse_index_part(path) or ("", 0)
        with self._open_part(path) as part:
            try:
                failures = parse_footer(part.metadata.metadata, path).failures
            except ValueError:  # an index part that another program has written anew; its rows still count
                failures = None
            return _build_key_table(part.read(columns=["key"])["key"]), failures, run

    def _read_failures_part(self, path_and_rank: tuple[str, int]) -> pa.Table:
        path, run_rank = path_and_rank
        with self._open_part(path) as part:
            table = part.read(columns=["key", "error_class"])
        table = table.filter(table["key"].is_valid())
        ranks = pa.array([run_rank] * table.num_rows, pa.int64())
        columns = [*_build_key_table(table["key"]).columns, table["error_class"], ranks]
        return pa.Table.from_arrays(columns, schema=FAILED_SCHEMA)

    def _read_invalid_part(self, path: str) -> list[pa.Array]:
        with self._open_part(path) as part:
            return hash_refused_rows(part.read(columns=list(HASHED_COLUMNS)))

    @contextmanager
    def _open_part(self, path: str) -> Iterator[ParquetReader]:
        """Open a Parquet object of the dataset. Raises `StoreError` if it is damaged."""
        with self.store.open(path) as file:
            try:
                part = ParquetReader(file)
            except pa.ArrowException as error:
                raise StoreError(
                    f"{self.store.join(path)} is damaged ({first_line(error)}); run `musicgen verify`"
                ) from None
            yield part


def _build_key_table(keys: pa.ChunkedArray) -> pa.Table:
    """Return keys (64 hex digits) as 128 bits in two columns."""
    return pa.Table.from_arrays(split_keys(keys), schema=KEY_SCHEMA)
