"""Computes the progress of each run from its plan and its counts, without reading rows."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass

from musicgen.dataset import paths
from musicgen.dataset.driver_token import DriverToken, read_living_drivers
from musicgen.dataset.folded_runs import FoldedRun, fold_runs, read_folded_runs
from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_keys import (
    KeysFooter,
    PartDamaged,
    RunCounts,
    find_run_keys,
    group_parts,
    read_keys_footer,
    write_run_keys,
)
from musicgen.dataset.run_report import RunReport, is_priced, read_report, write_report
from musicgen.dataset.visible_rows import HiddenRows
from musicgen.parallel import map_ordered
from musicgen.run_plan import PLAN_VERSION, Plan, PlanOutline
from musicgen.storage import FileInfo, Store
from musicgen.temporary_folder import temporary_folder

_THREADS = 16
_NOT_TOLD = ("audio_bytes", "tars", "beyond_int64")  # by `--json`


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run in rows.

    `missing` are planned and neither made nor failed nor `closed`: a closed row is not made by this run any more, but
    planned anew by the run that closed its shard, `closed_by`, or a later one. `invalid` were refused while planning.
    `removed` were made and have been removed since; `hidden` of them are still in the index.
    """

    run: str
    planned: int
    made: int
    failed: int
    missing: int
    invalid: int
    shards: int
    committed: int
    audio_s: float
    model: str | None
    model_revision: str | None
    superseded: bool = False  # it is closed, or being closed: nobody goes on with it
    closed: int = 0
    closed_by: str | None = None
    created_at: str = ""  # ISO 8601, UTC: when it was planned; empty if its plan is gone
    audio_bytes: int | None = None  # of its clips; None: not counted
    drivers: tuple[DriverToken, ...] = ()  # at work on it now; looked for only if it is not finished
    removed: int = 0
    hidden: int = 0
    tars: int = 0  # that its parts name (layout webdataset, since version 2)
    cost: float | None = None  # of its actors so far; None if its job was planned without a price
    beyond_int64: tuple[str, ...] | None = None  # its columns with unsigned numbers beyond int64; None: not known

    @property
    def finished(self) -> bool:
        """Return whether no row is missing."""
        return self.missing == 0

    @property
    def state(self) -> str:
        """Return in a word or two how it is with the run."""
        if self.drivers:
            return "running"
        if self.closed_by or self.superseded:
            return "closed" if self.finished else "being closed"
        return "complete" if self.finished else "unfinished"

    def to_json(self) -> dict[str, object]:
        """Return the status as values for `--json`."""
        drivers = [
            {"host": driver.host, "started_at": driver.started_at, "progress": driver.progress}
            for driver in self.drivers
        ]
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_TOLD}
        return {**values, "state": self.state, "drivers": drivers}


def run_statuses(dataset: Dataset) -> list[RunStatus]:
    """Compute the status of every run, in the order of names. A finished run costs its file of keys, and its report, if
    it has a price; those that are folded cost one object in all."""
    files = {info.path: info for info in dataset.store.list(paths.RUNS)}
    parts = group_parts(dataset.part_files())
    run_keys = find_run_keys(parts, files)
    folded = read_folded_runs(dataset.store, files.get(paths.FOLDED_RUNS))
    hidden = dataset.measure_hidden()
    planned = {run for path in files if (run := paths.parse_plan(path))}
    runs = sorted(run for run in planned | parts.keys() if dataset.only_run in (None, run))

    def compute(run: str) -> RunStatus:
        key_file, plan_file = run_keys.get(run), files.get(paths.plan_file(run))
        folded_run = folded.find(run, key_file)
        counts, content = _read_counts(dataset, run, key_file, folded_run)
        is_known = content is not None and plan_file is not None and len(content) == plan_file.size
        outline, plan = _read_plan(dataset, run, content if is_known else None) if plan_file else (None, None)
        report_file = files.get(paths.report_file(run))
        cost = _find_cost(dataset.store, folded_run, report_file) if plan and is_priced(plan.job) else None
        is_superseded = paths.superseded_note(run) in files
        return _run_status(dataset, counts, outline, plan, is_superseded, hidden.get(run, HiddenRows()), cost)

    return list(map_ordered(compute, runs, threads=_THREADS))


def sum_audio_bytes(runs: Iterable[RunStatus]) -> int | None:
    """Return the bytes of audio of these runs; None if those of one were not counted."""
    total = 0
    for run in runs:
        if run.audio_bytes is None:
            return None
        total += run.audio_bytes
    return total


def write_missing_run_keys(dataset: Dataset) -> None:
    """Put the file of keys of each finished run that has none: of this run, and of earlier ones that nobody published.

    A run with a damaged part gets none. A run that has such a file has a report too, or verification calls that lost.
    Then the files of many runs are folded (`musicgen.dataset.folded_runs`).
    """
    files = {info.path: info for info in dataset.store.list(paths.RUNS)}
    parts = group_parts(dataset.part_files())
    planned = {run for path in files if (run := paths.parse_plan(path))}
    run_keys = find_run_keys(parts, files)
    with temporary_folder() as folder:
        for run in (parts.keys() | planned) - run_keys.keys():
            content = dataset.store.read(paths.plan_file(run)) if run in planned else None
            if content is None or len(own := parts.get(run, [])) < len(PlanOutline.from_json(content).shard_rows):
                continue
            _, plan = _read_plan(dataset, run, content)
            if plan is not None and paths.report_file(run) not in files:  # its driver was killed before it
                write_report(dataset.store, RunReport(run, plan.job, asdict(plan.model)))
            with suppress(PartDamaged):
                write_run_keys(dataset.store, run, own, content, folder)
    fold_runs(dataset.store, parts)


def _read_counts(dataset: Dataset, run: str, key_file: FileInfo | None, folded_run: FoldedRun | None) -> KeysFooter:
    """Return the counts of a run, and the text of its plan, if that is stored with them."""
    if folded_run is not None:
        return KeysFooter(folded_run.counts, folded_run.plan)
    footer = read_keys_footer(dataset.store, key_file) if key_file is not None else None
    if footer is None:
        own = Dataset(dataset.store, dataset.info, run)
        footer = KeysFooter(RunCounts.of(run, [footer for _, footer in own.footers()]))
    return footer


def _find_cost(store: Store, folded_run: FoldedRun | None, report_file: FileInfo | None) -> float | None:
    """Return what a run's actors have cost, from its report as it is."""
    if report_file is None:
        return None
    if folded_run is not None and folded_run.report == report_file.etag:
        return folded_run.cost
    report = read_report(store, report_file.path.split("/")[1])
    return report.cost if report is not None else None


def _run_status(
    dataset: Dataset,
    counts: RunCounts,
    outline: PlanOutline | None,
    plan: Plan | None,
    is_superseded: bool,
    hidden: HiddenRows,
    cost: float | None,
) -> RunStatus:
    run, model = counts.run, plan and plan.model
    planned = outline.rows if outline else counts.rows
    missing = max(0, planned - counts.made - counts.failed - counts.closed - counts.removed)
    return RunStatus(
        run=run,
        planned=planned,
        made=counts.made - hidden.rows,
        failed=counts.failed,
        missing=missing,
        invalid=outline.invalid if outline else 0,
        shards=len(outline.shard_rows) if outline else counts.parts,
        committed=counts.parts - counts.closed_parts,
        audio_s=round(counts.audio_s - hidden.audio_s, 6),
        model=model.name if model else None,
        model_revision=model.revision if model else None,
        superseded=is_superseded,
        closed=counts.closed,
        closed_by=counts.closed_by,
        created_at=outline.created_at if outline else "",
        audio_bytes=counts.audio_bytes if counts.audio_bytes or not counts.made else None,
        drivers=tuple(read_living_drivers(dataset.store, run)) if missing else (),
        removed=counts.removed + hidden.rows,
        hidden=hidden.rows,
        tars=counts.tars,
        cost=cost,
        beyond_int64=counts.beyond_int64,
    )


def _read_plan(dataset: Dataset, run: str, content: bytes | None = None) -> tuple[PlanOutline | None, Plan | None]:
    """Read the run's plan, if its `content` is not known; None if it is missing.

    Only its outline if a later release planned it. Raises `StoreError` if it is damaged.
    """
    try:
        content = content or dataset.store.read(paths.plan_file(run))
    except FileNotFoundError:
        return None, None
    outline = PlanOutline.from_json(content)
    return outline, Plan.from_json(content) if outline.version <= PLAN_VERSION else None
