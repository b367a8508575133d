"""Checks what the runs have beside the index (plans, manifests, failures, reports), and which parts are lost."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from musicgen.dataset import paths
from musicgen.dataset.part_verification import describe_failures
from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_report import RunReport, name_session, read_report, read_sessions
from musicgen.dataset.verification_report import Fault
from musicgen.dataset.whole_file import describe_json_damage, describe_parquet_damage, open_whole, read_patiently
from musicgen.errors import StoreError
from musicgen.run_plan import PLAN_VERSION, PlanOutline
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.patience import SHORT_PATIENCE_S, wait_for_store


@dataclass
class _RunFiles:
    """The names of what is stored of the runs."""

    files: set[str] = field(default_factory=set)  # below runs/
    orders: dict[int, str] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)  # the files of keys, by run
    parts: dict[str, set[int]] = field(default_factory=dict)  # the shards that are settled, by run

    @classmethod
    def list(cls, dataset: Dataset) -> "_RunFiles":
        """List what lies below runs/ and which shards are settled."""
        names = cls()
        for file_info in dataset.store.list(paths.RUNS):
            names.files.add(file_info.path)
            if (number := paths.parse_order_entry(file_info.path)) is not None:
                names.orders[number] = file_info.path
            elif parsed := paths.parse_run_keys(file_info.path):
                names.keys.setdefault(parsed[0], []).append(file_info.path)
        for path in Dataset(dataset.store, dataset.info).parts():
            run, shard = paths.parse_index_part(path) or ("", 0)
            names.parts.setdefault(run, set()).add(shard)
        return names


def check_info(dataset: Dataset, deep: bool) -> Iterator[Fault]:
    """Yield a fault of `dataset.json`, if it has one."""
    damage = describe_json_damage(read_patiently(dataset.store, paths.INFO), dataset.info.has_own_checksums)
    if deep and damage:
        yield Fault("info", paths.INFO, damage)


def check_runs(dataset: Dataset, deep: bool, folder: Path) -> Iterator[Fault]:
    """Yield the faults of all runs, or of the dataset's `only_run`."""
    names = _RunFiles.list(dataset)
    outlines: dict[str, PlanOutline] = {}
    contents: dict[str, bytes] = {}
    for path in (*sorted(path for path in names.files if paths.parse_plan(path)), *names.orders.values()):
        content = read_patiently(dataset.store, path)
        try:
            outline = PlanOutline.from_json(content)
        except StoreError as error:
            yield Fault("plan", path, f"the plan cannot be read: {error}")
            continue
        if damage := describe_json_damage(content, dataset.info.has_own_checksums):
            yield Fault("plan", path, damage)
            continue
        contents[path] = content
        outlines.setdefault(outline.run, outline)
    for run, outline in outlines.items():
        if dataset.only_run in (None, run):
            yield from _check_copies(outline, names, contents)
            yield from _check_run(dataset, outline, names, deep, folder)
    if deep and paths.FOLDED_RUNS in names.files and (damage := _describe_manifest(dataset, paths.FOLDED_RUNS, folder)):
        yield Fault("table", paths.FOLDED_RUNS, damage)
    if deep and dataset.info.has_own_checksums:  # of earlier releases, some were empty
        removed = (file_info.path for file_info in dataset.store.list(paths.REMOVED))
        yield from _check_notes(dataset, [*names.files, *removed])


def _check_copies(outline: PlanOutline, names: _RunFiles, contents: dict[str, bytes]) -> Iterator[Fault]:
    """Compare a run's `plan.json` with its entry of the order, of which it is a copy."""
    plan, entry = paths.plan_file(outline.run), paths.order_entry(outline.order)
    if plan not in names.files and outline.run in names.parts:
        yield Fault("plan", plan, f"the plan is missing; {entry} has a copy")
    elif outline.order and names.orders and entry not in names.files:
        yield Fault("plan", entry, f"the entry is missing; {plan} has a copy")
    elif plan in contents and contents.get(entry, contents[plan]) != contents[plan]:
        yield Fault("plan", plan, f"it is not what {entry} holds")


def _check_run(dataset: Dataset, outline: PlanOutline, names: _RunFiles, deep: bool, folder: Path) -> Iterator[Fault]:
    """Check a run's manifest, the rows that were refused, and that its shards have parts, if it is finished."""
    run, settled = outline.run, names.parts.get(outline.run, set())
    for path in outline.manifest_files:
        if path not in names.files:
            if settled or paths.plan_file(run) in names.files:  # else it was removed by hand, and does not count
                yield Fault("manifest", path, "the file of the run's manifest is missing")
        elif deep and (damage := _describe_manifest(dataset, path, folder)):
            yield Fault("manifest", path, damage)
    path = paths.manifest_rows(run)
    if path not in names.files:
        # Runs of earlier releases have none, and a planner may have been killed before it, and its run been closed.
        if settled and dataset.info.has_own_checksums and paths.superseded_note(run) not in names.files:
            yield Fault("manifest", path, "the keys of the run's manifest are missing")
    elif deep and (damage := _describe_manifest(dataset, path, folder)):
        yield Fault("manifest", path, damage)
    for path in names.keys.get(run, ()):
        if deep and (damage := _describe_manifest(dataset, path, folder)):
            yield Fault("table", path, damage)
    if outline.invalid and settled:  # they are written before the run's first shard is made
        path = paths.plan_failures(run)
        if damage := describe_failures(dataset, path, None, deep, folder):
            yield Fault("failures", path, damage)
    yield from _check_report(dataset, outline, names, deep)
    if len(settled) >= _count_expected(dataset, outline, names):
        return
    for shard in range(len(outline.shard_rows)):
        if shard not in settled:
            path = paths.index_part(run, shard)
            yield Fault("index", path, f"the part is missing, with {outline.shard_rows[shard]} rows", path)


def _check_report(dataset: Dataset, outline: PlanOutline, names: _RunFiles, deep: bool) -> Iterator[Fault]:
    """Yield a fault if the report of a published run is lost, or one of the sessions that it adds up."""
    run, path = outline.run, paths.report_file(outline.run)
    if not dataset.info.has_own_checksums or outline.version > PLAN_VERSION:
        return
    if path not in names.files:
        if run in names.keys:  # which are put after it
            yield Fault("report", path, "the run's report is missing")
    elif deep:
        report = wait_for_store(lambda: read_report(dataset.store, run), SHORT_PATIENCE_S)
        stored = wait_for_store(lambda: read_sessions(dataset.store, run), SHORT_PATIENCE_S)
        for session in report.sessions if report is not None else ():
            name = name_session(run, session)
            if session not in stored and name not in names.files:
                yield Fault("report", name, f"the session of {session.started_at} is missing; {path} has it")


def _count_expected(dataset: Dataset, outline: PlanOutline, names: _RunFiles) -> int:
    """Return how many parts a run has if none is lost; 0 if it is not finished, as far as is known."""
    # docs/commit.md: the next one is planned when it is finished, and only finished ones have a file of keys.
    if 0 < outline.order < max(names.orders, default=0) or outline.run in names.keys:
        return len(outline.shard_rows)
    try:
        report = RunReport.from_json(read_patiently(dataset.store, paths.report_file(outline.run)))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0  # not published yet; a damaged one is a fault by itself
    if report.parts or not report.published_at:
        return report.parts
    totals = report.totals()  # an earlier release did not count the parts
    settled_rows = sum(count for name in ("made", "failed") if isinstance(count := totals[name], int))
    return len(outline.shard_rows) if settled_rows >= outline.rows else 0


def _describe_manifest(dataset: Dataset, path: str, folder: Path) -> str | None:
    try:
        with open_whole(dataset.store, path, folder) as file:
            if damage := describe_parquet_damage(file, dataset.info.has_own_checksums):
                return damage
            for _ in ParquetReader(file).iter_batches():
                pass
    except (pa.ArrowException, ValueError, OSError) as error:
        return f"the file of the run's manifest cannot be read: {error}"
    return None


def _check_notes(dataset: Dataset, files: Iterable[str]) -> Iterator[Fault]:
    """Check reports, sessions, numbers of slots, notes and tokens: JSON that nobody needs to read the dataset."""
    for path in sorted(files):
        is_of_run = dataset.only_run is None or path.startswith(f"{paths.RUNS}/{dataset.only_run}/")
        is_json = path.endswith(".json") or path.rpartition("/")[0].endswith("/drivers")
        if not is_json or not is_of_run or paths.parse_plan(path) or paths.parse_order_entry(path) is not None:
            continue
        try:
            content = read_patiently(dataset.store, path)
            json.loads(content)
        except FileNotFoundError:  # the token of a driver that has just ended
            continue
        except ValueError as error:
            yield Fault("report", path, f"it cannot be read: {error}")
            continue
        if damage := describe_json_damage(content, dataset.info.has_own_checksums):
            yield Fault("report", path, damage)
