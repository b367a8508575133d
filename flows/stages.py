"""The stages of a run as plain functions over values, which the Prefect flow and the command line both call.

context = open_job(job)
outcome = plan_run(context, expect_actors(job, None))
with join_cluster(job.cluster, device=job.model.device) as cluster:
    result = generate_clips(context, outcome.plan, cluster, on_progress)
summary, failures = publish_run(context, outcome.plan, result)
"""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

from actors.cluster import Cluster, expect_local_actors
from actors.messages import GenerationResult, Progress, RunClosed
from flows.signals import run_interruptibly
from flows.summary import Summary
from musicgen.dataset.card import publish_card
from musicgen.dataset.reader import Dataset, read_dataset
from musicgen.dataset.run_report import RunReport, Session, describe_hardware, package_versions, write_report
from musicgen.dataset.status import run_statuses
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

FAILURES_LISTED = 20  # rows of failures/ that a summary brings
_FAILURES_PRINTED = 10


@dataclass(frozen=True)
class JobContext:
    """A job with its opened output and its resolved checkpoint."""

    job: Job
    store: Store
    checkpoint: FamilyCheckpoint


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
    of its pending shards are closed, and of how many. Raises `ManifestError` or `JobError`; then nothing was started.
    """
    with _store_errors_stop_the_job():
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
    context: JobContext, plan: Plan, cluster: Cluster, on_progress: Callable[[Progress], None]
) -> GenerationResult | None:
    """Make the run's missing shards on Ray actors; None if none is missing.

    `on_progress` is called several times a second in another thread, and has to return at once. What was done goes into
    the run's report, also when it ends by an exception or a signal. Raises `ActorsFailed` if
    generation cannot go on, and `StoreError`.
    """
    shards = pending_shards(context.store, plan)
    if not shards:
        return None
    from actors.pool import Pool  # takes a second, which `musicgen plan` does without

    rows = sum(plan.shard_rows(shard) for shard in shards)
    pool = Pool(context.job, plan, context.store, cluster)
    try:
        result = run_interruptibly(lambda: pool.run(shards, rows, on_progress), pool.stop.set)
    except BaseException:
        with suppress(Exception):  # the exception that ended the run matters more
            _record_session(context, plan, pool.result(), interrupted=True)
        raise
    _record_session(context, plan, result)
    return result


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
    write_report(context.store, replace(_make_run_report(plan), published_at=published_at, parts=status.committed))
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
            "cluster": result.cluster_start_s,
            "load": max((actor.load_s for actor in result.loaded_actors), default=0.0),
            "compile": max((actor.compile_s for actor in result.loaded_actors), default=0.0),
            "generate": progress.generating_s,
        },
        events={
            "crashes": progress.crashes,
            "preemptions": progress.preemptions,
            "losses": progress.losses,
            "kills": progress.kills,
            "given_up": len(result.given_up),
        },
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
