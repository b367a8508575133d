"""`musicgen plan`: what a run would do."""

import typer

from flows.cli.options import (
    Actors,
    AsJson,
    JobPath,
    Limit,
    Manifest,
    Model,
    Output,
    Retry,
    Set,
    Supersede,
    Verbose,
    check_retry_classes,
    handle_errors,
    load_job,
)


def plan(
    job: JobPath = None,
    manifest: Manifest = None,
    output: Output = None,
    model: Model = None,
    limit: Limit = None,
    actors: Actors = None,
    settings: Set = None,
    supersede: Supersede = False,
    retry_failed: Retry = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show what a run would do, without doing it: rows, shards, audio and time.

    For example: musicgen plan job.yaml --set generation.duration_s=4
    """
    with handle_errors(verbose):
        flags = {"manifest": manifest, "output": output, "model": model, "limit": limit, "actors": actors}
        loaded = load_job(job, settings, **flags, supersede=supersede or None)
        retried = check_retry_classes(retry_failed)
        from flows.cli.plan_report import describe_plan  # takes a second, which `musicgen --help` does without

        typer.echo(describe_plan(loaded, retried, as_json, verbose))
