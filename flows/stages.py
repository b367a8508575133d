"""The stages of a run as plain functions over values, which the Prefect flow and the command line both call.

context = open_job(job)
outcome = plan_run(context)
with join_cluster(job.cluster) as cluster:
    result = generate_clips(context, outcome.plan, cluster, observer)
summary, failures = publish_run(context, outcome.plan, result)
"""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from actors.messages import GenerationResult
from flows.progress import RunObserver
from flows.signals import run_interruptibly
from flows.summary import Summary
from musicgen.dataset.card import publish_card
from musicgen.dataset.reader import Dataset, read_dataset
from musicgen.dataset.run_report import RunReport, Session, describe_hardware, package_versions, write_report
from musicgen.dataset.status import run_statuses
from musicgen.errors import JobError, StoreError
from musicgen.job import Job
from musicgen.model.checkpoint.resolve import Checkpoint, resolve_checkpoint
from musicgen.plan import Plan, PlanOutcome, make_plan, pending_shards
from musicgen.run_plan import format_time
from musicgen.storage import Store, open_store
from musicgen.storage.parquet_reader import ParquetReader

if TYPE_CHECKING:
    from actors.cluster import Cluster

FAILURES_LISTED = 20  # rows of failures/ that a summary brings
_FAILURES_PRINTED = 10


@dataclass(frozen=True)
class JobContext:
    """A job with its opened output and its resolved checkpoint."""

    job: Job
    store: Store
    checkpoint: Checkpoint


def open_job(job: Job) -> JobContext:
    """Open the job's output and find its checkpoint; writes nothing. Raises `JobError` or `ModelError`."""
    with _store_errors_stop_the_job():
        store = open_store(job.output.uri, job.output.single_writer)
        store.check()
    return JobContext(job, store, resolve_checkpoint(job.model.name, job.model.revision))


def plan_run(
    context: JobContext,
    dry_run: bool = False,
    retry_failed: Collection[str] = (),
    on_rows_read: Callable[[int, int | None], None] | None = None,
) -> PlanOutcome:
    """Plan the rows that are missing, or adopt the job's unfinished run.

    Unless it is a dry run, the store is probed and the plan is put into it. `retry_failed` names the failure classes
    that are tried again only when asked. `on_rows_read` is called with the number of manifest rows read so far, and
    None: how many there are is not known. Raises `ManifestError` or `JobError`; then nothing was started.
    """
    with _store_errors_stop_the_job():
        return make_plan(
            context.job,
            context.checkpoint,
            context.store,
            dry_run=dry_run,
            retry_failed=tuple(retry_failed),
            progress=on_rows_read,
        )


def generate_clips(
    context: JobContext, plan: Plan, cluster: "Cluster", observer: RunObserver
) -> GenerationResult | None:
    """Make the run's missing shards on Ray actors; None if none is missing.

    What was done goes into the run's report, also when it ends by an exception or a signal. Raises `ActorsFailed` if
    generation cannot go on, and `StoreError`.
    """
    shards = pending_shards(context.store, plan)
    if not shards:
        return None
    from actors.pool import Pool  # imports Ray, which `musicgen plan` does without

    rows = sum(plan.shard_rows(shard) for shard in shards)
    pool = Pool(context.job, plan, context.store, cluster)
    try:
        result = run_interruptibly(lambda: pool.run(shards, rows, observer.update), pool.stop.set)
    except BaseException:
        with suppress(Exception):  # the exception that ended the run matters more
            _record_session(context, plan, pool.result(), interrupted=True)
        raise
    _record_session(context, plan, result)
    return result


def publish_run(
    context: JobContext, plan: Plan, result: GenerationResult | None
) -> tuple[Summary, list[dict[str, object]]]:
    """Write the dataset's card and close the run's report.

    Returns the summary and the run's first failures as rows of failures/. Raises `StoreError`.
    """
    dataset = read_dataset(context.store)
    run = dataset.run(plan.run)
    (status,) = run_statuses(run)
    publish_card(dataset)
    write_report(context.store, replace(_make_run_report(plan), published_at=format_time(datetime.now(UTC))))
    failures = run.first_failures(FAILURES_LISTED) if status.failed or status.invalid else []
    summary = Summary(
        dataset=context.job.output.uri,
        run=plan.run,
        layout=context.job.audio.layout,
        rows=status.planned,
        made=status.made,
        failed=status.failed,
        invalid=status.invalid,
        audio_s=result.progress.audio_s if result else 0.0,
        seconds=result.seconds if result else 0.0,
        cluster=result.cluster if result else "",
        crashes=result.progress.crashes if result else 0,
        preemptions=result.progress.preemptions if result else 0,
        given_up=result.given_up if result else {},
        failures=tuple((row["source"], row["error_class"], row["error"]) for row in failures[:_FAILURES_PRINTED]),
        slow_path=_find_slow_path(result),
        example=_find_first_audio_path(run),
    )
    return summary, failures


@contextmanager
def _store_errors_stop_the_job() -> Iterator[None]:
    """Raise `JobError` (exit code 2) for a fault of the store, because nothing has been started yet."""
    try:
        yield
    except StoreError as error:
        raise JobError(str(error)) from error


def _record_session(context: JobContext, plan: Plan, result: GenerationResult, interrupted: bool = False) -> None:
    """Add what this driver has done to the run's report."""
    end = datetime.now(UTC)
    progress = result.progress
    session = Session(
        started_at=format_time(end - timedelta(seconds=result.seconds)),
        finished_at=format_time(end),
        interrupted=interrupted,
        made=progress.made,
        failed=progress.failed,
        audio_s=progress.audio_s,
        wall_s=result.seconds,
        actors=len(result.loaded_actors),
        timings_s={
            "load": max((actor.load_s for actor in result.loaded_actors), default=0.0),
            "generate": progress.generating_s,
        },
        events={"crashes": progress.crashes, "preemptions": progress.preemptions, "given_up": len(result.given_up)},
        versions=package_versions(),
        hardware=describe_hardware() | {"peak_actor_rss_mb": round(result.peak_rss_mb)},
        engines=tuple(sorted({actor.engine for actor in result.loaded_actors})),
    )
    write_report(context.store, _make_run_report(plan, session))


def _make_run_report(plan: Plan, *sessions: Session) -> RunReport:
    return RunReport(plan.run, plan.job, asdict(plan.model), sessions)


def _find_slow_path(result: GenerationResult | None) -> str:
    """Return why a CPU engine ran without the compiled kernels, from its fingerprint; empty if it ran with them."""
    for actor in result.loaded_actors if result else ():
        engine = json.loads(actor.engine)
        if engine.get("device") == "cpu" and engine.get("path", "").startswith("eager"):
            return str(engine["path"])
    return ""


def _find_first_audio_path(run: Dataset) -> str:
    """Return the path of the run's first audio object inside the dataset; empty if it has none."""
    if run.info.layout == "parquet":
        return ""
    for path, footer in run.footers():
        if footer.made:
            with run.store.open(path) as file:
                return str(ParquetReader(file).read_row_group(0, columns=["audio"])["audio"][0].as_py())
    return ""
