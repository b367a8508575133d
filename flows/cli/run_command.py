"""`musicgen run`: plan and make what is missing."""

import json
import sys
from typing import Any

import typer

from flows.cli.options import (
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
    check_retry,
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
        code = _run(loaded, check_retry(retry_failed), as_json, verbose)
        raise typer.Exit(code)


def _run(job: Any, retry_failed: list[str], as_json: bool, verbose: bool) -> int:
    from actors.cluster import check_address
    from flows.prefect_server import PrefectServer
    from flows.prepare import plan_job, survey

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
        told = {
            "dataset": dataset,
            "run": None,
            "rows": 0,
            "made": 0,
            "failed": 0,
            "missing": 0,
            "invalid": planned.invalid_count,
        }
        typer.echo(json.dumps(told | {"made_before": planned.made, "failed_before": planned.failed_before}))
    else:
        whole = planned.made + planned.failed_before + planned.invalid_count
        typer.echo(
            f"Nothing to make: {'all' if whole == planned.made else f'{planned.made} of'} {whole} rows are in {dataset}."
        )
    left = planned.failed_before + planned.invalid_count
    if left:
        print(
            f"{planned.failed_before} rows failed before (--retry-failed crash tries them again); {planned.invalid_count} are invalid.",
            file=sys.stderr,
        )
    return SOME_FAILED if left else OK


def _generate(job: Any, planned: Any, server: Any, as_json: bool, verbose: bool) -> int:
    from actors.cluster import join
    from flows.cli.progress_bar import Display
    from flows.progress import listening
    from musicgen.errors import MusicGenError, StoreError

    plan = planned.plan
    with Display() as display:
        again = "going on with" if planned.adopted else "planned"
        display.say(
            f"{again} run {plan.run}: {plan.rows} clips in {len(plan.shards)} shards, {plan.audio_s / 3600:.2f} h of audio"
        )
        if planned.made:
            display.say(f"{planned.made} rows are in the dataset already")
        if planned.invalid_count:
            display.say(f"{planned.invalid_count} rows are invalid and go to failures/")
        try:
            with join(job.cluster, verbose) as cluster, listening(display):
                display.say(f"on {cluster.description}")
                with server.connected():
                    from flows.synthesize import synthesize

                    try:
                        summary = synthesize(job, run=plan.run, verbose=verbose)
                    except StoreError as error:  # it failed on the way, so this is no longer "nothing was started"
                        raise MusicGenError(
                            f"{error}. What is committed is safe; run the same command again to go on"
                        ) from error
        except KeyboardInterrupt:
            display.stop()
            display.say(f"stopped; what is committed is safe in {job.output.uri}. Run the same command again to go on.")
            raise
    assert summary is not None
    typer.echo(json.dumps(summary.to_dict(), indent=1) if as_json else summary.text())
    if summary.missing:
        return WRONG
    held_back = 0 if planned.adopted else planned.held_back
    if held_back:
        print(
            f"{held_back} rows failed before and were not tried again; --retry-failed crash tries them.",
            file=sys.stderr,
        )
    return OK if summary.all_made and not held_back else SOME_FAILED
