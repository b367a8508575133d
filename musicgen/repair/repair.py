"""Repairs a dataset: makes again what a deep verification names, by key, and touches nothing else.

docs/commit.md says why this is safe beside runs: a lost part is put if absent, as an actor does; a damaged object is
replaced on condition that it is still the one that was read.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.card import make_card, publish_card
from musicgen.dataset.derived_verification import is_ruined_table
from musicgen.dataset.gc_gate import put_gate, refuse_gate, release_gate
from musicgen.dataset.huggingface_table import TABLES
from musicgen.dataset.info import InfoDamaged
from musicgen.dataset.reader import Dataset, open_dataset
from musicgen.dataset.verification import verify_dataset
from musicgen.dataset.verification_report import Fault
from musicgen.errors import JobError, MusicGenError, StoreDenied, StoreUnavailable
from musicgen.families.family import GenerationEngine
from musicgen.plan.planned_runs import load_plan
from musicgen.repair.clip_maker import EngineFactory, find_run_checkpoint, load_run_engine
from musicgen.repair.document_repair import NotMended, mend_plan, mend_report, turn_bit_back
from musicgen.repair.info_repair import mend_info
from musicgen.repair.manifest_repair import CheckpointFinder, ManifestRepair
from musicgen.repair.note_repair import mend_note, mend_removed
from musicgen.repair.repair_report import Mending, RepairReport
from musicgen.repair.shard_repair import ShardRepair
from musicgen.storage import open_store

# Of what is mended before shards, which need the plans.
_ORDER = ("info", "plan", "manifest", "failures", "report", "removed")
Progress = Callable[[int, int | None], None]


def repair_dataset(
    dataset: Dataset,
    other_bits: bool = False,
    dry_run: bool = False,
    on_verified: Progress | None = None,
    on_clip: Progress | None = None,
    make_engine: EngineFactory = load_run_engine,
    find_checkpoint: CheckpointFinder = find_run_checkpoint,
) -> RepairReport:
    """Verify a dataset deeply, and make good what is named.

    A clip whose audio comes out with another sha256 is refused, unless `other_bits`. With `dry_run` nothing is written.
    `on_verified` and `on_clip` are called with the rows verified and the clips made again so far, and how many there
    are, if that is known. Raises `StoreError`: the store knows no If-Match, or cannot be used; `JobError` while
    `musicgen gc` deletes.
    """
    if not dry_run:
        refuse_gate(dataset.store)
    verification = verify_dataset(dataset, deep=True, progress=on_verified)
    report = RepairReport(dataset.uri, dry_run, verification.fault_count)
    if verification.sound:
        return report
    if not dry_run:
        dataset.store.probe_replacing()
    # Other bits are audio under names that nothing names until the part is replaced, and that gc would delete.
    gate = put_gate(dataset.store, "repair") if other_bits and not dry_run else None
    repair = _Repair(dataset, report, other_bits, dry_run, on_clip, make_engine, find_checkpoint)
    try:
        repair.mend_all(verification.faults)
    finally:
        repair.close()
        if gate is not None:
            release_gate(dataset.store, gate)
    return report


def open_repairable(uri: str, dry_run: bool = False) -> tuple[Dataset, Mending | None]:
    """Open a dataset; if its `dataset.json` is lost or cannot be read, mend that first, and say so.

    Raises `JobError` if it cannot be made again, or with `dry_run`.
    """
    try:
        return open_dataset(uri), None
    except InfoDamaged:
        store = open_store(uri)
        if dry_run:
            raise
        store.probe_replacing()
        try:
            action = "one bit turned back" if turn_bit_back(store, paths.INFO) else mend_info(store)
        except NotMended as error:
            raise JobError(f"{store.join(paths.INFO)} is lost or damaged, and {error}") from None
        return open_dataset(uri), Mending(paths.INFO, action)


@dataclass
class _Repair:
    """One repair. Runs one engine at a time."""

    dataset: Dataset
    report: RepairReport
    other_bits: bool
    dry_run: bool
    on_clip: Progress | None
    make_engine: EngineFactory
    find_checkpoint: CheckpointFinder
    _engine: tuple[str, GenerationEngine] | None = None
    _manifest: ManifestRepair | None = None
    _clips: int = field(default=0, init=False)

    def mend_all(self, faults: list[Fault]) -> None:
        """Mend documents first, then shards, then what is made from the index."""
        shards: dict[str, list[Fault]] = defaultdict(list)
        documents: dict[str, Fault] = {}
        is_derived = False
        for fault in faults:
            if fault.part is not None:
                shards[fault.part].append(fault)
            elif fault.kind in ("table", "card"):
                is_derived = True
                is_copy = paths.parse_run_keys(fault.location) or fault.location == paths.FOLDED_RUNS
                if not self.dry_run and (is_copy or is_ruined_table(self.dataset, fault.location)):
                    self.dataset.store.delete(fault.location)  # publishing puts it again, and not over another
            elif fault.kind == "duplicate":
                self._note(fault.location, "", "the key is in several parts; take all but one of the runs down")
            else:
                documents.setdefault(fault.location, fault)
                is_derived = is_derived or fault.kind == "removed"  # the card counts removed clips
        for fault in sorted(documents.values(), key=lambda fault: _ORDER.index(fault.kind)):
            self._attempt(fault.location, partial(self._mend_document, fault), _describe_document(fault))
        for path in sorted(shards):
            self._attempt(path, partial(self._mend_shard, path, shards[path]), "make it again from its run's plan")
        if is_derived or shards:
            self._attempt(paths.README, self._publish, "publish card and tables again")

    def close(self) -> None:
        """Stop the engine, and delete temporary files."""
        if self._manifest is not None:
            self._manifest.close()
            self._manifest = None
        if self._engine is not None:
            self._engine[1].close()
            self._engine = None

    def _attempt(self, path: str, mend: Callable[[], str], plan: str) -> None:
        """Mend one object, or say what would be done; a fault that cannot be mended does not stop the others."""
        if self.dry_run:
            self._note(path, plan)
            return
        try:
            self._note(path, mend())
        except (StoreUnavailable, StoreDenied):
            raise
        except (NotMended, MusicGenError, OSError, ValueError, KeyError, pa.ArrowException) as error:
            self._note(path, "", " ".join(str(error).split()) or type(error).__name__)

    def _note(self, path: str, action: str, failure: str = "") -> None:
        self.report.mendings.append(Mending(path, action, failure))

    def _mend_document(self, fault: Fault) -> str:
        path = fault.location
        if fault.kind == "plan":
            return mend_plan(self.dataset, path)
        if fault.kind == "report":
            is_report = path.endswith("/report.json") or "/sessions/" in path
            return mend_report(self.dataset, path) if is_report else mend_note(self.dataset, path)
        if fault.kind == "info":
            return "one bit turned back" if turn_bit_back(self.dataset.store, path) else mend_info(self.dataset.store)
        if fault.kind == "removed":
            return mend_removed(self.dataset, path)
        run = path.split("/")[1]
        if self._manifest is None or self._manifest.plan.run != run:
            if self._manifest is not None:
                self._manifest.close()
            self._manifest = ManifestRepair(self.dataset, load_plan(self.dataset.store, run), self.find_checkpoint)
        return self._manifest.mend(path)

    def _mend_shard(self, path: str, faults: list[Fault]) -> str:
        run, _ = paths.parse_index_part(path) or ("", 0)
        plan = load_plan(self.dataset.store, run)
        repair = ShardRepair(
            self.dataset, plan, path, faults, lambda: self._find_engine(run), self.other_bits, self._count_clip
        )
        return repair.mend()

    def _find_engine(self, run: str) -> GenerationEngine:
        """Return the engine of a run, which is kept for its next shard."""
        if self._engine is None or self._engine[0] != run:
            self.close()
            if self.on_clip is not None:
                self.on_clip(self._clips, None)  # loading the model takes its time
            self._engine = run, self.make_engine(self.dataset, load_plan(self.dataset.store, run))
        return self._engine[1]

    def _count_clip(self) -> None:
        self._clips += 1
        if self.on_clip is not None:
            self.on_clip(self._clips, None)

    def _publish(self) -> str:
        """Write card and tables again; a mark of the card that lost one bit, or its end, gets it back first."""
        store = self.dataset.store
        for path in (paths.README, paths.README_BESIDE):
            with suppress(FileNotFoundError):
                content = store.read(path)
                if b"<!-- musicgen:begin" not in content and turn_bit_back(store, path):
                    continue
                if b"<!-- musicgen:end" not in content:
                    whole = make_card(self.dataset).complete(content.decode("utf-8", "replace"))
                    if whole is not None:
                        store.write(path, whole.encode())
        card = publish_card(self.dataset)
        if card.path is None:
            raise NotMended("; ".join(card.notes))
        tables = [path for path in TABLES if self.dataset.store.exists(path)]
        return f"published again, with {' and '.join(tables) or 'no table'}"


def _describe_document(fault: Fault) -> str:
    if fault.kind == "plan":
        return "copy it from the other copy of the plan"
    return "make it again, or turn back the bit that was changed"
