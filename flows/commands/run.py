"""`musicgen run`: plan and make what is missing."""

import json
import sys
from typing import Any

import typer

from flows.options import (
    OK,
    SOME_FAILED,
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
    Verbose,
    load_job,
    outcome,
)


def run(
    job: JobPath = None,
    manifest: Manifest = None,
    output: Output = None,
    model: Model = None,
    limit: Limit = None,
    actors: Actors = None,
    settings: Set = None,
    retry_failed: Retry = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Plan and run a job. Run it again to go on after an interruption, and to try again what failed."""
    with outcome(verbose):
        loaded = load_job(job, settings, manifest=manifest, output=output, model=model, limit=limit, actors=actors)
        code = _run(loaded, list(retry_failed or ()), as_json, verbose)
        raise typer.Exit(code)


def _run(job: Any, retry_failed: list[str], as_json: bool, verbose: bool) -> int:
    from actors.cluster import check_address
    from flows.prepare import plan_job, survey
    from flows.server import PrefectServer

    check_address(job.cluster)
    ground = survey(job)
    server = PrefectServer()  # starts beside planning and Ray
    try:
        planned = plan_job(ground, retry_failed=retry_failed)
        if planned.plan is None:
            return _nothing(planned, job.output.uri, as_json)
        return _generate(job, planned, server, as_json, verbose)
    finally:
        server.stop()


def _nothing(planned: Any, dataset: str, as_json: bool) -> int:
    if as_json:
        typer.echo(json.dumps({"dataset": dataset, "run": None, "made_before": planned.made, "invalid": planned.invalid_count}))
    else:
        typer.echo(f"Nothing to make: all {planned.made} rows are in {dataset}.")
    left = planned.failed_before + planned.invalid_count
    if left:
        print(f"{planned.failed_before} rows failed before and are not tried again; {planned.invalid_count} are invalid.", file=sys.stderr)
    return SOME_FAILED if left else OK


def _generate(job: Any, planned: Any, server: Any, as_json: bool, verbose: bool) -> int:
    from actors.cluster import join
    from flows.display import Display
    from flows.progress import listening

    plan = planned.plan
    with Display() as display:
        again = "going on with" if planned.adopted else "planned"
        display.say(f"{again} run {plan.run}: {plan.rows} clips in {len(plan.shards)} shards, {plan.audio_s / 3600:.2f} h of audio")
        if planned.made:
            display.say(f"{planned.made} rows are in the dataset already")
        if planned.invalid_count:
            display.say(f"{planned.invalid_count} rows are invalid and go to failures/")
        try:
            with join(job.cluster, verbose) as cluster, listening(display):
                display.say(f"on {cluster.description}")
                with server.connected():
                    from flows.synthesize import synthesize

                    summary = synthesize(job, run=plan.run, verbose=verbose)
        except KeyboardInterrupt:
            display.stop()
            display.say(f"stopped; what is committed is safe in {job.output.uri}. Run the same command again to go on.")
            raise
    assert summary is not None
    typer.echo(json.dumps(summary.to_dict(), indent=1) if as_json else summary.text())
    if summary.missing:
        return WRONG
    return OK if summary.all_made else SOME_FAILED
