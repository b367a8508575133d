"""Plans a job and finishes its run, for `musicgen run`: what is said on the way, and the exit code."""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext

import typer

from actors.cluster import Cluster, check_address, find_address, join_cluster
from actors.messages import Progress
from flows.cli.json_log import log_event, name_run
from flows.cli.options import OK, SOME_FAILED, WRONG
from flows.cli.progress_bar import ProgressBar
from flows.cli.quiet import hide_native_output
from flows.column_lines import describe_columns, describe_growth
from flows.model_notes import describe_model, note_default_model
from flows.prefect_record import PrefectRecord
from flows.prefect_server import check_prefect_url
from flows.progress import describe_estimate, describe_price, format_audio_length, format_count
from flows.stages import JobContext, expect_actors, generate_clips, open_job, plan_run, publish_run
from flows.summary import Summary, describe_missing_audio
from musicgen.cluster_settings import NO_CLUSTER
from musicgen.dataset.missing_audio import find_missing_audio
from musicgen.dataset.reader import read_dataset
from musicgen.errors import StoreError
from musicgen.job import Job
from musicgen.plan import Plan, PlanOutcome
from musicgen.storage.patience import wait_for_store


def run_job(job: Job, retry_failed: Sequence[str], as_json: bool, verbose: bool) -> int:
    """Plan the job and finish its run; returns the exit code."""
    in_process = job.cluster.address == NO_CLUSTER
    with ProgressBar() as bar, ExitStack() as stack:
        with bar.stage("opening the dataset and the model"):
            check_address(job.cluster)
            if not in_process:
                check_prefect_url()
            context = open_job(job)
        cluster = None
        if find_address(job.cluster):  # a cluster that cannot be joined is found before the plan is frozen
            with bar.stage("joining the Ray cluster"), hide_native_output(verbose):
                cluster = stack.enter_context(join_cluster(job.cluster, verbose, job.model.device))
        with bar.stage("planning"):
            outcome = plan_run(
                context,
                expect_actors(job, cluster),
                retry_failed=retry_failed,
                on_rows_read=bar.count("manifest rows read"),
                on_shards_closed=lambda run, done, total: bar.count(f"shards of run {run} closed")(done, total),
            )
        if outcome.plan is None:
            with bar.stage("looking for the dataset's audio"):
                missing_audio = _find_missing_audio(context) if outcome.made else []
            bar.close()
            return _report_nothing(context.job.output.uri, outcome, missing_audio, as_json)
        if outcome.becomes_current:
            with bar.stage("writing the dataset's card"):
                summary, _ = publish_run(context, outcome.plan, None)
            bar.close()
            return _report_nothing(context.job.output.uri, outcome, list(summary.missing_audio), as_json)
        if (request := context.checkpoint.pull_request) is not None:
            bar.announce(f"the weights of {job.model.name} are of {request}")
        name_run(outcome.plan.run)
        _announce_plan(context, outcome, outcome.plan, bar)
        if outcome.adopted and retry_failed:
            bar.announce(
                "--retry-failed does nothing for a run that is planned already; give it again when this one ends"
            )
        if cluster is None:
            with bar.stage("starting Ray"), nullcontext() if in_process else hide_native_output(verbose):
                cluster = stack.enter_context(join_cluster(job.cluster, verbose, job.model.device))
        bar.announce(f"on {cluster.description}: {cluster.expect_actors(job.cluster)}")
        if cluster.environment_note:
            bar.announce(cluster.environment_note)
        record = None
        if not in_process:  # not earlier, because starting Ray needs the processor
            record = stack.enter_context(PrefectRecord(job, outcome.plan.run, bar.announce, verbose))
        summary = _finish_run(context, outcome.plan, cluster, bar, record)
        bar.close()
        return _report_summary(summary, outcome, as_json)


def _announce_plan(context: JobContext, outcome: PlanOutcome, plan: Plan, bar: ProgressBar) -> None:
    verb = "going on with" if outcome.adopted else "planned"
    clips, shards = format_count(plan.rows, "clip"), format_count(len(plan.shards), "shard")
    size = f"{clips}, {format_audio_length(plan.audio_s)}, in {shards}"
    bar.announce(f"{verb} run {plan.run}: {size}, with {describe_model(context)}")
    if outcome.estimate is not None and outcome.shards:
        price = describe_price(outcome.estimate, context.job.cluster.price_per_hour)
        bar.announce(f"it will take {describe_estimate(outcome.estimate)}: {price}")
    if note := note_default_model(context):
        bar.announce(note)
    for line in [
        *describe_columns(outcome.used, outcome.carried, outcome.near_misses, outcome.left_out),
        *describe_growth(outcome.added, outcome.lacking, outcome.not_carried),
        *outcome.prompts.describe(),
    ]:
        bar.announce(line)
    if outcome.made:
        bar.announce(f"already in the dataset: {format_count(outcome.made, 'row')}")
    if outcome.removed:
        bar.announce(f"left out, because their clips were removed: {format_count(outcome.removed, 'row')}")
    if outcome.conflicting:
        bar.announce(
            f"{format_count(outcome.conflicting, 'row')} equal to an earlier one but for carried values, which are "
            "dropped; give them ids to keep them apart"
        )
    if outcome.invalid_count:
        bar.announce(f"invalid, and written to failures/: {format_count(outcome.invalid_count, 'row')}")


def _finish_run(
    context: JobContext, plan: Plan, cluster: Cluster, bar: ProgressBar, record: PrefectRecord | None
) -> Summary:
    """Generate and publish the planned run, with progress on stderr and in Prefect."""

    def show_progress(progress: Progress) -> None:
        bar.update(progress)
        if record is not None:
            record.update(progress)

    try:
        with bar.stage("generating"):
            result = generate_clips(context, plan, cluster, show_progress, log_event)
        if record is not None:
            record.generated(result.progress if result else None)
        with bar.stage("writing the dataset's card"):
            summary, failures = publish_run(context, plan, result)
        if record is not None:
            record.published(summary, failures)
    except StoreError as error:
        error.add_note("What is committed is safe; run the same command again to go on.")
        raise
    except KeyboardInterrupt:
        bar.close()
        uri = context.job.output.uri
        bar.announce(f"stopped; what is committed is safe in {uri}. Run the same command again to go on.")
        raise
    return summary


def _find_missing_audio(context: JobContext) -> list[str]:
    """List the audio files of the dataset that are gone, and wait for a store that does not answer."""
    return wait_for_store(lambda: find_missing_audio(read_dataset(context.store)), context.job.cluster.store_patience_s)


def _report_nothing(dataset: str, outcome: PlanOutcome, missing_audio: list[str], as_json: bool) -> int:
    """Print that no row is missing; returns the exit code."""
    if as_json:
        run = outcome.plan.run if outcome.plan is not None else None
        counts: dict[str, object] = {"dataset": dataset, "run": run, "rows": 0, "made": 0, "failed": 0, "missing": 0}
        counts |= {"invalid": outcome.invalid_count, "missing_audio": missing_audio}
        typer.echo(
            json.dumps(
                counts
                | {"made_before": outcome.made, "failed_before": outcome.failed_before, "removed": outcome.removed}
            )
        )
    else:
        total = outcome.made + outcome.removed + outcome.failed_before + outcome.invalid_count
        removed = f", {outcome.removed:,} removed" if outcome.removed else ""
        typer.echo(f"Nothing to make: {outcome.made:,} of {format_count(total, 'row')} made{removed}, in {dataset}.")
        if outcome.becomes_current:
            typer.echo("The rows of this manifest, in its order, are now the current ones of the dataset.")
        _print_unasked(dataset, outcome)
    if outcome.current_waits_for:
        print(
            f"The current rows of the dataset stay as they are until run {outcome.current_waits_for} is finished.",
            file=sys.stderr,
        )
    if missing_audio:
        print(describe_missing_audio(missing_audio, dataset), file=sys.stderr)
    if not (outcome.failed_before or outcome.invalid_count):
        return SOME_FAILED if missing_audio else OK
    failed = f"{format_count(outcome.failed_before, 'row')} failed before"
    if outcome.failed_before:
        failed += " (--retry-failed CLASS retries those that are held back)"
    print(
        f"{failed}; invalid: {outcome.invalid_count}",
        *(f"  {source}: {reason}" for source, reason in outcome.invalid),
        sep="\n",
        file=sys.stderr,
    )
    return SOME_FAILED


def _print_unasked(dataset: str, outcome: PlanOutcome) -> None:
    """Print how many clips the dataset has that the manifest does not ask for, and how to load the others alone."""
    if outcome.unasked:
        verb = "is" if outcome.unasked == 1 else "are"
        clips = f"{format_count(outcome.unasked, 'clip')} of the dataset {verb} of no row of this manifest"
        typer.echo(f"{clips}; without them: load_dataset({dataset!r}, 'current'), or open_dataset(...).current()")


def _report_summary(summary: Summary, outcome: PlanOutcome, as_json: bool) -> int:
    """Print how the run ended; returns the exit code."""
    typer.echo(json.dumps(summary.to_dict(), indent=1) if as_json else summary.to_text())
    if not as_json:
        _print_unasked(summary.dataset, outcome)
    if summary.missing:
        return WRONG
    held_back = 0 if outcome.adopted else outcome.held_back
    if held_back:
        print(
            f"{format_count(held_back, 'row')} failed before and {'was' if held_back == 1 else 'were'} not retried; "
            f"--retry-failed {','.join(outcome.held_back_classes)} does so.",
            file=sys.stderr,
        )
    return OK if summary.all_made and not held_back else SOME_FAILED
