"""Planning: from a manifest and what the dataset has to a frozen run of what is missing."""

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from musicgen.dataset.gc_gate import refuse_gate
from musicgen.dataset.info import read_dataset_info
from musicgen.dataset.run_report import read_report
from musicgen.job import Job
from musicgen.plan.closing import ShardsClosed, close_run
from musicgen.plan.counted_rows import count_rows
from musicgen.plan.duplicates import count_conflicting
from musicgen.plan.estimating import estimate_run
from musicgen.plan.expected_actors import ExpectedActors, expect_actors_of_job
from musicgen.plan.history import History
from musicgen.plan.invalid_rows import write_invalid_rows
from musicgen.plan.manifest_keys import ManifestKeys
from musicgen.plan.missing import MissingRows, RowCounts
from musicgen.plan.outcome import PlanOutcome
from musicgen.plan.plan_writer import PlanWriter
from musicgen.plan.planned_runs import PlannedRun, RunListing
from musicgen.plan.prompt_check import check_prompts
from musicgen.plan.repeated_ids import refuse_repeated_ids
from musicgen.plan.run_order import find_adoptable, runs_to_close, write_plan_file
from musicgen.plan.spilled_manifest import RowsRead, SpilledManifest, spill_manifest
from musicgen.plan.unread_settings import refuse_unread_settings
from musicgen.run_plan import Plan
from musicgen.storage import Store
from musicgen.temporary_folder import remove_abandoned_folders, temporary_folder

if TYPE_CHECKING:
    from musicgen.families.family import FamilyCheckpoint


def make_plan(
    job: Job,
    checkpoint: "FamilyCheckpoint",
    store: Store,
    dry_run: bool = False,
    retry_failed: Collection[str] = (),
    progress: RowsRead | None = None,
    on_shards_closed: ShardsClosed | None = None,
    actors: ExpectedActors | None = None,
    tokenizer_folder: Path | None = None,
) -> PlanOutcome:
    """Plan a job's run, or adopt the one that it left unfinished.

    Rows that failed before are planned again, those that are held back (`MissingRows.find_missing`) only if
    `retry_failed` holds the class of their failure. `progress` is called with the number of rows read so far, and
    None; `on_shards_closed` while another run is closed. With `dry_run` nothing is written and the outcome's `plan` is
    only ever an adopted one. `actors` are those of the cluster (None: those that the job says). With
    `tokenizer_folder`, a checkpoint's, the prompts that its text encoder cannot read in full are counted. Raises
    `ManifestError`, `JobError` (another job's run is unfinished, the dataset is of another kind, `gc` is at work in it)
    and `StoreError`.
    """
    started = time.monotonic()
    refuse_unread_settings(job, checkpoint.spec)
    remove_abandoned_folders()
    with temporary_folder() as folder:
        manifest = spill_manifest(job, checkpoint, store, folder, progress)
        writer = PlanWriter(job, checkpoint, store, folder, manifest, actors or expect_actors_of_job(job))
        planner = _Planner(job, checkpoint, store, folder, manifest, writer, dry_run, on_shards_closed)
        outcome = planner.plan(frozenset(retry_failed))
        if tokenizer_folder is not None and outcome.rows:
            prompts = check_prompts(tokenizer_folder, (rows for _, rows in manifest.spill.read_batches()))
            outcome = replace(outcome, prompts=prompts)
    return replace(outcome, seconds=time.monotonic() - started)


class _Planner:
    """Decides what a job has to do for a manifest that has been read."""

    def __init__(
        self,
        job: Job,
        checkpoint: "FamilyCheckpoint",
        store: Store,
        folder: Path,
        manifest: SpilledManifest,
        writer: PlanWriter,
        dry_run: bool,
        on_shards_closed: ShardsClosed | None,
    ):
        self.job, self.checkpoint, self.store = job, checkpoint, store
        self.folder = folder  # for temporary files; those of the manifest are in it
        self.manifest = manifest
        self.dry_run = dry_run
        self.on_shards_closed = on_shards_closed
        self.writer = writer
        self.history = History(store, folder)
        self._probed = False

    def plan(self, retried_classes: frozenset[str]) -> PlanOutcome:
        """Compare the manifest with the dataset, and plan what is missing."""
        if not self.dry_run:
            refuse_gate(self.store)  # before anything is written; what decides is the look after the plan
        with MissingRows(self.folder) as missing_rows:
            refused = refuse_repeated_ids(missing_rows, self.manifest.spill, self.folder)
            distinct, fingerprint = missing_rows.keep_distinct()
            duplicates = self.manifest.spill.rows - refused - distinct
            conflicting = count_conflicting(missing_rows, self.manifest, self.folder) if duplicates else 0
            keys = ManifestKeys(self.store, self.manifest, missing_rows, distinct, self.folder)
            listing: RunListing | None = None
            while True:  # another round after runs were closed, or another planner was faster
                listing = self.history.refresh(listing, with_invalid=self.manifest.spill.invalid > 0)
                self._write_unwritten_plan(listing)
                counts = missing_rows.find_missing(retried_classes)
                outcome = self._plan_once(listing, missing_rows, fingerprint, counts, keys)
                if outcome is not None:
                    self._write_manifest_rows(outcome, keys, listing)
                    return replace(outcome, duplicates=duplicates, conflicting=conflicting)

    def _plan_once(
        self,
        listing: RunListing,
        missing_rows: MissingRows,
        fingerprint: str,
        counts: RowCounts,
        keys: ManifestKeys,
    ) -> PlanOutcome | None:
        """Adopt, plan, or find that nothing is missing; None if the dataset has changed and must be looked at again."""
        prefix = self._run_prefix(fingerprint)
        outcome = count_rows(self.job, self.checkpoint.spec, self.manifest, counts)
        to_close: list[PlannedRun] = []
        if (own_run := find_adoptable(listing, prefix)) is not None:
            if not self._is_outdated(own_run, missing_rows):
                return self._adopt(outcome, own_run, listing)
            to_close = [own_run]
        elif not counts.missing and not (self.manifest.spill.invalid and missing_rows.count_new_invalid()):
            for last in listing.runs_of(prefix)[-1:]:
                if last.plan is not None and last.finished and not self._is_published(last):
                    return self._adopt(outcome, last, listing)
            if keys.are_current(listing):
                return outcome
            if listing.unfinished:  # no run may be planned beside it for this alone
                return replace(outcome, current_waits_for=listing.unfinished[0].run)
            outcome = replace(outcome, becomes_current=True)
        to_close = to_close or runs_to_close(self.store, self.job, listing, prefix)
        next_run = find_adoptable(listing, prefix, closed=to_close) if self.dry_run else None
        if next_run is not None and not self._is_outdated(next_run, missing_rows):
            return replace(self._adopt(outcome, next_run, listing), to_close=tuple(run.run for run in to_close))
        retried = counts.failed - sum(counts.held_back.values())
        outcome = replace(outcome, new=counts.missing - retried, retried=retried, audio_s=counts.missing_s)
        if self.dry_run:
            shards = self.writer.count_shards(missing_rows.read_indices(), counts)
            return self._estimate(replace(outcome, shards=shards, to_close=tuple(run.run for run in to_close)), listing)
        self._probe()
        run = f"{prefix}-{listing.next_number(prefix)}"
        if to_close:
            going_on = [other.run for other in listing.unfinished if other not in to_close]
            self._close_runs(to_close, closed_by=going_on[0] if going_on else run)
            return None
        plan = self.writer.write(run, listing.last_order + 1, fingerprint, missing_rows.read_indices(), counts)
        if plan is None:
            return None
        refuse_gate(self.store)
        self._write_invalid_rows(plan)
        return self._estimate(replace(outcome, plan=plan, shards=len(plan.shards), audio_s=plan.audio_s), listing)

    def _write_manifest_rows(self, outcome: PlanOutcome, keys: ManifestKeys, listing: RunListing) -> None:
        """Write the keys of the whole manifest, unless the run has them: its planner may have been killed before it."""
        if outcome.plan is not None and outcome.plan.run not in listing.with_rows and not self.dry_run:
            self._probe()
            keys.write(outcome.plan.run)

    def _is_outdated(self, run: PlannedRun, missing_rows: MissingRows) -> bool:
        """Whether a row that the run has still to make was made by another: an earlier release let two runs overlap."""
        if run.order or run.plan is None:
            return False
        self.history.write_pending_keys(run.plan, run.pending)
        return missing_rows.count_made_pending() > 0

    def _probe(self) -> None:
        """Check once, before anything is written, that the store can be written to and knows put-if-absent."""
        if not self._probed:
            self.store.probe()
            self._probed = True

    def _write_unwritten_plan(self, listing: RunListing) -> None:
        """Finish what a planner that was killed has begun: copy the latest run's plan from its order entry."""
        if listing.unwritten is not None and not self.dry_run:
            self._probe()
            write_plan_file(self.store, *listing.unwritten)

    def _close_runs(self, runs: Sequence[PlannedRun], closed_by: str) -> None:
        self._probe()
        info = read_dataset_info(self.store) or self.manifest.info
        for run in runs:
            close_run(self.store, info, run, closed_by, self.on_shards_closed)

    def _run_prefix(self, fingerprint: str) -> str:
        """Return the run's name without its number: a hash of the rows, in any order, the model and the encoding."""
        parts = [fingerprint, self.checkpoint.identity, self.job.audio.canonical()]
        return "r" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def _is_published(self, run: PlannedRun) -> bool:
        """Whether a driver of the run lived to write the dataset's card after it."""
        report = None if run.closing else read_report(self.store, run.run)
        return run.closing or (report is not None and bool(report.published_at))

    def _adopt(self, outcome: PlanOutcome, run: PlannedRun, listing: RunListing) -> PlanOutcome:
        """Return the outcome where a run that is planned already goes on."""
        plan, pending = run.plan, run.pending
        assert plan is not None
        if pending and not self.dry_run:
            refuse_gate(self.store)
            self._probe()
            self._write_invalid_rows(plan)
        return self._estimate(
            replace(
                outcome,
                plan=plan,
                new=sum(plan.shard_rows(shard) for shard in pending),
                shards=len(pending),
                audio_s=sum(plan.shard_audio_s(shard) for shard in pending),
                adopted=True,
            ),
            listing,
        )

    def _write_invalid_rows(self, plan: Plan) -> None:
        if self.manifest.spill.invalid:
            write_invalid_rows(self.store, plan, self.manifest.spill.invalid_path, self.folder)

    def _estimate(self, outcome: PlanOutcome, listing: RunListing) -> PlanOutcome:
        ranks = listing.ranks()
        estimate = estimate_run(
            self.store,
            sorted(ranks, key=lambda run: ranks[run], reverse=True),
            self.checkpoint.identity,
            self.checkpoint.spec,
            self.writer.actors,
            outcome.shards,
            outcome.audio_s,
        )
        return replace(outcome, estimate=estimate)
