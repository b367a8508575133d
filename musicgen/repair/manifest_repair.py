"""Makes a run's manifest, its keys and its invalid rows again, by reading what the job has read.

The plan has a fingerprint of the rows, so a manifest that has changed since is noticed. Nothing of these files depends
on the time or the machine: they come out as they were, unless another pyarrow writes them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from musicgen.dataset import paths
from musicgen.dataset.manifest_rows import build_manifest_rows
from musicgen.dataset.open_failures import read_failures
from musicgen.dataset.reader import Dataset
from musicgen.errors import MusicGenError
from musicgen.job import Job
from musicgen.plan.invalid_rows import build_invalid_rows
from musicgen.plan.manifest_fingerprint import compute_fingerprint, hash_fingerprint
from musicgen.plan.missing import MissingRows
from musicgen.plan.planned_runs import list_runs
from musicgen.plan.repeated_ids import refuse_repeated_ids
from musicgen.plan.row_schema import append_carried, blank_rows, select_carried
from musicgen.plan.shard_files import open_shards_writer
from musicgen.plan.spilled_manifest import SpilledManifest, spill_manifest
from musicgen.repair.document_repair import NotMended, put_document, turn_bit_back
from musicgen.run_plan import Plan
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.temporary_folder import temporary_folder

if TYPE_CHECKING:
    from musicgen.families.family import FamilyCheckpoint

CheckpointFinder = Callable[[Plan], "FamilyCheckpoint"]


@dataclass
class ManifestRepair:
    """Mends what a run keeps of its manifest. The manifest is read at the first object that needs it."""

    dataset: Dataset
    plan: Plan
    find_checkpoint: CheckpointFinder
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _manifest: tuple[SpilledManifest, MissingRows, Path] | None = field(default=None, init=False)
    _failure: str = field(default="", init=False)

    def close(self) -> None:
        """Delete the temporary files."""
        self._stack.close()

    def mend(self, path: str) -> str:
        """Make one object again; returns what was done. Raises `NotMended` or `StoreError`."""
        if turn_bit_back(self.dataset.store, path):
            return "one bit turned back"
        if path == paths.manifest_rows(self.plan.run) and self._copy_keys():
            return "made again from the run's manifest"
        manifest, rows, folder = self._read_manifest()
        if path == paths.manifest_rows(self.plan.run):
            keys = (table["key"] for table in manifest.spill.select_rows(rows.read_distinct()))
            content = build_manifest_rows(self.plan.run, keys, folder)
        elif path == paths.plan_failures(self.plan.run):
            if manifest.spill.invalid != self.plan.invalid:
                raise NotMended(self._describe_change(f"{manifest.spill.invalid} rows of it are invalid now"))
            content = build_invalid_rows(self.plan, manifest.spill.invalid_path, folder)
        else:
            content = self._write_part(path, manifest, rows, folder)
        put_document(self.dataset.store, path, content)
        return f"made again from {self.plan.job['manifest']['uri']}"

    def _copy_keys(self) -> bool:
        """Put the keys of the run's own manifest as those of all its rows, if the fingerprint says that they are."""
        run = self.plan.run
        try:
            if hash_fingerprint(compute_fingerprint(self._read_keys())) != self.plan.manifest_fingerprint:
                return False  # earlier runs had made some of the rows
            with temporary_folder() as folder:
                content = build_manifest_rows(run, self._read_keys(), folder)
                put_document(self.dataset.store, paths.manifest_rows(run), content)
        except (FileNotFoundError, pa.ArrowException, ValueError):
            return False  # the manifest is damaged too
        return True

    def _read_keys(self) -> Iterator[pa.ChunkedArray]:
        """Yield the keys of the run's own manifest, in its order."""
        for part in self.plan.parts:
            with self.dataset.store.open(part.path) as file:
                for batch in ParquetReader(file).iter_batches(columns=["key"]):
                    yield pa.chunked_array([batch.column(0)])

    def _read_manifest(self) -> tuple[SpilledManifest, MissingRows, Path]:
        """Read the manifest of the run's job. Raises `NotMended` if its rows are not those that were planned."""
        if self._failure:
            raise NotMended(self._failure)
        if self._manifest is None:
            folder = self._stack.enter_context(temporary_folder())
            try:
                job, checkpoint = Job.model_validate(self.plan.job), self.find_checkpoint(self.plan)
                manifest = spill_manifest(job, checkpoint, self.dataset.store, folder, None)
                rows = self._stack.enter_context(MissingRows(folder))
                refuse_repeated_ids(rows, manifest.spill, folder)
                _, fingerprint = rows.keep_distinct()
            except (MusicGenError, FileNotFoundError, ValueError) as error:
                self._failure = self._describe_change(" ".join(str(error).split()))
                raise NotMended(self._failure) from None
            if hash_fingerprint(fingerprint) != self.plan.manifest_fingerprint:
                self._failure = self._describe_change("its rows are not those that the run was planned of")
                raise NotMended(self._failure)
            self._manifest = manifest, rows, folder
        return self._manifest

    def _describe_change(self, reason: str) -> str:
        uri = self.plan.job["manifest"]["uri"]
        return f"it can be made again only from the manifest as it was ({uri}): {reason}; restore that, or this file"

    def _write_part(self, path: str, manifest: SpilledManifest, rows: MissingRows, folder: Path) -> Path:
        """Write the file of `folder` that holds the same shards as `path` did, without what is of deleted clips."""
        deleted = [
            place.key
            for place, entry in self.dataset.tombstones()
            if place.run == self.plan.run and entry.state in ("deleting", "deleted")
        ]
        gone = pa.array(deleted, pa.string())
        numbers = self._find_shards(path)
        cut = enumerate(_cut_rows(self._select_own_rows(manifest, rows), self.plan))
        shards = ((number, shard) for number, shard in cut if number in numbers)  # reads all, and so counts them
        first = next(shards)
        temporary_path = folder / "part.parquet"
        with open_shards_writer(temporary_path, first[1].schema) as writer:
            for number, shard in chain([first], shards):
                self._check_shard(number, shard)
                shard = blank_rows(shard, pc.is_in(shard["key"], value_set=gone)) if deleted else shard
                writer.write_table(shard, row_group_size=shard.num_rows)
        return temporary_path

    def _find_shards(self, path: str) -> range:
        """Return the numbers of the shards that a file of the run's manifest holds."""
        first = 0
        for part in self.plan.parts:
            if part.path == path:
                return range(first, first + part.row_groups)
            first += part.row_groups
        raise NotMended("the run's plan does not name this file")

    def _select_own_rows(self, manifest: SpilledManifest, rows: MissingRows) -> Iterator[pa.Table]:
        """Yield the rows of the manifest that the run was to make, with the carried columns of that time.

        Raises `NotMended` if they cannot be told from those that other runs had made.
        """
        known = self._read_own_keys()
        earlier = None if len(known) >= self.plan.rows else self._read_earlier_keys()
        count = 0
        for table in manifest.select_rows(rows.read_distinct()):
            is_own = (
                pc.is_in(table["key"], value_set=known)
                if earlier is None
                else pc.invert(pc.is_in(table["key"], value_set=earlier))
            )
            table = table.filter(is_own)
            carried = select_carried(table)
            if any(str(carried.schema.field(name).type) != kind for name, kind in self.plan.carried.items()):
                raise NotMended(self._describe_change("the types of its columns have changed"))
            count += table.num_rows
            yield append_carried(table, carried.select([*self.plan.carried]))
        if count != self.plan.rows:
            raise NotMended(
                "which rows of the manifest were the run's cannot be told: index parts of runs are lost too"
            )

    def _read_own_keys(self) -> pa.Array:
        """Return the keys that the run has made, that failed in it, and that were removed."""
        own = Dataset(self.dataset.store, self.dataset.info, self.plan.run)
        failed = read_failures(own.store, (footer.failures for _, footer in own.footers() if footer.failures))
        removed = [place.key for place, entry in own.tombstones() if place.run == self.plan.run]
        keys = {*own.to_arrow(["key"])["key"].to_pylist(), *failed["key"].to_pylist(), *removed}
        return pa.array(sorted(keys), pa.string())

    def _read_earlier_keys(self) -> pa.Array:
        """Return the keys that runs before this one have made, whether removed or not."""
        ranks = list_runs(self.dataset.store).ranks()
        earlier = {run for run, rank in ranks.items() if rank < ranks[self.plan.run]}
        keys = {place.key for place, _ in self.dataset.tombstones() if place.run in earlier}
        for run in earlier:
            keys |= {*Dataset(self.dataset.store, self.dataset.info, run).to_arrow(["key"])["key"].to_pylist()}
        return pa.array(sorted(keys), pa.string())

    def _check_shard(self, number: int, shard: pa.Table) -> None:
        """Raise `NotMended` if the index has a clip of this shard that is not among its rows."""
        part_path = paths.index_part(self.plan.run, number)
        if not self.dataset.store.exists(part_path):
            return
        with self.dataset.store.open(part_path) as file:
            made = ParquetReader(file).read(["key"])["key"]
        if not pc.all(pc.is_in(made, value_set=shard["key"].combine_chunks())).as_py() and len(made):
            raise NotMended(self._describe_change("its rows are in another order"))


def _cut_rows(tables: Iterable[pa.Table], plan: Plan) -> Iterator[pa.Table]:
    """Yield rows in the shards that a plan says."""
    pieces: list[pa.Table] = []
    sizes = [rows for part in plan.parts for rows in part.shard_rows]
    for table in tables:
        pieces.append(table)
        while sizes and sum(piece.num_rows for piece in pieces) >= sizes[0]:
            joined = pa.concat_tables(pieces)
            yield joined.slice(0, sizes[0])
            pieces = [joined.slice(sizes.pop(0))]
