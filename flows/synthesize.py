"""The Prefect flow `synthesize`: plan what is missing, generate it, publish the dataset.

Each stage (flows/stages.py) is one task, whatever the size of the job. A run with failed rows counts as completed, with
a warning among its artifacts. `musicgen run` calls the same stages without Prefect between them, and a process beside
it records them (flows/prefect_record.py).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed, State

from actors.cluster import Cluster, find_address, join_cluster
from actors.messages import GenerationResult
from flows.artifacts import ProgressArtifact, publish_summary
from flows.notifications import emit_published, send_failure
from flows.postponed import postpone_run
from flows.progress import format_count
from flows.stages import JobContext, expect_actors, generate_clips, open_job, plan_run, publish_run
from flows.summary import Summary
from musicgen.errors import LimitReached, MusicGenError
from musicgen.job import Job
from musicgen.plan import Plan, PlanOutcome
from musicgen.plan.expected_actors import ExpectedActors

FLOW_NAME = "synthesize"
STOPPED = "Stopped"
_Result = TypeVar("_Result")


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan_task(context: JobContext, actors: ExpectedActors, retry_failed: Sequence[str]) -> PlanOutcome | LimitReached:
    """Plan the rows that are missing. A pause is returned: Prefect logs what is raised as a fault of the program."""
    try:
        outcome = plan_run(context, actors, retry_failed=retry_failed)
    except LimitReached as error:
        return error
    if (plan := outcome.plan) is not None:
        get_run_logger().info(
            "run %s: %s in %s", plan.run, format_count(plan.rows, "row"), format_count(len(plan.shards), "shard")
        )
    return outcome


@task(name="generate", cache_policy=NO_CACHE, persist_result=False)
def generate_task(context: JobContext, plan: Plan, cluster: Cluster) -> GenerationResult | LimitReached | None:
    """Make the run's missing shards on Ray actors. A limit or a pause that stops it is returned, as by `plan_task`."""
    logger = get_run_logger()
    logger.info("generating run %s on %s", plan.run, cluster.description)
    if cluster.environment_note:
        logger.warning(cluster.environment_note)
    try:
        with ProgressArtifact(plan.run) as artifact:
            return generate_clips(context, plan, cluster, artifact.update)
    except LimitReached as error:
        return error
    except BaseException as error:
        if not isinstance(error, Exception):  # SIGTERM, or a cancellation in Prefect
            logger.warning("stopped; what is committed is safe. Run the same job again to go on with run %s", plan.run)
        raise


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish_task(context: JobContext, plan: Plan, result: GenerationResult | None) -> Summary:
    """Write the dataset's card and close the run's report."""
    summary, failures = publish_run(context, plan, result)
    publish_summary(summary, failures)
    emit_published(summary)
    return summary


@flow(name=FLOW_NAME, persist_result=False, log_prints=False, on_failure=[send_failure], on_crashed=[send_failure])
def synthesize(
    job: Job,
    settings: list[str] | None = None,
    retry_failed: list[str] | None = None,
    retries: int = 0,
    retry_delay_s: float = 300.0,
    verbose: bool = False,
) -> Summary | State[None] | None:
    """Make the rows of `job` that its dataset lacks. None if nothing is missing.

    `settings` are `section.key=value` texts that go on top of the job; `retry_failed` names failure classes beyond
    those that are tried again anyway (`crash`). In a deployment a run that fails for a reason that may pass is
    scheduled again, after `retry_delay_s`, at most `retries` times; one that meets another job's run at work waits for
    its end in the state `AwaitingDataset`. One that a limit of the job or a pause has stopped ends in the state
    `Stopped` (of type Completed, because it is what the user wanted), with the line that says how to go on. Raises
    `UserError` if job, manifest, model or store is wrong, and `ActorsFailed` if generation cannot go on; what is
    committed stays, and the next run goes on from there.
    """
    try:
        return _synthesize(job.with_settings(settings or ()), retry_failed or (), verbose)
    except LimitReached as error:
        return Completed(name=STOPPED, message=str(error))
    except MusicGenError as error:
        postpone_run(error, retries, retry_delay_s)
        raise


def _synthesize(job: Job, retry_failed: Sequence[str], verbose: bool) -> Summary | None:
    context = open_job(job)
    with ExitStack() as stack:
        cluster = None
        if find_address(job.cluster):  # a cluster that cannot be joined is found before the plan is frozen
            cluster = stack.enter_context(join_cluster(job.cluster, verbose, job.model.device))
        outcome = _raise_limit(plan_task(context, expect_actors(job, cluster), retry_failed))
        plan = outcome.plan
        if plan is None:
            get_run_logger().info("nothing is missing")
            return None
        if outcome.becomes_current:
            return publish_task(context, plan, None)
        if cluster is None:
            cluster = stack.enter_context(join_cluster(job.cluster, verbose, job.model.device))
        return publish_task(context, plan, _raise_limit(generate_task(context, plan, cluster)))


def _raise_limit(result: _Result | LimitReached) -> _Result:
    if isinstance(result, LimitReached):
        raise result
    return result
