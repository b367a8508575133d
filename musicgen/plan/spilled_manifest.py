"""A whole manifest, checked and keyed, on local disk, with its carried columns as the index will have them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from musicgen.dataset.info import DatasetInfo, check_dataset_info, read_dataset_info, refuse_foreign_folder
from musicgen.dataset.schema import carried_name
from musicgen.job import Job
from musicgen.manifest.audio_hashes import AudioHashes
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.manifest import read_manifest
from musicgen.manifest.row import RowReader
from musicgen.model.checkpoint.identity import cache_folder
from musicgen.plan.keyed_rows import BatchParser
from musicgen.plan.keys import Keyer
from musicgen.plan.row_schema import append_carried
from musicgen.plan.spill import Spill
from musicgen.storage import Store

if TYPE_CHECKING:
    from musicgen.model.checkpoint.resolve import Checkpoint

RowsRead = Callable[[int, int | None], None]  # the number of rows read so far, and None: their total is not known


@dataclass(frozen=True)
class CarriedColumns:
    """The carried columns of a manifest: their types in the index, and its column of each of the manifest's columns."""

    schema: pa.Schema
    names: dict[str, str]  # the manifest's name -> the index's


@dataclass(frozen=True)
class SpilledManifest:
    """The keyed rows of a manifest, their carried columns, and the dataset that can hold them."""

    spill: Spill
    carried: CarriedColumns
    info: DatasetInfo

    def select_rows(self, row_indices: Iterable[NDArray[np.int64]]) -> Iterator[pa.Table]:
        """Read the rows of these indices (in pieces, ascending) with their carried columns, as a run's manifest has
        them.
        """
        for rows in self.spill.select_rows(row_indices):
            yield append_carried(rows, self.spill.carried_columns(rows, self.carried.schema, self.carried.names))


def spill_manifest(
    job: Job, checkpoint: "Checkpoint", store: Store, folder: Path, on_rows_read: RowsRead | None
) -> SpilledManifest:
    """Read, check and key all rows of a job's manifest into files of `folder`.

    Raises `ManifestError`, and `JobError` if the dataset in the store does not fit the job.
    """
    _check_output(job, store)
    spill = Spill(folder)
    _read_rows(job, checkpoint, store, spill, on_rows_read)
    existing = read_dataset_info(store)
    pinned = dict(existing.carried) if existing else {}
    carried = _choose_carried(spill, job.manifest.uri, pinned)
    info = DatasetInfo.of(job.audio.layout, job.audio.format, carried.schema, job.audio.codes)
    check_dataset_info(store, info)
    if pinned:  # whether all values fit must be known before anything is written
        for _, rows in spill.read_batches():
            spill.carried_columns(rows, carried.schema, carried.names)
    return SpilledManifest(spill, carried, info)


def _check_output(job: Job, store: Store) -> None:
    """Raise `JobError` for a dataset of another layout or format, and for a folder that is not a dataset's.

    It is known before the manifest is read, which may take hours.
    """
    refuse_foreign_folder(store)
    existing = read_dataset_info(store)
    if existing is not None:
        info = DatasetInfo(job.audio.layout, job.audio.format, existing.carried, job.audio.codes)
        check_dataset_info(store, info)


def _read_rows(job: Job, checkpoint: "Checkpoint", store: Store, spill: Spill, on_rows_read: RowsRead | None) -> None:
    manifest, generation, spec = job.manifest, job.generation, checkpoint.spec
    columns = ColumnMap(manifest.columns, prompt_required=not generation.allow_unconditional)
    reader = RowReader(generation, spec, job.model.name)
    keyer = Keyer(spec.frame_rate, checkpoint.identity, job.audio.canonical(), generation.seed)
    with AudioHashes(manifest.melody_roots, cache_folder()) as audio_hashes:
        parser = BatchParser(reader, keyer, audio_hashes)
        rows_read = 0
        for batch in read_manifest(manifest.uri, columns, manifest.limit, store.uri):
            for parsed in parser.parse(batch):
                spill.add(batch, parsed)
            rows_read += len(batch) + len(batch.unparsable)
            if on_rows_read:
                on_rows_read(rows_read, None)
    spill.close()


def _choose_carried(spill: Spill, manifest: str, pinned: Mapping[str, str]) -> CarriedColumns:
    """Choose the names and types of the carried columns: `pinned` are those of the dataset, if there is one."""
    names: dict[str, str] = {}  # the index's name -> the manifest's
    fields: list[pa.Field] = []
    for field in spill.carried_schema(manifest):
        name = carried_name(field.name, set(names))
        names[name] = field.name
        fields.append(pa.field(name, _pinned_type(pinned.get(name), field.type)))
    if spill.lacks_schema:  # JSON rows may all lack a key that the rows of an earlier manifest had
        for name in pinned.keys() - names.keys():
            names[name] = name
            fields.append(pa.field(name, _pinned_type(pinned[name], pa.string())))
    order = {name: position for position, name in enumerate(pinned)}
    fields.sort(key=lambda field: order.get(field.name, len(order)))
    return CarriedColumns(pa.schema(fields), {names[field.name]: field.name for field in fields})


def _pinned_type(pinned: str | None, own: pa.DataType) -> pa.DataType:
    """Return the type that the dataset fixes, if values of another one could be cast to it."""
    if pinned is None or pinned == str(own):
        return own
    try:
        return pa.type_for_alias(pinned)
    except ValueError:
        return own
