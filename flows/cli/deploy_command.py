"""`musicgen deploy`: a job on a Prefect work pool."""

import json
import sys
from typing import Annotated

import typer

from flows.cli.options import AsJson, JobPath, Manifest, Model, Output, Set, Verbose, handle_errors, load_job
from musicgen.errors import JobError

Pool = Annotated[str, typer.Option("--pool", metavar="NAME", help="The work pool whose workers run the job.")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="The deployment's name.")]
Cron = Annotated[
    str | None, typer.Option("--cron", metavar="'M H D M W'", help="When it runs; without it, on demand only.")
]
Timezone = Annotated[str, typer.Option("--timezone", metavar="ZONE", help="Of --cron, such as Europe/Berlin.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag in Prefect; repeatable.")]
Variables = Annotated[
    list[str] | None,
    typer.Option("--job-variable", metavar="KEY=VALUE", help="Of the work pool, such as image=...; repeatable."),
]
Retries = Annotated[int, typer.Option("--retries", min=0, help="How often a run is tried again whose cause may pass.")]
RetryDelay = Annotated[float, typer.Option("--retry-delay", min=1, metavar="SECONDS", help="Between two tries.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be deployed.")]


def deploy(
    pool: Pool,
    job: JobPath = None,
    manifest: Manifest = None,
    output: Output = None,
    model: Model = None,
    settings: Set = None,
    name: Name = "nightly",
    cron: Cron = None,
    timezone: Timezone = "UTC",
    tags: Tags = None,
    variables: Variables = None,
    retries: Retries = 3,
    retry_delay: RetryDelay = 300.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Deploy a job to a Prefect work pool, on a schedule or on demand.

    For example: musicgen deploy job.yaml --pool musicgen --cron "0 2 * * *"
    """
    with handle_errors(verbose):
        loaded = load_job(job, settings, manifest=manifest, output=output, model=model)
        from flows.deployment import Deployment, create_deployment

        deployment = Deployment(
            loaded, name, pool, cron, timezone, tags or (), _parse_variables(variables), retries, retry_delay
        )
        parameters = deployment.describe_parameters()
        full_name = f"synthesize/{name}" if dry_run else create_deployment(deployment)
        if as_json:
            print(json.dumps({"deployment": full_name, "pool": pool, "cron": cron, "parameters": parameters}))
            return
        schedule = f"at {cron!r} ({timezone})" if cron else "on demand"
        print(f"{'would deploy' if dry_run else 'deployed'} {full_name} to work pool {pool}, {schedule}")
        print(json.dumps(parameters, indent=2))
        if paths := deployment.find_local_paths():
            print(f"note: only a worker that shares this machine's disk has {', '.join(paths)}", file=sys.stderr)
        if not dry_run:
            print(f"worker   prefect worker start --pool {pool}\nnow      prefect deployment run {full_name}")


def _parse_variables(variables: list[str] | None) -> dict[str, object]:
    """Return the job variables of KEY=VALUE texts, whose values may be YAML. Raises `JobError`."""
    import yaml

    parsed: dict[str, object] = {}
    for text in variables or ():
        key, equals, value = text.partition("=")
        if not (equals and key):
            raise JobError(f"--job-variable {text}: write it as KEY=VALUE, for example image=registry/musicgen:0.2.0")
        try:
            parsed[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise JobError(f"--job-variable {key}: the value is not valid YAML") from None
    return parsed
