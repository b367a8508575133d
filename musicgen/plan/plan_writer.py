"""Writes a run's plan: its rows as shards first, then the plan, which counts once it is in the order of runs."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from musicgen.dataset.info import write_dataset_info
from musicgen.errors import StoreError
from musicgen.job import Job
from musicgen.plan.expected_actors import ExpectedActors
from musicgen.plan.manifest_fingerprint import hash_fingerprint
from musicgen.plan.missing import RowCounts
from musicgen.plan.run_order import put_plan
from musicgen.plan.shard_files import write_manifest_parts
from musicgen.plan.shards import ShardLimits, choose_limits, cut_tables
from musicgen.plan.spilled_manifest import SpilledManifest
from musicgen.run_plan import Plan, PlanPart, format_time
from musicgen.shard import PlannedModel, strip_folder
from musicgen.storage import Store
from musicgen.value_types import JsonObject

if TYPE_CHECKING:
    from musicgen.families.family import FamilyCheckpoint


class PlanWriter:
    """Cuts the missing rows of a job's manifest into shards, and freezes them as a run."""

    def __init__(
        self,
        job: Job,
        checkpoint: "FamilyCheckpoint",
        store: Store,
        folder: Path,
        manifest: SpilledManifest,
        actors: ExpectedActors,
    ):
        self.job, self.checkpoint, self.store = job, checkpoint, store
        self.folder = folder  # for temporary files
        self.manifest = manifest
        self.actors = actors

    def _choose_limits(self, counts: RowCounts) -> ShardLimits:
        return choose_limits(self.job, self.checkpoint.spec, self.actors, counts.missing, counts.missing_s)

    def count_shards(self, row_indices: Iterator[NDArray[np.int64]], counts: RowCounts) -> int:
        """Count the shards that these rows would be cut into.

        It may differ a little from what they are, if rows are so large that their bytes decide: carried columns may
        have other types in the run's manifest.
        """
        tables = self.manifest.spill.select_rows(row_indices)
        return sum(1 for _ in cut_tables(tables, self._choose_limits(counts)))

    def write(
        self, run: str, order: int, fingerprint: str, row_indices: Iterator[NDArray[np.int64]], counts: RowCounts
    ) -> Plan | None:
        """Write `dataset.json`, the run's manifest and its plan as that of the dataset's run number `order`.

        Returns None, and leaves nothing of the run behind, if another run has got that number. Raises `StoreError`.
        """
        write_dataset_info(self.store, self.manifest.info)
        plan = self._build_plan(run, order, fingerprint, self._write_parts(run, row_indices, counts), counts)
        if put_plan(self.store, plan):
            return plan
        self._delete_parts(plan.parts)
        return None

    def _write_parts(
        self, run: str, row_indices: Iterator[NDArray[np.int64]], counts: RowCounts
    ) -> tuple[PlanPart, ...]:
        tables = self.manifest.select_rows(row_indices)
        limits = self._choose_limits(counts)
        parts: list[PlanPart] = []
        try:
            for part in write_manifest_parts(self.store, run, uuid4().hex[:12], tables, limits, self.folder):
                parts.append(part)
        except BaseException:  # interrupted, or the store failed: nobody will read these parts
            with suppress(StoreError):
                self._delete_parts(parts)
            raise
        return tuple(parts)

    def _build_plan(
        self, run: str, order: int, fingerprint: str, parts: tuple[PlanPart, ...], counts: RowCounts
    ) -> Plan:
        checkpoint = self.checkpoint
        return Plan(
            run=run,
            number=int(run.rpartition("-")[2]),
            order=order,
            job=_describe_job(self.job),
            model=PlannedModel(
                name=strip_folder(self.job.model.name),
                revision=checkpoint.revision,
                identity=checkpoint.identity,
                frame_rate=checkpoint.spec.frame_rate,
                family=checkpoint.spec.family,
            ),
            slots=self.job.cluster.slots,
            manifest_fingerprint=hash_fingerprint(fingerprint),
            parts=parts,
            rows=counts.missing,
            audio_s=round(counts.missing_s, 3),
            longest_s=counts.longest_s,
            invalid=self.manifest.spill.invalid,
            carried={field.name: str(field.type) for field in self.manifest.carried.schema},
            carried_names=dict(self.manifest.carried.names),
            csv=self.manifest.csv.to_document() if self.manifest.csv else None,
            created_at=format_time(datetime.now(UTC)),
        )

    def _delete_parts(self, parts: Iterable[PlanPart]) -> None:
        for part in parts:
            self.store.delete(part.path)


def _describe_job(job: Job) -> JsonObject:
    """Return the job as JSON, in which the model has no folder or bucket: a plan is published with its dataset."""
    document: JsonObject = job.model_dump(mode="json")
    document["model"]["name"] = strip_folder(job.model.name)
    return document
