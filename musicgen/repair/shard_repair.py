"""Mends one shard: its clips, its index part, its failures file and its tar, from the run's own plan."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import uuid4

import pyarrow as pa

from musicgen.audio import encode_audio
from musicgen.clip import Clip
from musicgen.dataset import paths
from musicgen.dataset.index_batch import take_carried
from musicgen.dataset.index_part import Footer
from musicgen.dataset.part_rewriter import OtherBits, PartRewriter
from musicgen.dataset.reader import Dataset
from musicgen.dataset.salvaged_part import SalvagedPart, salvage_part
from musicgen.dataset.schema import FAILURES
from musicgen.dataset.verification_report import Fault
from musicgen.errors import RowError
from musicgen.families.family import GenerationEngine
from musicgen.job_sections import AudioSettings
from musicgen.plan import read_shard
from musicgen.plan.closing import close_run
from musicgen.plan.planned_runs import list_runs
from musicgen.repair.clip_maker import make_clips
from musicgen.repair.document_repair import NotMended, put_document, turn_bit_back
from musicgen.run_plan import Plan
from musicgen.shard import ShardRows
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.parquet_writer import encode_parquet
from musicgen.value_types import TableRow

_PART_KINDS = ("index",)
_CLIP_KINDS = ("missing", "size", "sha256", "decode", "duration", "rate", "channels", "samples", "storage", "tar")


@dataclass
class ShardRepair:
    """Mends a shard of the run of `plan`. `on_clip` is called after each clip that is made again."""

    dataset: Dataset
    plan: Plan
    part_path: str
    faults: Sequence[Fault]
    find_engine: Callable[[], GenerationEngine]
    other_bits: bool = False
    on_clip: Callable[[], None] = lambda: None
    _deleted: int = field(default=0, init=False)  # rows of the shard that are in no index any more

    def mend(self) -> str:
        """Make good what the faults name; returns what was done. Raises `NotMended`, `OtherBits` or `StoreError`."""
        kinds = {fault.kind for fault in self.faults}
        is_part_sound = kinds.isdisjoint(_PART_KINDS)
        if not is_part_sound and turn_bit_back(self.dataset.store, self.part_path):
            return "one bit turned back"
        run, shard = paths.parse_index_part(self.part_path) or ("", 0)
        if not is_part_sound and self.dataset.store.exists(paths.superseded_note(run)):
            return self._close_again(run)
        rows = self._read_rows(shard)
        old = salvage_part(self.dataset, self.part_path, rows.keys)
        if is_part_sound and kinds == {"failures"}:
            return self._write_failures(rows, old)
        layout = self.dataset.info.layout
        if is_part_sound and layout == "files":
            with suppress(OtherBits):
                return self._write_files(rows, old)
        return self._rewrite(rows, old, keep_part=is_part_sound and layout == "webdataset")

    def _read_rows(self, shard: int) -> ShardRows:
        """Read the shard's rows, without those whose clips `musicgen gc` has deleted or is deleting."""
        rows = read_shard(self.dataset.store, self.plan, shard)
        entries = self.dataset.tombstones().of_parts.get((rows.run, shard), {})
        deleted = {key for key, entry in entries.items() if entry.state in ("deleting", "deleted")}
        kept = [position for position, key in enumerate(rows.keys) if key not in deleted]
        self._deleted = len(rows) - len(kept)
        return replace(
            rows,
            requests=[rows.requests[position] for position in kept],
            keys=[rows.keys[position] for position in kept],
            sources=[rows.sources[position] for position in kept],
            carried=take_carried(rows.carried, kept),
        )

    def _close_again(self, run: str) -> str:
        """Close a shard of a run that was superseded, whose rows a later run may have made, or will make."""
        listed = list_runs(self.dataset.store).runs[run]
        if not listed.pending:
            raise NotMended("its run was superseded; the part cannot be told from one that was closed")
        close_run(self.dataset.store, self.dataset.info, listed, closed_by=run)
        return "closed again: its run was superseded; rows that no other run has made are planned anew"

    def _write_files(self, rows: ShardRows, old: SalvagedPart) -> str:
        """Make the files of the clips that the faults name, and nothing else. Raises `OtherBits`."""
        wanted = {fault.key for fault in self.faults}
        positions = [position for position, key in enumerate(rows.keys) if key in wanted]
        audio = AudioSettings.model_validate(self.plan.job["audio"])
        for number, outcome in make_clips(self.find_engine(), [rows.requests[position] for position in positions]):
            key = rows.keys[positions[number]]
            if isinstance(outcome, RowError):
                raise NotMended(f"{key} cannot be made again: {outcome}")
            encoded = encode_audio(outcome.audio, outcome.sample_rate, audio.format, audio.loudness_lufs)
            row = old.rows[key]
            if encoded.sha256 != row["audio_sha256"]:
                raise OtherBits(key)
            self.dataset.store.write(row["audio"], encoded.data)
            self.on_clip()
        return "1 audio file made again" if len(positions) == 1 else f"{len(positions)} audio files made again"

    def _rewrite(self, rows: ShardRows, old: SalvagedPart, keep_part: bool) -> str:
        """Make the whole shard again, but for rows that are known to have failed."""
        failures = self._read_failures(rows, old)
        attempt = old.attempt or f"repair-{uuid4().hex[:8]}"
        positions = [position for position, key in enumerate(rows.keys) if key not in failures]
        engine = self.find_engine() if positions else None
        with PartRewriter(
            self.dataset.store,
            rows,
            AudioSettings.model_validate(self.plan.job["audio"]),
            self.plan.model,
            engine.fingerprint if engine else "",
            old,
            attempt,
            f"repaired: {self.faults[0].description}",
            self.other_bits,
            keep_part,
            self._deleted,
        ) as writer:
            writer.failure_times = {key: row["created_at"] for key, row in failures.items()}
            for position, key in enumerate(rows.keys):
                if key in failures:
                    row = failures[key]
                    writer.fail(position, RowError(row["error_class"], row["error"]), row["attempts"])
            for number, outcome in make_clips(engine, [rows.requests[at] for at in positions]) if engine else ():
                if isinstance(outcome, Clip):
                    writer.add(positions[number], outcome)
                else:
                    writer.fail(positions[number], outcome)
                self.on_clip()
            committed = writer.commit()
        if committed.closed_by:
            raise NotMended(f"run {committed.closed_by} has closed the shard meanwhile, and plans its rows anew")
        return "made again from the run's plan"

    def _read_failures(self, rows: ShardRows, old: SalvagedPart) -> dict[str, TableRow]:
        """Read the failed rows of the shard, as far as their file can be read, by key."""
        path = _find_failures(old, self.plan.run, rows.shard)
        if path is None:
            return {}
        try:
            with self.dataset.store.open(path) as file:
                failed = {row["key"]: row for row in ParquetReader(file).read().to_pylist()}
        except (FileNotFoundError, pa.ArrowException, ValueError, OSError):
            failed = {}
        made = old.rows
        lost = [key for key in rows.keys if key not in made and key not in failed] if old.footer and made else []
        return failed | {key: self._describe_lost(rows, key) for key in lost}

    def _write_failures(self, rows: ShardRows, old: SalvagedPart) -> str:
        """Make the failures file again: the rows of the plan that the part does not have."""
        path = _find_failures(old, self.plan.run, rows.shard)
        if path is None:
            raise NotMended("the part names no failures file")
        if turn_bit_back(self.dataset.store, path):
            return "one bit turned back"
        failed = self._read_failures(rows, old)
        ordered = [failed[key] for key in rows.keys if key in failed]
        put_document(self.dataset.store, path, encode_parquet(pa.Table.from_pylist(ordered, schema=FAILURES)))
        return "made again from the run's plan; why the rows failed is lost"

    def _describe_lost(self, rows: ShardRows, key: str) -> TableRow:
        position = rows.keys.index(key)
        return {
            "key": key,
            "id": rows.requests[position].id,
            "prompt": rows.requests[position].prompt,
            "source": rows.sources[position],
            "error_class": "generation",
            "error": "why it failed is not known any more: the failures file was damaged",
            "attempts": 1,
            "run": rows.run,
            "shard": rows.shard,
            "created_at": datetime.now(UTC),
        }


def _find_failures(old: SalvagedPart, run: str, shard: int) -> str | None:
    footer: Footer | None = old.footer
    if footer is not None:
        return footer.failures
    return paths.failures_part(run, shard, old.attempt) if old.attempt else None
