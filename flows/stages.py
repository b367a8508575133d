"""The stages of a run as plain functions over values, which the Prefect flow and the command line both call.

context = open_job(job)
outcome = plan_run(context, expect_actors(job, None))
with join_cluster(job.cluster, device=job.model.device) as cluster:
    result = generate_clips(context, outcome.plan, cluster, on_progress)
summary, failures = publish_run(context, outcome.plan, result)
"""

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from actors.cluster import Cluster, expect_local_actors
from actors.messages import GenerationResult, Progress, RunClosed, RunEvent
from actors.metrics_export import export_metrics
from flows.run_sessions import make_run_report, record_session
from flows.signals import run_interruptibly
from flows.summary import Summary
from musicgen.dataset.card import publish_card
from musicgen.dataset.pause import refuse_pause
from musicgen.dataset.reader import Dataset, read_dataset
from musicgen.dataset.run_page import write_run_page
from musicgen.dataset.run_report import RunReport, read_report, write_report
from musicgen.dataset.status import RunStatus, run_statuses
from musicgen.errors import JobError, StoreError
from musicgen.families.family import FamilyCheckpoint
from musicgen.families.registry import resolve_checkpoint
from musicgen.job import Job
from musicgen.plan import Plan, PlanOutcome, make_plan, pending_shards
from musicgen.plan.expected_actors import ExpectedActors
from musicgen.run_plan import format_time
from musicgen.storage import Store, open_store
from musicgen.storage.parquet_reader import ParquetReader
from musicgen.storage.patience import wait_for_store

if TYPE_CHECKING:
    from actors.pool import Pool

FAILURES_LISTED = 20  # rows of failures/ that a summary brings
_FAILURES_PRINTED = 10


@dataclass(frozen=True)
class JobContext:
    """A job with its opened output, its resolved checkpoint, and when it was opened (of `time.monotonic`)."""

    job: Job
    store: Store
    checkpoint: FamilyCheckpoint
    opened_at: float = field(default_factory=time.monotonic)


def open_job(job: Job) -> JobContext:
    """Open the job's output and find its checkpoint; writes nothing. Raises `JobError` or `ModelError`."""
    with _store_errors_stop_the_job():
        store = open_store(job.output.uri, job.output.single_writer)
        store.check()
    return JobContext(job, store, resolve_checkpoint(job.model.name, job.model.revision, job.model.allow_pr))


def expect_actors(job: Job, cluster: Cluster | None) -> ExpectedActors:
    """Return the actors that the job will have on `cluster`; None: on a local Ray that is not started yet."""
    if cluster is not None:
        return cluster.expect_actors(job.cluster)
    return expect_local_actors(job.cluster, job.model.device)


def plan_run(
    context: JobContext,
    actors: ExpectedActors,
    dry_run: bool = False,
    retry_failed: Collection[str] = (),
    on_rows_read: Callable[[int, int | None], None] | None = None,
    on_shards_closed: Callable[[str, int, int], None] | None = None,
) -> PlanOutcome:
    """Plan the rows that are missing, or adopt the job's unfinished run. Shards are cut for `actors`.

    Unless it is a dry run, the store is probed and the plan is put into it. `retry_failed` names the failure classes
    that are tried again only when asked. `on_rows_read` is called with the number of manifest rows read so far, and
    None: how many there are is not known; `on_shards_closed` with the name of a run that this one supersedes, how many
    of its pending shards are closed, and of how many. Raises `ManifestError` or `JobError`, or `LimitReached` if the
    dataset is paused; then nothing was started.
    """
    with _store_errors_stop_the_job():
        if not dry_run:
            refuse_pause(context.store)
        return make_plan(
            context.job,
            context.checkpoint,
            context.store,
            dry_run=dry_run,
            retry_failed=tuple(retry_failed),
            progress=on_rows_read,
            on_shards_closed=on_shards_closed,
            actors=actors,
            tokenizer_folder=context.checkpoint.folder,
        )


def generate_clips(
    context: JobContext,
    plan: Plan,
    cluster: Cluster,
    on_progress: Callable[[Progress], None],
    on_event: Callable[[RunEvent], None] | None = None,
) -> GenerationResult | None:
    """Make the run's missing shards on Ray actors; None if none is missing.

    `on_progress` is called several times a second in another thread, and has to return at once; so has `on_event`,
    which is told what becomes of shards and actors. What was done goes into the run's report, also when it ends by an
    exception or a signal. Raises `ActorsFailed` if generation cannot go on, `LimitReached` if the job's limits or a
    pause stop it, and `StoreError`.
    """
    shards = pending_shards(context.store, plan)
    if not shards:
        return None
    from actors.pool import Pool  # takes a second, which `musicgen plan` does without

    rows = sum(plan.shard_rows(shard) for shard in shards)
    report = read_report(context.store, plan.run) if context.job.cluster.max_cost is not None else None
    pool = Pool(context.job, plan, context.store, cluster, spent=(report and report.cost) or 0.0, on_event=on_event)
    with export_metrics(context.job.metrics, plan.run, to_ray=not cluster.in_process) as export:

        def show(progress: Progress) -> None:
            export(progress)
            on_progress(progress)

        result = _run_pool(context, plan, pool, lambda: pool.run(shards, rows, show))
    record_session(context.job, context.store, plan, result)
    return result


def _run_pool(context: JobContext, plan: Plan, pool: "Pool", run: Callable[[], GenerationResult]) -> GenerationResult:
    """Run a pool, and record what it has done if it ends by an exception."""
    try:
        return run_interruptibly(run, pool.stop.set)
    except BaseException as error:
        with suppress(Exception):  # the exception that ended the run matters more
            record_session(context.job, context.store, plan, pool.result(), error)
        raise


def publish_run(
    context: JobContext, plan: Plan, result: GenerationResult | None
) -> tuple[Summary, list[dict[str, object]]]:
    """Write the dataset's card and close the run's report, and wait for a store that does not answer meanwhile.

    Returns the summary and the run's first failures as rows of failures/. Raises `RunClosed` if another run has closed
    this one meanwhile, which will publish the dataset, and `StoreError`.
    """
    return wait_for_store(lambda: _publish_run(context, plan, result), context.job.cluster.store_patience_s)


def _publish_run(
    context: JobContext, plan: Plan, result: GenerationResult | None
) -> tuple[Summary, list[dict[str, object]]]:
    dataset = read_dataset(context.store)
    run = dataset.run(plan.run)
    (status,) = run_statuses(run)
    if status.closed_by is not None:
        raise RunClosed.by(plan.run, status.closed_by)
    card = publish_card(dataset)
    published_at = format_time(datetime.now(UTC))
    report = write_report(
        context.store, replace(make_run_report(plan), published_at=published_at, parts=status.committed)
    )
    failures = run.first_failures(FAILURES_LISTED) if status.failed or status.invalid else []
    page = _write_page(dataset, status, report) if status.planned or status.invalid else ""
    summary = Summary(
        dataset=context.job.output.uri,
        run=plan.run,
        layout=context.job.audio.layout,
        rows=status.planned,
        made=status.made,
        failed=status.failed,
        invalid=status.invalid,
        made_here=result.progress.made if result else 0,
        audio_s=result.progress.audio_s if result else 0.0,
        seconds=time.monotonic() - context.opened_at if result else 0.0,
        generating_s=result.progress.generating_s if result else 0.0,
        cluster=result.cluster if result else "",
        crashes=result.progress.crashes if result else 0,
        preemptions=result.progress.preemptions if result else 0,
        losses=result.progress.losses if result else 0,
        kills=result.progress.kills if result else 0,
        set_aside=result.set_aside if result else {},
        given_up=result.given_up if result else {},
        failures=tuple((row["source"], row["error_class"], row["error"]) for row in failures[:_FAILURES_PRINTED]),
        slow_path=_find_slow_path(result),
        example=_find_first_audio_path(run),
        notes=card.notes,
        missing_audio=card.unreadable,
        cost=report.cost,
        page=page,
    )
    return summary, failures


def _write_page(dataset: Dataset, status: RunStatus, report: RunReport) -> str:
    """Write the run's page; returns its URI, or nothing: no run fails because its page cannot be made."""
    try:
        return dataset.store.join(write_run_page(dataset, status, report))
    except StoreError:  # a store that does not answer is waited for, as for the card
        raise
    except Exception:
        return ""


@contextmanager
def _store_errors_stop_the_job() -> Iterator[None]:
    """Raise `JobError` (exit code 2) for a fault of the store, because nothing has been started yet."""
    try:
        yield
    except StoreError as error:
        raise JobError(str(error)) from error


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
