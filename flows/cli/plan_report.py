"""What `musicgen plan` finds out and says."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TypedDict

from actors.cluster import check_address, find_address, join_cluster
from flows.cli.progress_bar import ProgressBar
from flows.cli.quiet import hide_native_output
from flows.column_lines import describe_columns, describe_growth
from flows.model_notes import describe_model, note_default_model
from flows.progress import describe_estimate, describe_price, format_audio_length, format_count
from flows.stages import JobContext, expect_actors, open_job, plan_run
from musicgen.dataset.pause import read_pause
from musicgen.job import Job
from musicgen.plan import PlanOutcome
from musicgen.plan.expected_actors import ExpectedActors, expect_actors_of_job


class PlanReport(TypedDict):
    """The values of `musicgen plan --json`."""

    manifest: str
    dataset: str
    model: str
    model_description: str
    model_note: str
    model_identity: str
    model_revision: str | None
    model_pull_request: dict[str, str | int] | None
    run: str | None
    adopted: bool
    becomes_current: bool
    new: int
    made: int
    removed: int
    unasked: int
    failed_before: int
    retried: int
    held_back: dict[str, int]
    duplicates: int
    conflicting: int
    carried: list[str]
    used: dict[str, str]
    near_misses: list[str]
    csv: str
    prompts: dict[str, int | bool]
    prompt_notes: list[str]
    left_out: list[str]
    added: list[str]
    lacking: list[str]
    not_carried: list[str]
    to_close: list[str]
    invalid: int
    invalid_rows: list[dict[str, str]]
    shards: int
    actors: dict[str, float]
    audio_hours: float
    estimated_s: float
    estimate: dict[str, float | bool] | None
    estimate_description: str
    actor_hours: float
    gpu_hours: float
    estimated_cost: float | None
    price_description: str
    paused: str


def describe_plan(job: Job, retry_failed: Sequence[str], as_json: bool, verbose: bool) -> str:
    """Plan the job without writing anything, and return what a run would do, as text or JSON.

    Raises `ManifestError`, `JobError` and `ModelError`.
    """
    with ProgressBar() as bar:
        with bar.stage("opening the dataset and the model"):
            context = open_job(job)
        actors = _ask_for_actors(job, bar, verbose)
        with bar.stage("planning"):
            on_rows_read = bar.count("manifest rows read")
            outcome = plan_run(context, actors, dry_run=True, retry_failed=retry_failed, on_rows_read=on_rows_read)
    report = _make_report(context, outcome, actors)
    return json.dumps(report, indent=1, ensure_ascii=False) if as_json else _format_report(report, actors)


def _ask_for_actors(job: Job, bar: ProgressBar, verbose: bool) -> ExpectedActors:
    """Return the actors of a run; a cluster that would be joined is asked what it has, unless the job says all."""
    if not find_address(job.cluster):
        return expect_actors(job, None)
    if job.cluster.actors != "auto" and job.cluster.gpus_per_actor != "auto":
        return expect_actors_of_job(job)
    check_address(job.cluster)
    with (
        bar.stage("asking the Ray cluster"),
        hide_native_output(verbose),
        join_cluster(job.cluster, verbose, job.model.device, brings_code=False) as cluster,
    ):
        return expect_actors(job, cluster)


def _make_report(context: JobContext, outcome: PlanOutcome, actors: ExpectedActors) -> PlanReport:
    pull_request, estimate = context.checkpoint.pull_request, outcome.estimate
    price, pause = context.job.cluster.price_per_hour, read_pause(context.store)
    actor_hours = estimate.actor_hours if estimate is not None else 0.0
    return {
        "manifest": context.job.manifest.uri,
        "dataset": context.job.output.uri,
        "model": context.job.model.name,
        "model_description": describe_model(context),
        "model_note": note_default_model(context),
        "model_identity": context.checkpoint.identity,
        "model_revision": context.checkpoint.revision,
        "model_pull_request": asdict(pull_request) if pull_request is not None else None,
        "run": outcome.plan.run if outcome.plan is not None else None,
        "adopted": outcome.adopted,
        "becomes_current": outcome.becomes_current,
        "new": outcome.new,
        "made": outcome.made,
        "removed": outcome.removed,
        "unasked": outcome.unasked,
        "failed_before": outcome.failed_before,
        "retried": outcome.retried,
        "held_back": dict(outcome.held_back_classes),
        "duplicates": outcome.duplicates,
        "conflicting": outcome.conflicting,
        "carried": list(outcome.carried),
        "used": dict(outcome.used),
        "near_misses": list(outcome.near_misses),
        "csv": outcome.csv,
        "prompts": asdict(outcome.prompts),
        "prompt_notes": outcome.prompts.describe(),
        "left_out": list(outcome.left_out),
        "added": list(outcome.added),
        "lacking": list(outcome.lacking),
        "not_carried": list(outcome.not_carried),
        "to_close": list(outcome.to_close),
        "invalid": outcome.invalid_count,
        "invalid_rows": [{"source": source, "reason": reason} for source, reason in outcome.invalid],
        "shards": outcome.shards,
        "actors": {"min": actors.fewest, "max": actors.most, "gpus_per_actor": actors.gpus_each},
        "audio_hours": round(outcome.audio_s / 3600, 6),
        "estimated_s": round(estimate.seconds, 1) if estimate is not None else 0.0,
        "estimate": asdict(estimate) if estimate is not None else None,
        "estimate_description": describe_estimate(estimate) if estimate is not None else "",
        "actor_hours": round(actor_hours, 6),
        "gpu_hours": round(estimate.gpu_hours, 6) if estimate is not None else 0.0,
        "estimated_cost": None if price is None else round(actor_hours * price, 4),
        "price_description": describe_price(estimate, price) if estimate is not None else "",
        "paused": str(pause) if pause is not None else "",
    }


def _format_report(report: PlanReport, actors: ExpectedActors) -> str:
    rows = [
        ("new", report["new"], ""),
        ("already made", report["made"], ""),
        ("failed before", report["failed_before"], _describe_failed(report)),
        ("duplicates", report["duplicates"], _describe_duplicates(report)),
        ("invalid", report["invalid"], ""),
    ]
    if report["removed"]:
        rows.insert(2, ("removed", report["removed"], "taken out of the dataset (musicgen remove), and not made again"))
    if report["unasked"]:
        rows.append(("not asked for", report["unasked"], "clips of the dataset; its config `current` is without them"))
    lines = [f"{name:<14} {count:>9}{f'   {note}' if note and count else ''}" for name, count, note in rows]
    lines += [f"  {row['source']}: {row['reason']}" for row in report["invalid_rows"]]
    if report["csv"]:
        lines.append(f"CSV is read with: {report['csv']}.")
    lines += describe_columns(report["used"], report["carried"], report["near_misses"], report["left_out"])
    lines += describe_growth(report["added"], report["lacking"], report["not_carried"])
    lines += report["prompt_notes"]
    if report["model_revision"]:
        lines.append(_describe_revision(report))
    if report["to_close"]:
        lines.append(f"A run would first close what is unfinished: {', '.join(report['to_close'])}.")
    clips = report["new"] + report["retried"]
    if not clips:
        lines.append("A run would make nothing.")
        if report["becomes_current"]:
            lines.append("The rows of this manifest would become the current ones of the dataset.")
        return "\n".join(lines)
    lines.append(
        f"A run would make {format_count(clips, 'clip')}, {format_audio_length(report['audio_hours'] * 3600)}, in "
        f"{format_count(report['shards'], 'shard')} with {report['model_description']}, on {actors}."
    )
    if report["estimate_description"]:
        lines.append(f"It would take {report['estimate_description']}.")
        lines.append(f"That is {report['price_description']}, by the same estimate.")
    if report["model_note"]:
        lines.append(report["model_note"])
    if report["adopted"]:
        lines.append(f"It would go on with the unfinished run {report['run']}.")
    if report["paused"]:
        lines.append(
            f"The dataset is {report['paused']}; a run stops (exit 5) until: musicgen resume {report['dataset']}"
        )
    return "\n".join(lines)


def _describe_failed(report: PlanReport) -> str:
    text = f"{report['retried']} of them would be retried"
    if not report["held_back"]:
        return text
    classes = ", ".join(f"{count} of class {name}" for name, count in sorted(report["held_back"].items()))
    return f"{text}; held back: {classes} (--retry-failed CLASS)"


def _describe_duplicates(report: PlanReport) -> str:
    if not report["conflicting"]:
        return "equal to an earlier row"
    return f"equal to an earlier row; {report['conflicting']} of them carry other values, which are dropped"


def _describe_revision(report: PlanReport) -> str:
    text = f"The model is {report['model']} at commit {report['model_revision']}"
    if (request := report["model_pull_request"]) is not None:
        return f"{text}, of pull request {request['number']} by {request['author']}."
    return f"{text}."
