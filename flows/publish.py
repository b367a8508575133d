"""The end of a run: its report, the dataset's card, and what to tell."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq

from actors.messages import Result
from flows.prepare import Ground
from flows.summary import Summary
from musicgen.dataset import Dataset
from musicgen.dataset import open as open_dataset
from musicgen.dataset.card import publish_card
from musicgen.dataset.run_report import RunReport, Session, hardware, versions, write_report
from musicgen.dataset.status import status
from musicgen.plan import Plan

_FAILURES_SHOWN = 20
_FAILURES_TOLD = 10


def record(ground: Ground, plan: Plan, result: Result, interrupted: bool = False) -> None:
    """Add what this driver did to the run's report, however it ended."""
    write_report(ground.store, _report(plan, _session(result, interrupted)))


def publish_run(
    ground: Ground, plan: Plan, result: Result | None, cluster: str
) -> tuple[Summary, list[dict[str, Any]]]:
    """Write the card and close the report; the summary, and the run's first failures as rows of failures/."""
    whole = open_dataset(ground.job.output.uri)
    dataset = whole.run(plan.run)
    (now,) = status(dataset)
    publish_card(whole)
    write_report(ground.store, replace(_report(plan), published_at=_now()))
    failures = dataset.first_failures(_FAILURES_SHOWN) if now.failed or now.invalid else []
    return (
        Summary(
            dataset=ground.job.output.uri,
            run=plan.run,
            layout=ground.job.audio.layout,
            rows=now.planned,
            made=now.made,
            failed=now.failed,
            invalid=now.invalid,
            audio_s=result.progress.audio_s if result else 0.0,
            seconds=result.seconds if result else 0.0,
            cluster=cluster,
            crashes=result.progress.crashes if result else 0,
            preemptions=result.progress.preemptions if result else 0,
            given_up=result.given_up if result else {},
            failures=tuple((row["source"], row["error_class"], row["error"]) for row in failures[:_FAILURES_TOLD]),
            slow_path=_slow_path(result),
            example=_example(dataset),
        ),
        failures,
    )


def _report(plan: Plan, *sessions: Session) -> RunReport:
    return RunReport(plan.run, plan.job, asdict(plan.model), sessions)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _session(result: Result, interrupted: bool) -> Session:
    end = datetime.now(UTC)
    progress = result.progress
    return Session(
        started_at=(end - timedelta(seconds=result.seconds)).isoformat(timespec="milliseconds"),
        finished_at=end.isoformat(timespec="milliseconds"),
        interrupted=interrupted,
        made=progress.made,
        failed=progress.failed,
        audio_s=progress.audio_s,
        wall_s=result.seconds,
        actors=len(result.loaded),
        timings_s={
            "load": max((actor.load_s for actor in result.loaded), default=0.0),
            "generate": progress.generating_s,
        },
        events={"crashes": progress.crashes, "preemptions": progress.preemptions, "given_up": len(result.given_up)},
        versions=versions(),
        hardware=hardware() | {"peak_actor_rss_mb": round(result.peak_rss_mb)},
        engines=tuple(sorted({actor.engine for actor in result.loaded})),
    )


def _slow_path(result: Result | None) -> str:
    """What an engine on a CPU says of why its kernels were not compiled."""
    for actor in result.loaded if result else ():
        engine = json.loads(actor.engine)
        if engine.get("device") == "cpu" and engine.get("path", "").startswith("eager"):
            return str(engine["path"])
    return ""


def _example(dataset: Dataset) -> str:
    """The first audio object of a run, inside the dataset."""
    if dataset.pins.layout == "parquet":
        return ""
    for path, footer in dataset.footers():
        if footer.made:
            with dataset.store.open(path) as file:
                return str(pq.ParquetFile(file).read_row_group(0, columns=["audio"])["audio"][0].as_py())
    return ""
