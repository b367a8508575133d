"""`runs/folded.parquet`: plans, keys and counts of many finished runs in one object, in place of their own.

What it has of a run is a copy of the run's key file and plan, and of the cost in its report. It counts as long as the
run's own key file, which is named by the run's parts as they are, is the one that was copied, the cost as long as the
report is. It decides nothing, so it may be older than other objects, or be missing; nothing that it was made of is
deleted.
"""

import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from musicgen.dataset import paths
from musicgen.dataset.run_keys import RUN_KEYS_SCHEMA, RunCounts, find_run_keys, parse_run_counts
from musicgen.dataset.run_report import is_priced, read_report
from musicgen.dataset.table_pieces import join_pieces
from musicgen.dataset.whole_file import open_whole_if_there
from musicgen.errors import StoreDenied, StoreError, StoreFull, StoreUnavailable
from musicgen.own_checksum import check_json, check_parquet, dump_json
from musicgen.parallel import map_ordered
from musicgen.storage import FileInfo, Store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.parquet_writer import open_parquet_writer
from musicgen.temporary_folder import temporary_folder
from musicgen.value_types import JsonObject

FOLDED_AT_ONCE = 16
"""So many finished runs have to be new before all are written into one object again."""

_FOOTER_KEY = b"musicgen.folded"
_THREADS = 4
_GROUP_ROWS = 1 << 16


class FoldedRun(NamedTuple):
    """A run in the folded object. Its keys are the rows from `start` on; `plan` is the text of its `plan.json`."""

    file: str  # the path of its key file
    plan: bytes
    counts: RunCounts
    start: int
    rows: int
    report: str = ""  # the ETag of the report that has its cost
    cost: float | None = None  # of its actors


class FoldedRuns:
    """The folded runs of a dataset, by name; with `reader` their keys too. Thread-safe."""

    def __init__(self, runs: Mapping[str, FoldedRun] | None = None, reader: ParquetReader | None = None):
        self._runs = runs or {}
        self._reader = reader
        self._lock = threading.Lock()
        self._group = (-1, RUN_KEYS_SCHEMA.empty_table())

    def find(self, run: str, key_file: FileInfo | None) -> FoldedRun | None:
        """Return what is folded of a run, if `key_file`, the one of its parts as they are, is among it."""
        own = self._runs.get(run)
        return own if own is not None and key_file is not None and own.file == key_file.path else None

    def find_plan(self, run: str, plan_file: FileInfo) -> bytes | None:
        """Return the text of a run's plan, which does not change, if it is folded."""
        own = self._runs.get(run)
        return own.plan if own is not None and len(own.plan) == plan_file.size else None

    def read_keys(self, folded: FoldedRun) -> Iterator[pa.Table]:
        """Yield the rows of a run (`RUN_KEYS_SCHEMA`), in pieces of at most a row group."""
        start = 0
        for number in range(self._reader.num_row_groups if self._reader is not None else 0):
            with self._lock:
                end = start + self._reader.metadata.row_group(number).num_rows if self._reader is not None else start
                first, last = max(start, folded.start), min(end, folded.start + folded.rows)
                piece = self._read_group(number).slice(first - start, last - first) if first < last else None
            if piece is not None:
                yield piece
            start = end

    def _read_group(self, number: int) -> pa.Table:
        if self._group[0] != number and self._reader is not None:
            self._group = (number, self._reader.read_row_group(number))
        return self._group[1]


def read_folded_runs(store: Store, file: FileInfo | None) -> FoldedRuns:
    """Read what the folded object says of its runs, without their keys; `file` is as the store listed it.

    An object that is damaged, or that is replaced meanwhile, has no runs.
    """
    if file is None:
        return FoldedRuns()
    try:
        with store.open(file.path) as source:
            return FoldedRuns(_parse_footer(pq.read_metadata(source)))
    except (StoreUnavailable, StoreDenied, StoreFull):
        raise
    except (StoreError, FileNotFoundError, pa.ArrowException, ValueError, KeyError, TypeError):
        return FoldedRuns()


@contextmanager
def open_folded_runs(store: Store, file: FileInfo | None, folder: Path) -> Iterator[FoldedRuns]:
    """Open the folded runs with their keys. `folder` is for a copy of an object of a bucket."""
    if file is None:
        yield FoldedRuns()
        return
    with open_whole_if_there(store, file.path, folder) as source:
        if source is None or check_parquet(source) != "right":
            yield FoldedRuns()
            return
        source.seek(0)
        reader = ParquetReader(source)
        yield FoldedRuns(_parse_footer(reader.metadata), reader)


def fold_runs(store: Store, parts: Mapping[str, Sequence[FileInfo]]) -> None:
    """Write the keys and plans of all finished runs into one object, if enough are new. `parts` are the index's.

    It replaces the one that was read, if that is still the same; if another process was first, its object stays.
    """
    files = {info.path: info for info in store.list(paths.RUNS)}
    file, key_files = files.get(paths.FOLDED_RUNS), find_run_keys(parts, files)
    before = read_folded_runs(store, file)
    if sum(before.find(run, key_file) is None for run, key_file in key_files.items()) < FOLDED_AT_ONCE:
        return
    with temporary_folder() as folder, open_folded_runs(store, file, folder) as earlier:
        path = folder / "folded.parquet"
        plans = {run: info for run in key_files if (info := files.get(paths.plan_file(run))) is not None}
        reports = {run: info for run in plans if (info := files.get(paths.report_file(run))) is not None}
        _write_folded(store, earlier, plans, key_files, reports, path)
        try:
            if file is None:
                store.put_if_absent(paths.FOLDED_RUNS, path)
            else:
                store.replace_if_match(paths.FOLDED_RUNS, path, file.etag)
        except (StoreUnavailable, StoreDenied, StoreFull):
            raise
        except (StoreError, FileNotFoundError):  # it knows no If-Match, or the object is damaged and was deleted
            return


def _write_folded(
    store: Store,
    earlier: FoldedRuns,
    plans: Mapping[str, FileInfo],
    key_files: Mapping[str, FileInfo],
    reports: Mapping[str, FileInfo],
    path: Path,
) -> None:
    """Write the runs of `plans`, but for those whose key file is damaged."""
    documents: list[JsonObject] = []

    def read(run: str) -> tuple[str, FoldedRun | None, list[pa.Table]]:
        if (folded := earlier.find(run, key_files[run])) is not None:
            return run, _add_cost(store, folded, reports.get(run)), list(earlier.read_keys(folded))
        unfolded, pieces = _read_unfolded(store, plans[run], key_files[run])
        return run, unfolded and _add_cost(store, unfolded, reports.get(run)), pieces

    def read_rows() -> Iterator[pa.Table]:
        for run, folded, pieces in map_ordered(read, sorted(plans), threads=_THREADS):
            if folded is not None:
                yield from pieces
                document = {"run": run, "file": folded.file, "plan": folded.plan.decode()}
                own = {"rows": folded.rows, "report": folded.report, "cost": folded.cost}
                documents.append({**document, "counts": asdict(folded.counts), **own})

    with open_parquet_writer(path, RUN_KEYS_SCHEMA, use_dictionary=["error_class"]) as writer:
        for group in join_pieces(read_rows(), _GROUP_ROWS):
            writer.write_table(group)
        writer.add_key_value_metadata({_FOOTER_KEY: dump_json({"runs": documents})})


def _read_unfolded(store: Store, plan: FileInfo, key_file: FileInfo) -> tuple[FoldedRun | None, list[pa.Table]]:
    """Read a run's own plan and key file; no run if that is damaged."""
    content = io.BytesIO(store.read(key_file.path))
    if check_parquet(content) != "right":
        return None, []
    reader = ParquetReader(content)
    counts = parse_run_counts(reader.metadata)
    table = reader.read().replace_schema_metadata(None)
    return FoldedRun(key_file.path, store.read(plan.path), counts, 0, table.num_rows), [table]


def _add_cost(store: Store, folded: FoldedRun, file: FileInfo | None) -> FoldedRun:
    """Add what a run has cost, if it has a price, from its report as it is listed."""
    if file is None or folded.report == file.etag or not is_priced(json.loads(folded.plan)["job"]):
        return folded
    report = read_report(store, folded.counts.run)
    return folded._replace(report=file.etag, cost=report.cost if report is not None else None)


def _parse_footer(metadata: pq.FileMetaData) -> dict[str, FoldedRun]:
    """Parse the runs in the object's footer. Raises `ValueError` and others for a damaged one."""
    document = metadata.metadata[_FOOTER_KEY]
    if check_json(document) != "right":
        raise ValueError("the footer is damaged")
    runs: dict[str, FoldedRun] = {}
    start = 0
    for own in json.loads(document)["runs"]:
        counts = RunCounts.from_document(own["counts"])
        cost = own.get("report", ""), own.get("cost")
        runs[own["run"]] = FoldedRun(own["file"], own["plan"].encode(), counts, start, own["rows"], *cost)
        start += own["rows"]
    return runs
