"""A whole manifest, checked and keyed, on local disk, with its carried columns as the index will have them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from musicgen.dataset.info import DatasetInfo, check_dataset_info, read_dataset_info, refuse_foreign_folder
from musicgen.dataset.reader import Dataset
from musicgen.dataset.schema import SCHEMA_VERSION, name_carried_columns
from musicgen.errors import ManifestError
from musicgen.job import Job
from musicgen.job_keys import suggest_nearest
from musicgen.manifest.audio_hashes import AudioHashes
from musicgen.manifest.carried import refuse_similar_names
from musicgen.manifest.carry_choice import CarryChoice
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.csv_choice import DialectChoice
from musicgen.manifest.csv_dialect import CsvDialect, DialectChanged
from musicgen.manifest.manifest import read_manifest
from musicgen.manifest.partition_columns import PartitionColumns
from musicgen.manifest.row import RowReader
from musicgen.model.checkpoint.identity import cache_folder
from musicgen.plan.keyed_rows import BatchParser
from musicgen.plan.keys import Keyer
from musicgen.plan.last_dialect import read_last_dialect
from musicgen.plan.row_schema import append_carried
from musicgen.plan.spill import Spill
from musicgen.storage import Store

if TYPE_CHECKING:
    from musicgen.families.family import FamilyCheckpoint

RowsRead = Callable[[int, int | None], None]  # the number of rows read so far, and None: their total is not known


@dataclass(frozen=True)
class CarriedColumns:
    """The carried columns of a manifest: their types in the index, and its column of each of the manifest's columns.

    They are those of the dataset and of the manifest; of those that the manifest lacks the rows have nulls.
    """

    schema: pa.Schema
    names: dict[str, str]  # the manifest's name -> the index's
    added: tuple[str, ...] = ()  # by the manifest's names: those that the dataset has not had so far
    lacking: tuple[str, ...] = ()  # by the index's names: those that the manifest lacks
    left_out: tuple[str, ...] = ()  # by the manifest's names: those that are not carried


@dataclass(frozen=True)
class SpilledManifest:
    """The keyed rows of a manifest, their carried columns, and the dataset that can hold them."""

    spill: Spill
    carried: CarriedColumns
    info: DatasetInfo
    csv: CsvDialect | None = None  # of its files; None: they are no CSV

    def select_rows(self, row_indices: Iterable[NDArray[np.int64]]) -> Iterator[pa.Table]:
        """Read the rows of these indices (in pieces, ascending) with their carried columns, as a run's manifest has
        them.
        """
        for rows in self.spill.select_rows(row_indices):
            yield append_carried(rows, self.spill.carried_columns(rows, self.carried.schema, self.carried.names))


def spill_manifest(
    job: Job, checkpoint: "FamilyCheckpoint", store: Store, folder: Path, on_rows_read: RowsRead | None
) -> SpilledManifest:
    """Read, check and key all rows of a job's manifest into files of `folder`.

    Raises `ManifestError`, and `JobError` if the dataset in the store does not fit the job.
    """
    begun = _check_output(job, store)
    known = None if begun is None else {*(begun.carried_names or begun.carried)}
    dialect = DialectChoice(job.manifest.csv, lambda: read_last_dialect(store, begun))
    try:
        spill = _read_rows(job, checkpoint, store.uri, folder, dialect, known, on_rows_read)
    except DialectChanged:
        spill = _read_rows(job, checkpoint, store.uri, folder, dialect, known, on_rows_read)
    existing = read_dataset_info(store)  # another driver may have begun it meanwhile
    carried = _choose_carried(spill, job, store, existing)
    info = DatasetInfo.of(job.audio.layout, job.audio.format, carried.schema, job.audio.codes, carried.names)
    check_dataset_info(store, info)
    # Whether all values fit must be known before anything is written.
    if (existing and existing.carried) or spill.may_not_fit(carried.schema, carried.names):
        for _, rows in spill.read_batches():
            spill.carried_columns(rows, carried.schema, carried.names)
    return SpilledManifest(spill, carried, info, dialect.dialect)


def _check_output(job: Job, store: Store) -> DatasetInfo | None:
    """Return the dataset's info; None if there is no dataset yet.

    Raises `JobError` for a dataset of another layout or format, and for a folder that is not a dataset's: it is known
    before the manifest is read, which may take hours.
    """
    existing = read_dataset_info(store)
    if existing is None:
        refuse_foreign_folder(store)
        return None
    return check_dataset_info(store, DatasetInfo(job.audio.layout, job.audio.format, existing.carried, job.audio.codes))


def _read_rows(
    job: Job,
    checkpoint: "FamilyCheckpoint",
    output: str,
    folder: Path,
    dialect: DialectChoice,
    known: set[str] | None,
    on_rows_read: RowsRead | None,
) -> Spill:
    spill = Spill(folder)
    manifest, generation, spec = job.manifest, job.generation, checkpoint.spec
    columns = ColumnMap(manifest.columns, not generation.allow_unconditional, spec.row_fields)
    carry = CarryChoice(manifest.carry)
    partitions = PartitionColumns(columns, known if manifest.carry == "all" else {*manifest.carry})
    reader = RowReader(generation, spec, job.model.name)
    keyer = Keyer(spec.frame_rate, checkpoint.identity, job.audio.canonical(), generation.seed)
    try:
        with AudioHashes(manifest.melody_roots, cache_folder()) as audio_hashes:
            parser = BatchParser(reader, keyer, audio_hashes)
            rows_read = 0
            for batch in read_manifest(manifest.uri, columns, manifest.limit, output, dialect, partitions):
                batch = carry.select(batch)
                for parsed in parser.parse(batch):
                    spill.add(batch, parsed)
                rows_read += len(batch) + len(batch.unparsable)
                if on_rows_read:
                    on_rows_read(rows_read, None)
    finally:  # before its files are written again, if the CSV turns out to be of another dialect
        spill.close()
    spill.left_out = tuple(sorted(partitions.left_out))
    spill.not_carried = tuple(sorted(carry.left_out))
    return spill


def _choose_carried(spill: Spill, job: Job, store: Store, existing: DatasetInfo | None) -> CarriedColumns:
    """Choose the names and types of the carried columns: those of the dataset first, and its rules.

    Columns that a dataset lacks are added since schema version 2; in earlier ones they are left out.
    """
    manifest = job.manifest.uri
    pinned = dict(existing.carried) if existing else {}
    named = existing.carried_names if existing else {}
    columns = {field.name: (field.type, spill.index_type(field)) for field in spill.carried_schema(manifest)}
    version = existing.schema_version if existing else SCHEMA_VERSION
    if version > 1:
        refuse_similar_names(list(columns), manifest)
    names = name_carried_columns(list(columns), named, version)
    added = [column for column in columns if existing is not None and names[column] not in pinned]
    left_out = {*spill.not_carried}
    if version == 1:
        left_out.update(added)
        names = {column: name for column, name in names.items() if column not in added}
        added = []
    fields = [pa.field(name, _pinned_type(pinned.get(name), *columns[column])) for column, name in names.items()]
    sources = {name: column for column, name in named.items()}
    lacking = [name for name in pinned if name not in names.values()]
    for name in lacking:
        names[sources.get(name, name)] = name
        fields.append(pa.field(name, _find_pinned_type(store, existing, name)))
    if job.manifest.carry != "all":
        _check_carry(job.manifest.carry, [*names, *spill.not_carried], manifest)
    order = {name: position for position, name in enumerate(pinned)}
    fields.sort(key=lambda field: order.get(field.name, len(order)))
    sources = {name: column for column, name in names.items()}
    own_names = {sources[field.name]: field.name for field in fields}
    # Rows of JSON leave out what they do not have, so that a key that none of them has is nothing to be told.
    return CarriedColumns(
        pa.schema(fields),
        own_names,
        tuple(added),
        () if spill.lacks_schema else tuple(lacking),
        tuple(sorted(left_out)),
    )


def _find_pinned_type(store: Store, existing: DatasetInfo | None, name: str) -> pa.DataType:
    """Return the type of a carried column that the manifest lacks; the names of nested types can only be read there."""
    pinned = existing.carried[name] if existing else ""
    try:
        return pa.type_for_alias(pinned)
    except ValueError:
        schema = Dataset(store, existing).schema() if existing else pa.schema([])
        return schema.field(name).type if name in schema.names else pa.string()


def _check_carry(carry: Sequence[str], known: Sequence[str], manifest: str) -> None:
    for name in carry:
        if name not in known:
            raise ManifestError(
                f"{manifest}: there is no column `{name}`, which manifest.carry names{suggest_nearest(name, known)}"
            )


def _pinned_type(pinned: str | None, own: pa.DataType, index_type: pa.DataType) -> pa.DataType:
    """Return the type that the dataset fixes, if values of another one could be cast to it."""
    if pinned is None or pinned == str(index_type):
        return index_type
    if pinned == str(own):
        return own
    try:
        return pa.type_for_alias(pinned)
    except ValueError:
        return index_type
