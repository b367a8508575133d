"""Planning: from a manifest and what the dataset has to a frozen run of what is missing."""

import hashlib
import json
import tempfile
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from musicgen.dataset import paths
from musicgen.dataset.info import write_dataset_info
from musicgen.dataset.run_report import read_report
from musicgen.errors import ManifestError, StoreError
from musicgen.job import Job
from musicgen.plan.history import PlannedRun, load_plan, pending_shards, read_history
from musicgen.plan.invalid_rows import write_invalid_rows
from musicgen.plan.missing import MissingRows, RowCounts
from musicgen.plan.other_runs import close_other_runs, refuse_simultaneous_run
from musicgen.plan.outcome import PlanOutcome
from musicgen.plan.shard_files import write_manifest_parts
from musicgen.plan.shards import choose_limits, cut_shards, estimate_speed
from musicgen.plan.spilled_manifest import RowsRead, SpilledManifest, spill_manifest
from musicgen.run_plan import Plan, PlanPart, format_time
from musicgen.shard import PlannedModel
from musicgen.storage import Store

if TYPE_CHECKING:
    from musicgen.model.checkpoint.resolve import Checkpoint

INVALID_SHOWN = 1000


def make_plan(
    job: Job,
    checkpoint: "Checkpoint",
    store: Store,
    dry_run: bool = False,
    retry_failed: Collection[str] = (),
    progress: RowsRead | None = None,
) -> PlanOutcome:
    """Plan a job's run, or adopt the one that it left unfinished.

    Rows that failed before are planned again, those of class `crash` only if `retry_failed` holds it. `progress` is
    called with the number of rows read so far, and None. With `dry_run` nothing is written and the outcome's `plan` is
    only ever an adopted one. Raises `ManifestError`, `JobError` (another job's run is unfinished, the dataset is of
    another kind) and `StoreError`.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="musicgen-plan-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        manifest = spill_manifest(job, checkpoint, store, folder, progress)
        outcome = _Planner(job, checkpoint, store, folder, manifest).plan(dry_run, frozenset(retry_failed))
    return replace(outcome, seconds=time.monotonic() - started)


class _Planner:
    """Decides what a job has to do for a manifest that has been read."""

    def __init__(self, job: Job, checkpoint: "Checkpoint", store: Store, folder: Path, manifest: SpilledManifest):
        self.job, self.checkpoint, self.store = job, checkpoint, store
        self.folder = folder  # for temporary files; those of the manifest are in it
        self.manifest = manifest
        self.speed = estimate_speed(job, checkpoint.spec)

    def plan(self, dry_run: bool, retried_classes: frozenset[str]) -> PlanOutcome:
        """Compare the manifest with the dataset, and plan what is missing."""
        history = read_history(self.store, self.folder)
        with MissingRows(self.folder) as missing_rows:
            self._refuse_repeated_id(missing_rows)
            distinct, fingerprint = missing_rows.keep_distinct()
            counts = missing_rows.find_missing(retried_classes)
            prefix = self._run_prefix(fingerprint)
            own_runs = sorted(
                (run for run in history.values() if run.name_prefix == prefix),
                key=lambda run: (run.plan.number, run.plan.run),
            )
            outcome = self._count_rows(counts, distinct)
            if unfinished := [run for run in own_runs if not run.finished]:
                if not dry_run:
                    self.store.probe()
                    self._write_invalid_rows(unfinished[-1].plan)
                return self._adopt(outcome, unfinished[-1].plan, unfinished[-1].pending)
            if not counts.missing and not (self.manifest.spill.invalid and missing_rows.count_new_invalid()):
                if own_runs and not self._is_published(own_runs[-1]):
                    return self._adopt(outcome, own_runs[-1].plan, [])
                return outcome
            close_other_runs(self.store, self.job, [run for run in history.values() if not run.finished], dry_run)
            retried = counts.failed - counts.held_back
            outcome = replace(outcome, new=counts.missing - retried, retried=retried)
            if dry_run:
                return self._preview(outcome, missing_rows, counts)
            number = own_runs[-1].plan.number + 1 if own_runs else 1
            parts = self._write_parts(f"{prefix}-{number}", missing_rows, counts)
            plan = self._build_plan(f"{prefix}-{number}", number, fingerprint, parts, counts)
            return self._commit(outcome, plan, history)

    def _refuse_repeated_id(self, missing_rows: MissingRows) -> None:
        spill = self.manifest.spill
        if spill.has_ids and (repeated := missing_rows.find_repeated_id()):
            first, second = (spill.read_row(row_index) for row_index in repeated)
            raise ManifestError(
                f"{second['source']}: repeats the id {first['id']!r} of {first['source']}; ids are unique in a manifest"
            )

    def _run_prefix(self, fingerprint: str) -> str:
        """Return the run's name without its number: a hash of the rows, in any order, the model and the encoding."""
        parts = [fingerprint, self.checkpoint.identity, self.job.audio.canonical()]
        return "r" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def _is_published(self, run: PlannedRun) -> bool:
        """Whether a driver of the run lived to write the dataset's card after it."""
        report = None if run.superseded else read_report(self.store, run.plan.run)
        return run.superseded or (report is not None and bool(report.published_at))

    def _count_rows(self, counts: RowCounts, distinct: int) -> PlanOutcome:
        """Return the outcome where nothing is to be done."""
        return PlanOutcome(
            made=counts.made,
            failed_before=counts.failed,
            held_back=counts.held_back,
            duplicates=self.manifest.spill.rows - distinct,
            invalid_count=self.manifest.spill.invalid,
            invalid=self.manifest.spill.first_invalid(INVALID_SHOWN),
        )

    def _adopt(self, outcome: PlanOutcome, plan: Plan, pending: list[int]) -> PlanOutcome:
        """Return the outcome where a run that is planned already goes on."""
        audio_s = sum(plan.shard_audio_s(shard) for shard in pending)
        return replace(
            outcome,
            plan=plan,
            new=sum(plan.shard_rows(shard) for shard in pending),
            retried=0,
            shards=len(pending),
            audio_s=audio_s,
            adopted=True,
            estimated_s=self._estimate_s(audio_s),
        )

    def _preview(self, outcome: PlanOutcome, missing_rows: MissingRows, counts: RowCounts) -> PlanOutcome:
        """Return the outcome that a plan would have."""
        tables = self.manifest.spill.select_rows(missing_rows.read_indices())
        durations_s = (duration_s for table in tables for duration_s in table["duration_s"].to_pylist())
        limits = choose_limits(self.job, self.checkpoint.spec, counts.missing, counts.missing_s, self.speed)
        return replace(
            outcome,
            shards=sum(1 for _ in cut_shards(durations_s, limits)),
            audio_s=counts.missing_s,
            estimated_s=self._estimate_s(counts.missing_s),
        )

    def _write_parts(self, run: str, missing_rows: MissingRows, counts: RowCounts) -> tuple[PlanPart, ...]:
        """Write `dataset.json` and the missing rows as shards of the run."""
        self.store.probe()
        write_dataset_info(self.store, self.manifest.info)
        tables = self.manifest.select_rows(missing_rows.read_indices())
        limits = choose_limits(self.job, self.checkpoint.spec, counts.missing, counts.missing_s, self.speed)
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
        self, run: str, number: int, fingerprint: str, parts: tuple[PlanPart, ...], counts: RowCounts
    ) -> Plan:
        checkpoint = self.checkpoint
        return Plan(
            run=run,
            number=number,
            job=self.job.model_dump(mode="json"),
            model=PlannedModel(
                self.job.model.name, checkpoint.revision, checkpoint.identity, checkpoint.spec.frame_rate
            ),
            slots=self.job.cluster.slots,
            manifest_fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest(),
            parts=parts,
            rows=counts.missing,
            audio_s=round(counts.missing_s, 3),
            longest_s=counts.longest_s,
            invalid=self.manifest.spill.invalid,
            carried={field.name: str(field.type) for field in self.manifest.carried.schema},
            created_at=format_time(datetime.now(UTC)),
        )

    def _commit(self, outcome: PlanOutcome, plan: Plan, history: dict[str, PlannedRun]) -> PlanOutcome:
        """Write the plan if it is absent, else adopt the one that is there: the same job was submitted twice."""
        if not self.store.commit_if_absent(paths.plan_file(plan.run), plan.to_json().encode()):
            self._delete_parts(plan.parts)
            other = load_plan(self.store, plan.run)
            return self._adopt(outcome, other, pending_shards(self.store, other))
        refuse_simultaneous_run(self.store, self.job, plan, history)
        self._write_invalid_rows(plan)
        return replace(
            outcome,
            plan=plan,
            shards=len(plan.shards),
            audio_s=plan.audio_s,
            estimated_s=self._estimate_s(plan.audio_s),
        )

    def _write_invalid_rows(self, plan: Plan) -> None:
        if self.manifest.spill.invalid:
            write_invalid_rows(self.store, plan.run, self.manifest.spill.invalid_path, self.folder)

    def _delete_parts(self, parts: Iterable[PlanPart]) -> None:
        for part in parts:
            self.store.delete(part.path)

    def _estimate_s(self, audio_s: float) -> float:
        return audio_s / (self.speed * self.job.cluster.min_actors)
