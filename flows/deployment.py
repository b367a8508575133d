"""Deploys a job to a Prefect work pool, so that workers run it on a schedule or on demand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from flows.prefect_server import check_prefect_url
from musicgen.errors import JobError, first_line
from musicgen.job import Job
from musicgen.storage.location import parse_uri

GRACE_PERIOD_S = 300  # for a worker to start a run, after which its place is free for the next
TAG = "musicgen"


@dataclass(frozen=True)
class Deployment:
    """What Prefect is told of a job. `cron` None: it runs on demand only."""

    job: Job
    name: str
    pool: str
    cron: str | None = None
    timezone: str = "UTC"
    tags: Sequence[str] = ()
    job_variables: Mapping[str, object] = field(default_factory=dict)  # of the pool: image, env ...
    retries: int = 3
    retry_delay_s: float = 300.0

    def describe_parameters(self) -> dict[str, object]:
        """Return the parameters of the flow: the job without its defaults, and how it is tried again.

        Runs of other jobs whose driver has ended are superseded, so that a night that broke off does not stop the next.
        """
        settings = self.job.model_dump(mode="json", exclude_defaults=True)
        output = settings["output"]
        if "supersede_unfinished" not in self.job.output.model_fields_set:
            settings["output"] = {**output, "supersede_unfinished": "ended"}
        return {"job": settings, "retries": self.retries, "retry_delay_s": self.retry_delay_s}

    def find_local_paths(self) -> list[str]:
        """Return the paths of the job that a worker on another machine does not have."""
        uris = [self.job.manifest.uri, *self.job.manifest.melody_roots, self.job.output.uri]
        return [uri for uri in uris if parse_uri(uri).scheme == "file"]


def create_deployment(deployment: Deployment) -> str:
    """Create or replace the deployment, and return its name in Prefect. Raises `JobError`.

    Its runs import `flows.synthesize` from the package that the worker has installed; nothing of this machine's folder
    is used. One run is at work at a time, and the others wait for it.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.deployments.runner import DeploymentApplyError, EntrypointType, RunnerDeployment
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL

    from flows.synthesize import synthesize

    check_prefect_url()
    if not PREFECT_API_URL.value():
        raise JobError(
            "no Prefect server is named: start one (prefect server start), and set PREFECT_API_URL=http://HOST:4200/api"
        )
    try:
        schedules = [CronSchedule(cron=deployment.cron, timezone=deployment.timezone)] if deployment.cron else []
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise JobError(f"--cron {deployment.cron!r} --timezone {deployment.timezone}: {reason}") from None
    try:
        runner = RunnerDeployment.from_flow(
            synthesize,
            name=deployment.name,
            schedules=schedules,
            concurrency_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE, grace_period_seconds=GRACE_PERIOD_S
            ),
            parameters=deployment.describe_parameters(),
            description=f"Makes the rows of {deployment.job.manifest.uri} that {deployment.job.output.uri} lacks.",
            tags=[TAG, *deployment.tags],
            work_pool_name=deployment.pool,
            job_variables=dict(deployment.job_variables),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        runner.apply()
    except (PrefectException, DeploymentApplyError, ValueError) as error:
        raise JobError(
            f"{PREFECT_API_URL.value()}: {first_line(error)}; a work pool is made by: prefect work-pool create "
            f"{deployment.pool} --type process"
        ) from None
    return f"{synthesize.name}/{deployment.name}"
