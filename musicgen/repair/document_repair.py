"""Mends small files without an engine: from a copy, from what they are made of, or by turning one bit back.

A file that holds its own sha256 (`musicgen.own_checksum`) shows when it is as it was. So a single changed bit of a
small one is found by trying.
"""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc

from musicgen.dataset import paths
from musicgen.dataset.reader import Dataset
from musicgen.dataset.run_keys import RunCounts
from musicgen.dataset.run_report import (
    RunReport,
    Session,
    dump_session,
    name_session,
    read_sessions,
    write_report,
)
from musicgen.errors import StoreError
from musicgen.own_checksum import check_json, check_parquet, check_text, find_flipped_bit
from musicgen.run_plan import Plan, PlanOutline, format_time
from musicgen.storage import Store

_MOST_BYTES_TRIED = 16 << 10  # a few seconds


class NotMended(Exception):
    """An object cannot be made good; the text says why."""


def turn_bit_back(store: Store, path: str) -> bool:
    """Restore a small file of which one bit was changed. Returns whether it was such a one."""
    try:
        info = store.info(path)
        content = store.read(path) if info.size <= _MOST_BYTES_TRIED else b""
    except FileNotFoundError:
        return False
    fixed = find_flipped_bit(content, _choose_check(path))
    return fixed is not None and store.replace_if_match(path, fixed, info.etag)


def _choose_check(path: str) -> Callable[[bytes], bool]:
    if path.endswith(".parquet"):
        return lambda content: check_parquet(io.BytesIO(content)) == "right"
    if path.endswith(".md"):
        return lambda content: check_text(content) == "right"
    return _is_right_json


def _is_right_json(content: bytes) -> bool:
    if check_json(content) != "right":
        return False
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def mend_plan(dataset: Dataset, path: str) -> str:
    """Restore a run's `plan.json` or its entry of the order from the other one. Returns what was done."""
    copies = _find_plan_copies(dataset, path)
    for copy in copies:
        content = dataset.store.read(copy)
        if check_json(content) != "wrong" and _is_plan(content):
            put_document(dataset.store, path, content)
            return f"copied from {copy}"
    if turn_bit_back(dataset.store, path):
        return "one bit turned back"
    raise NotMended("the plan has no sound copy")


def _is_plan(content: bytes) -> bool:
    try:
        PlanOutline.from_json(content)
    except StoreError:
        return False
    return True


def _find_plan_copies(dataset: Dataset, path: str) -> list[str]:
    """Return the paths of sound plans that hold the same run, or the same number, as `path` should."""
    copies = []
    for file in dataset.store.list(paths.RUNS):
        if file.path == path or not (paths.parse_plan(file.path) or paths.parse_order_entry(file.path) is not None):
            continue
        try:
            outline = PlanOutline.from_json(dataset.store.read(file.path))
        except StoreError:
            continue
        if path in (paths.plan_file(outline.run), paths.order_entry(outline.order)):
            copies.append(file.path)
    return copies


def mend_report(dataset: Dataset, path: str) -> str:
    """Restore a run's report or one of its sessions. Returns what was done."""
    if turn_bit_back(dataset.store, path):
        return "one bit turned back"
    run = path.split("/")[1]
    if path == paths.report_file(run):
        return _sum_up(dataset, run)
    if path.startswith(paths.sessions_folder(run)):
        report = RunReport.from_json(dataset.store.read(paths.report_file(run)))
        stored = {file.path: dataset.store.read(file.path) for file in dataset.store.list(paths.sessions_folder(run))}
        sessions = {name_session(run, session): dump_session(session) for session in report.sessions}
        lost = [content for content in sessions.values() if content not in stored.values()]
        content = sessions.get(path, lost[0] if len(lost) == 1 else None)
        if content is not None:
            put_document(dataset.store, path, content)
            return "copied from the run's report"
    raise NotMended("the run's report does not have it; nothing but `status` and reports reads it")


def _sum_up(dataset: Dataset, run: str) -> str:
    """Write a run's report from its sessions, and where there are none from its index parts. Returns what was done.

    It was published if its keys were put.
    """
    plan = Plan.from_json(dataset.store.read(paths.plan_file(run)))
    own = Dataset(dataset.store, dataset.info, run)
    sessions = read_sessions(dataset.store, run)
    report = RunReport(run, plan.job, asdict(plan.model), sessions or (_read_session(own, run),))
    is_published = any(paths.parse_run_keys(info.path) for info in dataset.store.list(f"{paths.RUNS}/{run}"))
    published_at = report.sessions[-1].finished_at if is_published else ""
    write_report(dataset.store, replace(report, parts=len(list(own.parts())), published_at=published_at))
    if sessions:
        return "summed up again from the run's sessions"
    return "made from the index; how long its actors were held, their machines and the cost are lost"


def _read_session(run: Dataset, name: str) -> Session:
    """Return one session for all that a run has made, as far as its index parts tell."""
    counts = RunCounts.of(name, [footer for _, footer in run.footers()])
    times: set[datetime] = set()
    engines: set[str] = set()
    for batch in run.batches(["created_at", "engine"]):
        span = pc.min_max(batch["created_at"]).as_py()
        times |= {span["min"], span["max"]} - {None}
        engines |= {*pc.unique(batch["engine"]).to_pylist()} - {None}
    started_at, finished_at = (format_time(time) for time in (min(times), max(times))) if times else ("", "")
    return Session(
        started_at, finished_at, counts.made, counts.failed, counts.audio_s, 0.0, engines=tuple(sorted(engines))
    )


def put_document(store: Store, path: str, content: bytes | Path) -> None:
    """Write an object in the place of a damaged or lost one. Raises `StoreError` if another did so meanwhile."""
    try:
        is_ours = store.replace_if_match(path, content, store.info(path).etag)
    except FileNotFoundError:
        is_ours = store.commit_if_absent(path, content)
    if not is_ours:
        raise StoreError(f"{store.join(path)} was changed by another meanwhile; run the repair again")
