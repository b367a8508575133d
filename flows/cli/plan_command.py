"""`musicgen plan`: what a run would do."""

import json
from typing import TYPE_CHECKING, TypedDict

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
    Verbose,
    check_retry_classes,
    handle_errors,
    load_job,
)
from flows.cli.progress_bar import ProgressBar
from flows.progress import format_duration

if TYPE_CHECKING:
    from flows.stages import JobContext
    from musicgen.plan import PlanOutcome


class PlanReport(TypedDict):
    """The values of `musicgen plan --json`."""

    manifest: str
    dataset: str
    model: str
    model_identity: str
    run: str | None
    adopted: bool
    new: int
    made: int
    failed_before: int
    retried: int
    duplicates: int
    invalid: int
    invalid_rows: list[dict[str, str]]
    shards: int
    audio_hours: float
    estimated_s: float


def plan(
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
    """Say what a run would do, and do nothing."""
    with handle_errors(verbose):
        loaded = load_job(job, settings, manifest=manifest, output=output, model=model, limit=limit, actors=actors)
        from flows.stages import open_job, plan_run

        context = open_job(loaded)
        retried = check_retry_classes(retry_failed)
        with ProgressBar() as bar:
            on_rows_read = bar.count("manifest rows read")
            outcome = plan_run(context, dry_run=True, retry_failed=retried, on_rows_read=on_rows_read)
        report = _make_report(context, outcome)
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False) if as_json else _format_report(report))


def _make_report(context: "JobContext", outcome: "PlanOutcome") -> PlanReport:
    return {
        "manifest": context.job.manifest.uri,
        "dataset": context.job.output.uri,
        "model": context.job.model.name,
        "model_identity": context.checkpoint.identity,
        "run": outcome.plan.run if outcome.plan is not None else None,
        "adopted": outcome.adopted,
        "new": outcome.new,
        "made": outcome.made,
        "failed_before": outcome.failed_before,
        "retried": outcome.retried,
        "duplicates": outcome.duplicates,
        "invalid": outcome.invalid_count,
        "invalid_rows": [{"source": source, "reason": reason} for source, reason in outcome.invalid],
        "shards": outcome.shards,
        "audio_hours": round(outcome.audio_s / 3600, 6),
        "estimated_s": round(outcome.estimated_s, 1),
    }


def _format_report(report: PlanReport) -> str:
    rows = [
        ("new", report["new"], ""),
        ("already made", report["made"], ""),
        ("failed before", report["failed_before"], f"{report['retried']} of them would be tried again"),
        ("duplicates", report["duplicates"], "equal to an earlier row"),
        ("invalid", report["invalid"], ""),
    ]
    lines = [f"{name:<14} {count:>9}{f'   {note}' if note and count else ''}" for name, count, note in rows]
    lines += [f"  {row['source']}: {row['reason']}" for row in report["invalid_rows"]]
    clips = report["new"] + report["retried"]
    if not clips:
        return "\n".join([*lines, "A run would make nothing."])
    lines.append(
        f"A run would make {clips} clips, {report['audio_hours']:.2f} hours of audio in {report['shards']} shards, "
        f"in roughly {format_duration(report['estimated_s'])} (a guess from the model's size)."
    )
    if report["adopted"]:
        lines.append(f"It would go on with the unfinished run {report['run']}.")
    return "\n".join(lines)
