"""`musicgen run`: plan and make what is missing."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    check_retry_classes,
    handle_errors,
    load_job,
)
from flows.cli.progress_bar import ProgressBar
from flows.prefect_server import PrefectServer
from musicgen.errors import StoreError

if TYPE_CHECKING:
    from flows.stages import JobContext
    from flows.summary import Summary
    from musicgen.job import Job
    from musicgen.plan import PlanOutcome


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
    with handle_errors(verbose, store_error_code=WRONG):  # planning turns a store's error into the job's
        loaded = load_job(job, settings, manifest=manifest, output=output, model=model, limit=limit, actors=actors)
        raise typer.Exit(_run_job(loaded, check_retry_classes(retry_failed), as_json, verbose))


def _run_job(job: "Job", retry_failed: Sequence[str], as_json: bool, verbose: bool) -> int:
    """Plan the job and finish its run; returns the exit code."""
    from actors.cluster import check_address
    from flows.stages import open_job, plan_run

    check_address(job.cluster)
    context = open_job(job)
    server = PrefectServer()  # it starts while the job is planned and Ray is joined
    try:
        with ProgressBar() as bar:
            outcome = plan_run(context, retry_failed=retry_failed, on_rows_read=bar.count("manifest rows read"))
        if outcome.plan is None:
            return _report_nothing(outcome, job.output.uri, as_json)
        return _report_summary(_finish_run(context, outcome, server, verbose), outcome, as_json)
    finally:
        server.stop()


def _finish_run(context: "JobContext", outcome: "PlanOutcome", server: PrefectServer, verbose: bool) -> "Summary":
    """Generate and publish the planned run as a Prefect flow, with progress on stderr."""
    from actors.cluster import join_cluster

    plan = outcome.plan
    assert plan is not None
    with ProgressBar() as bar:
        verb = "going on with" if outcome.adopted else "planned"
        hours = plan.audio_s / 3600
        bar.announce(f"{verb} run {plan.run}: {plan.rows} clips in {len(plan.shards)} shards, {hours:.2f} h of audio")
        if outcome.made:
            bar.announce(f"{outcome.made} rows are in the dataset already")
        if outcome.invalid_count:
            bar.announce(f"{outcome.invalid_count} rows are invalid and go to failures/")
        try:
            with join_cluster(context.job.cluster, verbose) as cluster:
                bar.announce(f"on {cluster.description}")
                with server.connected():
                    from flows.synthesize import finish_run_as_flow  # Prefect reads its settings when it is imported

                    return finish_run_as_flow(context, plan, cluster, bar)
        except StoreError as error:
            error.add_note("What is committed is safe; run the same command again to go on.")
            raise
        except KeyboardInterrupt:
            bar.close()
            uri = context.job.output.uri
            bar.announce(f"stopped; what is committed is safe in {uri}. Run the same command again to go on.")
            raise


def _report_nothing(outcome: "PlanOutcome", dataset: str, as_json: bool) -> int:
    """Print that no row is missing; returns the exit code."""
    if as_json:
        counts = {"dataset": dataset, "run": None, "rows": 0, "made": 0, "failed": 0, "missing": 0}
        counts |= {"invalid": outcome.invalid_count}
        typer.echo(json.dumps(counts | {"made_before": outcome.made, "failed_before": outcome.failed_before}))
    else:
        total = outcome.made + outcome.failed_before + outcome.invalid_count
        share = "all" if total == outcome.made else f"{outcome.made} of"
        typer.echo(f"Nothing to make: {share} {total} rows are in {dataset}.")
    if not (outcome.failed_before or outcome.invalid_count):
        return OK
    print(
        f"{outcome.failed_before} rows failed before (--retry-failed crash tries them again); "
        f"{outcome.invalid_count} are invalid.",
        file=sys.stderr,
    )
    return SOME_FAILED


def _report_summary(summary: "Summary", outcome: "PlanOutcome", as_json: bool) -> int:
    """Print how the run ended; returns the exit code."""
    typer.echo(json.dumps(summary.to_dict(), indent=1) if as_json else summary.to_text())
    if summary.missing:
        return WRONG
    held_back = 0 if outcome.adopted else outcome.held_back
    if held_back:
        print(
            f"{held_back} rows failed before and were not tried again; --retry-failed crash tries them.",
            file=sys.stderr,
        )
    return OK if summary.all_made and not held_back else SOME_FAILED
