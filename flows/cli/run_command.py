"""`musicgen run`: plan and make what is missing."""

from typing import Annotated

import typer

from flows.cli.json_log import log_as_json
from flows.cli.options import (
    WRONG,
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


def run(
    job: JobPath = None,
    manifest: Manifest = None,
    output: Output = None,
    model: Model = None,
    limit: Limit = None,
    actors: Actors = None,
    settings: Set = None,
    supersede: Supersede = False,
    retry_failed: Retry = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="What goes to stderr as JSON, one object a line: time, level, message.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Plan and run a job. Run it again to go on after an interruption, and to retry what failed.

    For example: musicgen run --manifest prompts.csv --output out/try --model embedded --limit 8
    """
    # Planning turns a store's error into the job's.
    with log_as_json(log_json), handle_errors(verbose, store_error_code=WRONG):
        flags = {"manifest": manifest, "output": output, "model": model, "limit": limit, "actors": actors}
        loaded = load_job(job, settings, **flags, supersede=supersede or None)
        retried = check_retry_classes(retry_failed)
        from flows.cli.run_job import run_job  # takes a second, which `musicgen --help` does without

        raise typer.Exit(run_job(loaded, retried, as_json, verbose))
