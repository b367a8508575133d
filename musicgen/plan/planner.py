"""Planning: from a manifest and what the dataset has to a frozen run of what is missing."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.info import DatasetInfo, check_dataset_info, read_dataset_info, write_dataset_info
from musicgen.dataset.run_report import read_report
from musicgen.dataset.schema import FAILURES, carried_name
from musicgen.errors import JobError, ManifestError, StoreError
from musicgen.job import Job
from musicgen.manifest.audio_hashes import AudioHashes
from musicgen.manifest.columns import ColumnMap
from musicgen.manifest.manifest import read_manifest
from musicgen.manifest.row import RowReader
from musicgen.plan.history import PlannedRun, load_plan, pending_shards, read_history
from musicgen.plan.keyed_rows import BatchParser
from musicgen.plan.keys import Keyer
from musicgen.plan.missing import MissingRows, RowCounts
from musicgen.plan.outcome import PlanOutcome
from musicgen.plan.shard_files import append_carried, write_manifest_parts
from musicgen.plan.shards import choose_limits, cut_shards, estimate_speed
from musicgen.plan.spill import Spill
from musicgen.run_plan import Plan, PlanPart
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
    speed: float | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    memory_mb: int = 1024,
) -> PlanOutcome:
    """Plan a job's run, or adopt the one that it left unfinished.

    Rows that failed before are planned again, those of class `crash` only if `retry_failed` holds it. `speed` is one
    actor's audio-seconds per second, if it is known. `progress` is called with the number of rows read so far. With
    `dry_run` nothing is written and the outcome's `plan` is only ever an adopted one. Raises `ManifestError`,
    `JobError` (another job's run is unfinished, the dataset is of another kind) and `StoreError`.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="musicgen-plan-", ignore_cleanup_errors=True) as name:
        planning = _Planning(job, checkpoint, store, Path(name), speed)
        planning.check_kind()
        planning.read(progress)
        outcome = planning.decide(dry_run, frozenset(retry_failed), memory_mb)
    return PlanOutcome(**{**outcome, "seconds": time.monotonic() - began})


class _Planning:
    """One planning, from the first row to the plan in the store."""

    def __init__(self, job: Job, checkpoint: "Checkpoint", store: Store, folder: Path, speed: float | None):
        self.job, self.checkpoint, self.store, self.folder = job, checkpoint, store, folder
        self.spec = checkpoint.spec
        self.speed = speed or estimate_speed(job, self.spec)
        self.spill = Spill(folder)
        self.names: dict[str, str] = {}
        self.carried = pa.schema([])

    def check_kind(self) -> None:
        """Refuse a dataset of another layout or format before the manifest is read."""
        existing = read_dataset_info(self.store)
        if existing is not None:
            check_dataset_info(
                self.store,
                DatasetInfo(self.job.audio.layout, self.job.audio.format, existing.carried, self.job.audio.codes),
            )

    def read(self, progress: Callable[[int, int | None], None] | None) -> None:
        """Read, check and key the whole manifest into the spill."""
        from musicgen.model.checkpoint.identity import cache_folder

        manifest, generation = self.job.manifest, self.job.generation
        columns = ColumnMap(manifest.columns, prompt_required=not generation.allow_unconditional)
        reader = RowReader(generation, self.spec, self.job.model.name)
        keyer = Keyer(self.spec.frame_rate, self.checkpoint.identity, self.job.audio.canonical(), generation.seed)
        with AudioHashes(manifest.melody_roots, cache_folder()) as conditions:
            parser = BatchParser(reader, keyer, conditions)
            done = 0
            for batch in read_manifest(manifest.uri, columns, manifest.limit, self.store.uri):
                for parsed in parser.parse(batch):
                    self.spill.add(batch, parsed)
                done += len(batch) + len(batch.unparsable)
                if progress:
                    progress(done, None)
        self.spill.close()
        self._settle_carried()

    def _settle_carried(self) -> None:
        """Names and types of the carried columns in the index: as the dataset fixes them, if there is one."""
        existing = read_dataset_info(self.store)
        pinned = dict(existing.carried) if existing else {}
        fields = []
        taken: set[str] = set()
        for field in self.spill.carried_schema(self.job.manifest.uri):
            name = carried_name(field.name, taken)
            taken.add(name)
            self.names[field.name] = name
            fields.append(pa.field(name, _pinned_type(pinned.get(name), field.type)))
        for name in pinned:  # JSON rows may all lack a key that other nights' rows have
            if name not in taken and self.spill.schemaless:
                kind = _pinned_type(pinned[name], pa.string())
                self.names[name] = name
                fields.append(pa.field(name, kind))
        order = {name: position for position, name in enumerate(pinned)}
        fields.sort(key=lambda field: order.get(field.name, len(order)))
        self.carried = pa.schema(fields)
        by_name = {target: source for source, target in self.names.items()}
        self.names = {by_name[field.name]: field.name for field in fields}
        self.info = DatasetInfo.of(self.job.audio.layout, self.job.audio.format, self.carried, self.job.audio.codes)
        check_dataset_info(self.store, self.info)
        if pinned:  # whether all values fit must be known before anything is written
            for _, rows in self.spill.read_batches():
                self.spill.carried_columns(rows, self.carried, self.names)

    def decide(self, dry_run: bool, retry_failed: frozenset[str], memory_mb: int) -> dict[str, Any]:
        """Compare with the dataset, and plan what is missing."""
        past = read_history(self.store, self.folder)
        with MissingRows(self.folder, memory_mb) as ledger:
            if self.spill.has_ids and (twice := ledger.find_repeated_id()):
                self._refuse_repeated(*twice)
            distinct, fingerprint = ledger.keep_distinct()
            counts = ledger.compare_with_dataset(retry_failed)
            stem = self._stem(fingerprint)
            said: dict[str, Any] = {
                "made": counts.made,
                "failed_before": counts.failed,
                "retried": counts.failed - counts.held_back,
                "held_back": counts.held_back,
                "invalid_count": self.spill.refused,
                "invalid": self.spill.first_invalid(INVALID_SHOWN),
                "duplicates": self.spill.rows - distinct,
            }
            ours = sorted((run.plan.number, name) for name, run in past.items() if name.rpartition("-")[0] == stem)
            open_ours = [name for _, name in ours if not past[name].finished]
            if open_ours:
                plan = past[open_ours[-1]].plan
                if not dry_run:
                    self.store.probe()
                    self._write_refusals(plan)
                return {**said, **self._adopted(plan, past[plan.run].pending)}
            if not counts.missing and not (self.spill.refused and ledger.count_new_invalid()):
                if ours and not self._is_published(past[ours[-1][1]]):
                    return {**said, **self._adopted(past[ours[-1][1]].plan, [])}
                return {**said, "plan": None, "new": 0, "retried": 0, "shards": 0, "audio_s": 0.0}
            others = [run for run in past.values() if not run.finished]
            self._check_alone(others, dry_run)
            said["new"] = counts.missing - counts.failed + counts.held_back
            run = f"{stem}-{ours[-1][0] + 1 if ours else 1}"
            if dry_run:
                return {**said, **self._previewed(ledger, counts)}
            return {**said, **self._planned(run, fingerprint, ledger, counts, past)}

    def _stem(self, fingerprint: str) -> str:
        """The run's name without its number: what is to be made, in whatever order and from whatever files."""
        parts = [fingerprint, self.checkpoint.identity, self.job.audio.canonical()]
        return "r" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def _is_published(self, run: PlannedRun) -> bool:
        """Whether a driver of the run lived to write the card."""
        report = None if run.superseded else read_report(self.store, run.plan.run)
        return run.superseded or (report is not None and bool(report.published_at))

    def _refuse_repeated(self, first: int, second: int) -> None:
        one, other = self.spill.read_row(first), self.spill.read_row(second)
        raise ManifestError(
            f"{other['source']}: repeats the id {one['id']!r} of {one['source']}; ids are unique in a manifest"
        )

    def _check_alone(self, others: list[PlannedRun], dry_run: bool) -> None:
        """Two different unfinished runs could make one clip twice: refuse, or close the others if the job says so."""
        if not others:
            return
        if self.job.output.supersede_unfinished:
            for run in [] if dry_run else others:
                note = {"superseded_at": _now(), "pending_shards": len(run.pending)}
                self.store.put_if_absent(paths.superseded_note(run.plan.run), json.dumps(note).encode())
            return
        run = others[0]
        raise JobError(
            f"{self.store.uri}: run {run.plan.run}, of another job or manifest, is unfinished ({len(run.pending)} of "
            f"{len(run.plan.shards)} shards are missing); run its job again to finish it, or, if it will never be, set "
            "output.supersede_unfinished=true to close it and plan its missing rows anew"
        )

    def _adopted(self, plan: Plan, pending: list[int]) -> dict[str, Any]:
        audio_s = sum(plan.shard_audio_s(shard) for shard in pending)
        return {
            "plan": plan,
            "new": sum(plan.shard_rows(shard) for shard in pending),
            "retried": 0,
            "shards": len(pending),
            "audio_s": audio_s,
            "adopted": True,
            "estimated_s": self._estimate(audio_s),
        }

    def _previewed(self, ledger: MissingRows, counts: RowCounts) -> dict[str, Any]:
        durations = (second for table in self._todo(ledger) for second in table["duration_s"].to_pylist())
        shards = sum(
            1
            for _ in cut_shards(
                durations, choose_limits(self.job, self.spec, counts.missing, counts.missing_s, self.speed)
            )
        )
        return {
            "plan": None,
            "shards": shards,
            "audio_s": counts.missing_s,
            "estimated_s": self._estimate(counts.missing_s),
        }

    def _planned(
        self, run: str, fingerprint: str, ledger: MissingRows, counts: RowCounts, past: dict[str, PlannedRun]
    ) -> dict[str, Any]:
        self.store.probe()
        write_dataset_info(self.store, self.info)
        limits = choose_limits(self.job, self.spec, counts.missing, counts.missing_s, self.speed)
        tables = (
            append_carried(rows, self.spill.carried_columns(rows, self.carried, self.names))
            for rows in self._todo(ledger)
        )
        parts: list[PlanPart] = []
        try:
            for part in write_manifest_parts(self.store, run, uuid4().hex[:12], tables, limits, self.folder):
                parts.append(part)
        except BaseException:  # interrupted, or the store failed: what nobody will read goes
            with suppress(StoreError):
                self._discard(parts)
            raise
        plan = Plan(
            run=run,
            number=int(run.rpartition("-")[2]),
            job=self.job.model_dump(mode="json"),
            model=PlannedModel(
                self.job.model.name, self.checkpoint.revision, self.checkpoint.identity, self.spec.frame_rate
            ),
            slots=self.job.cluster.slots,
            manifest_fingerprint=hashlib.sha256(fingerprint.encode()).hexdigest(),
            parts=tuple(parts),
            rows=counts.missing,
            audio_s=round(counts.missing_s, 3),
            longest_s=counts.longest_s,
            invalid=self.spill.refused,
            carried={field.name: str(field.type) for field in self.carried},
            created_at=_now(),
        )
        if not self.store.commit_if_absent(paths.plan_file(run), plan.to_json().encode()):
            self._discard(parts)
            plan = load_plan(self.store, run)  # somebody submitted the same job at the same moment
            return self._adopted(plan, pending_shards(self.store, plan))
        self._check_still_alone(plan, past)
        self._write_refusals(plan)
        return {
            "plan": plan,
            "shards": len(plan.shards),
            "audio_s": plan.audio_s,
            "estimated_s": self._estimate(plan.audio_s),
        }

    def _check_still_alone(self, plan: Plan, past: dict[str, PlannedRun]) -> None:
        """Another job may have planned between our look and our put.

        Each then sees the other, or the later one does.
        """
        if self.job.output.supersede_unfinished or not plan.shards:
            return
        for info in self.store.list(paths.RUNS):
            run = info.path.split("/")[1]
            if info.path != paths.plan_file(run) or run == plan.run or run in past:
                continue
            if len(load_plan(self.store, run).shards):
                self.store.put_if_absent(
                    paths.superseded_note(plan.run), json.dumps({"superseded_at": _now()}).encode()
                )
                raise JobError(
                    f"{self.store.uri}: run {run} of another job was planned at this moment; run this one when it "
                    "has finished"
                )

    def _todo(self, ledger: MissingRows) -> Iterator[pa.Table]:
        """The spilled rows that are to be made, in order."""
        pieces = ledger.read_places()
        places = next(pieces, None)
        for first, rows in self.spill.read_batches():
            chosen: list[np.ndarray] = []
            while places is not None:
                inside = int(np.searchsorted(places, first + rows.num_rows))
                chosen.append(places[:inside] - first)
                if inside < len(places):
                    places = places[inside:]
                    break
                places = next(pieces, None)
            taken = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
            if len(taken) == rows.num_rows:
                yield rows
            elif len(taken):
                yield rows.take(pa.array(taken))

    def _write_refusals(self, plan: Plan) -> None:
        """Rows refused while planning, for good; an adopter writes them if the planner died before it could."""
        path = paths.plan_failures(plan.run)
        if not self.spill.refused or self.store.exists(path):
            return
        temp = self.folder / "plan-failures.parquet"
        created_at = datetime.now(UTC)
        with pq.ParquetWriter(temp, FAILURES, compression="zstd") as writer:
            for batch in pq.ParquetFile(self.folder / "refused.parquet").iter_batches():
                values = dict(zip(batch.schema.names, batch.columns, strict=True))
                values["error"] = values.pop("reason")
                fixed = {"attempts": 0, "run": plan.run, "created_at": created_at}
                columns = [
                    values[field.name]
                    if field.name in values
                    else pa.repeat(pa.scalar(fixed.get(field.name), field.type), batch.num_rows)
                    for field in FAILURES
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=FAILURES))
        self.store.put_if_absent(path, temp)

    def _discard(self, parts: Iterable[PlanPart]) -> None:
        for part in parts:
            self.store.delete(part.path)

    def _estimate(self, audio_s: float) -> float:
        return audio_s / (self.speed * self.job.cluster.min_actors)


def _pinned_type(pinned: str | None, own: pa.DataType) -> pa.DataType:
    """The type that the dataset fixes, if it is another one that values could be cast to."""
    if pinned is None or pinned == str(own):
        return own
    try:
        return pa.type_for_alias(pinned)
    except ValueError:
        return own


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
