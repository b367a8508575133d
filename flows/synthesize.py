"""The Prefect flow `synthesize`: plan what is missing, generate it, publish the dataset.

Each stage (flows/stages.py) is one task, whatever the size of the job. The flow runs from a Prefect deployment or
called as a function; the command line plans first, and then calls the same tasks by `finish_run`. A run with failed
rows counts as completed, with a warning among its artifacts.
"""

from collections.abc import Sequence

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from actors.cluster import Cluster, join_cluster
from actors.messages import GenerationResult
from flows.artifacts import ProgressArtifact, publish_summary
from flows.progress import NoObserver, RunObserver
from flows.stages import JobContext, generate_clips, open_job, plan_run, publish_run
from flows.summary import Summary
from musicgen.errors import StoreError
from musicgen.job import Job
from musicgen.plan import Plan, PlanOutcome

FLOW_NAME = "synthesize"


def _is_storage_fault(failed_task: object, task_run: object, state: State) -> bool:
    """Decide whether Prefect tries a task again: only after a fault of the store, which may be over in a moment."""
    try:
        state.result(raise_on_failure=True)
    except (StoreError, OSError):
        return True
    except Exception:
        return False
    return False


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan_task(context: JobContext, retry_failed: Sequence[str]) -> PlanOutcome:
    """Plan the rows that are missing."""
    outcome = plan_run(context, retry_failed=retry_failed)
    if (plan := outcome.plan) is not None:
        get_run_logger().info("run %s: %s rows in %s shards", plan.run, plan.rows, len(plan.shards))
    return outcome


@task(
    name="generate",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=_is_storage_fault,
)
def generate_task(context: JobContext, plan: Plan, cluster: Cluster, observer: RunObserver) -> GenerationResult | None:
    """Make the run's missing shards on Ray actors."""
    get_run_logger().info("generating run %s on %s", plan.run, cluster.description)
    return generate_clips(context, plan, cluster, ProgressArtifact(plan.run, observer))


@task(
    name="publish",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=5,
    retry_condition_fn=_is_storage_fault,
)
def publish_task(context: JobContext, plan: Plan, result: GenerationResult | None) -> Summary:
    """Write the dataset's card and close the run's report."""
    summary, failures = publish_run(context, plan, result)
    publish_summary(summary, failures)
    return summary


def finish_run(context: JobContext, plan: Plan, cluster: Cluster, observer: RunObserver) -> Summary:
    """Generate and publish a planned run, as tasks of the flow run that calls this."""
    try:
        result = generate_task(context, plan, cluster, observer)
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C, SIGTERM, or a cancellation in Prefect
            get_run_logger().warning(
                "stopped; what is committed is safe. Run the same job again to go on with run %s", plan.run
            )
        raise
    return publish_task(context, plan, result)


def finish_run_as_flow(context: JobContext, plan: Plan, cluster: Cluster, observer: RunObserver) -> Summary:
    """Finish a run that was planned outside of Prefect, as a flow run of its own."""

    @flow(name=FLOW_NAME, persist_result=False, log_prints=False, validate_parameters=False)
    def synthesize_planned(job: Job, run: str) -> Summary:
        return finish_run(context, plan, cluster, observer)

    return synthesize_planned(context.job, plan.run)


@flow(name=FLOW_NAME, persist_result=False, log_prints=False)
def synthesize(job: Job, retry_failed: list[str] | None = None, verbose: bool = False) -> Summary | None:
    """Make the rows of `job` that its dataset lacks. None if nothing is missing.

    `retry_failed` names failure classes beyond those that are tried again anyway (`crash`). Raises `UserError` if job,
    manifest, model or store is wrong, and `ActorsFailed` if generation cannot go on; what is committed stays, and the
    next run goes on from there.
    """
    context = open_job(job)
    plan = plan_task(context, tuple(retry_failed or ())).plan
    if plan is None:
        get_run_logger().info("nothing is missing")
        return None
    with join_cluster(job.cluster, verbose) as cluster:
        return finish_run(context, plan, cluster, NoObserver())
