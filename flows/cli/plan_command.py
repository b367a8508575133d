"""`musicgen plan`: what a run would do."""

import json
from typing import Any

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
    check_retry,
    load_job,
    outcome,
)


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
    with outcome(verbose):
        loaded = load_job(job, settings, manifest=manifest, output=output, model=model, limit=limit, actors=actors)
        from flows.prepare import plan_job, survey

        ground = survey(loaded)
        found = _describe(loaded, ground, plan_job(ground, dry_run=True, retry_failed=check_retry(retry_failed)))
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else _text(found))


def _describe(job: Any, ground: Any, planned: Any) -> dict[str, Any]:
    return {
        "manifest": job.manifest.uri,
        "dataset": job.output.uri,
        "model": job.model.name,
        "model_identity": ground.checkpoint.identity,
        "run": planned.plan.run if planned.plan is not None else None,
        "adopted": planned.adopted,
        "new": planned.new,
        "made": planned.made,
        "failed_before": planned.failed_before,
        "retried": planned.retried,
        "duplicates": planned.duplicates,
        "invalid": planned.invalid_count,
        "invalid_rows": [{"source": source, "reason": reason} for source, reason in planned.invalid],
        "shards": planned.shards,
        "audio_hours": round(planned.audio_s / 3600, 6),
        "estimated_s": round(planned.estimated_s, 1),
    }


def _text(found: dict[str, Any]) -> str:
    from flows.progress import clock

    rows = [
        ("new", found["new"], ""),
        ("already made", found["made"], ""),
        ("failed before", found["failed_before"], f"{found['retried']} of them would be tried again"),
        ("duplicates", found["duplicates"], "equal to an earlier row"),
        ("invalid", found["invalid"], ""),
    ]
    lines = [f"{name:<14} {count:>9}{f'   {note}' if note and count else ''}" for name, count, note in rows]
    lines += [f"  {row['source']}: {row['reason']}" for row in found["invalid_rows"]]
    if found["new"] + found["retried"]:
        clips = found["new"] + found["retried"]
        lines.append(
            f"A run would make {clips} clips, {found['audio_hours']:.2f} hours of audio in {found['shards']} shards, "
            f"in roughly {clock(found['estimated_s'])} (a guess from the model's size)."
        )
        if found["adopted"]:
            lines.append(f"It would go on with the unfinished run {found['run']}.")
    else:
        lines.append("A run would make nothing.")
    return "\n".join(lines)
