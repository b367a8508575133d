"""The Prefect flow `synthesize`: plan what is missing, generate it, publish the dataset.

Three coarse tasks, whatever the size of the job. It runs from a Prefect deployment, from the command line, or called
as a function. Rows that fail are data: such a run is completed, with a warning among its artifacts.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from actors.cluster import join
from actors.messages import Result
from flows.artifacts import ProgressArtifact, both, publish_summary
from flows.prepare import Ground, adopt, plan_job, survey
from flows.progress import listener
from flows.publish import publish_run, record
from flows.signals import stoppable
from flows.summary import Summary
from musicgen.errors import StoreError
from musicgen.job import Job
from musicgen.plan import Plan, pending_shards


def _storage_fault(task: Any, run: Any, state: Any) -> bool:
    """Whether to try again: what the store says may be over in a moment; other faults have been tried already."""
    try:
        state.result(raise_on_failure=True)
    except (StoreError, OSError):
        return True
    except Exception:
        return False
    return False


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan_task(ground: Ground, run: str | None, retry_failed: Sequence[str]) -> Plan | None:
    """Freeze the rows that are missing; None if none is. A run that is planned already is taken as it is."""
    found = adopt(ground, run) if run else plan_job(ground, retry_failed=retry_failed)
    if found.plan is not None:
        get_run_logger().info("run %s: %s rows in %s shards", found.plan.run, found.plan.rows, len(found.plan.shards))
    return found.plan


@task(
    name="generate",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=_storage_fault,
)
def generate_task(ground: Ground, plan: Plan, verbose: bool) -> tuple[Result | None, str]:
    """Make the run's missing shards on Ray actors."""
    shards = pending_shards(ground.store, plan)
    if not shards:
        return None, ""
    rows = sum(plan.shard_rows(shard) for shard in shards)
    artifact = ProgressArtifact(plan.run)
    with join(ground.job.cluster, verbose) as cluster:
        get_run_logger().info("generating %s shards on %s", len(shards), cluster.description)
        from actors.pool import Pool  # imports Ray, which a plan that has nothing to do can spare

        pool = Pool(ground.job, plan, ground.store, cluster)
        tell = both(listener(), artifact)
        try:
            result = stoppable(lambda: pool.run(shards, rows, tell), pool.stop.set)
        except BaseException:
            with suppress(Exception):  # what ended it matters more
                record(ground, plan, pool.result(), interrupted=True)
            raise
        record(ground, plan, result)
        return result, cluster.description


@task(
    name="publish",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=5,
    retry_condition_fn=_storage_fault,
)
def publish_task(ground: Ground, plan: Plan, result: Result | None, cluster: str) -> Summary:
    """Write the dataset's card and close the run's report."""
    summary, failures = publish_run(ground, plan, result, cluster)
    publish_summary(summary, failures)
    return summary


@flow(name="synthesize", persist_result=False, log_prints=False)
def synthesize(
    job: Job, run: str | None = None, retry_failed: list[str] | None = None, verbose: bool = False
) -> Summary | None:
    """Make the rows of `job` that its dataset lacks. None if nothing is missing.

    `run` names a planned run to take up; else the job is planned. `retry_failed` names failure classes beyond those
    that are tried again anyway (`crash`). Raises `UserError` if job, manifest, model or store is wrong, and
    `ActorsFailed` if generation cannot go on; what is committed stays, and the next run goes on from there.
    """
    ground = survey(job)
    plan = plan_task(ground, run, tuple(retry_failed or ()))
    if plan is None:
        get_run_logger().info("nothing is missing")
        return None
    try:
        result, cluster = generate_task(ground, plan, verbose)
    except BaseException as error:
        if not isinstance(error, Exception):  # Ctrl-C, SIGTERM, or cancelled in Prefect
            get_run_logger().warning(
                "stopped; what is committed is safe. Run the same job again to go on with run %s", plan.run
            )
        raise
    return publish_task(ground, plan, result, cluster)
