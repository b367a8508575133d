"""`musicgen status`: shows how far each run of a dataset is."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

import musicgen.dataset
from flows.cli.options import AsJson, Dataset, Verbose, handle_errors
from flows.cli.status_watch import watch_runs
from flows.own_command import own_command
from flows.progress import format_local_time

if TYPE_CHECKING:
    from musicgen.dataset.status import RunStatus

_COUNTS = ("planned", "made", "failed", "missing", "invalid")


def status(
    dataset: Dataset,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Show how far the runs at work are, every few seconds, until they have ended."),
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show the rows planned, made, failed and missing, per run, the newest run first.

    For example: musicgen status s3://bucket/datasets/first
    """
    with handle_errors(verbose):
        opened = musicgen.dataset.open_dataset(dataset)
        if watch:
            watch_runs(opened, as_json)
        runs = sorted(musicgen.dataset.run_statuses(opened), key=lambda run: (run.created_at, run.run), reverse=True)
        pause = musicgen.dataset.read_pause(opened.store)
        if as_json:
            paused = str(pause) if pause is not None else None
            document = {"dataset": dataset, "paused": paused, "runs": [run.to_json() for run in runs]}
            typer.echo(json.dumps(document, indent=None if watch else 1))
            return
        typer.echo("\n".join(_make_table(runs)) if runs else f"{dataset} has no runs.")
        if pause is not None:
            print(f"{dataset} is {pause}; `{own_command('resume', dataset)}` ends that", file=sys.stderr)


def _make_table(runs: list["RunStatus"]) -> list[str]:
    """Return the lines of the table."""
    counts = (*_COUNTS, "removed") if any(run.removed for run in runs) else _COUNTS
    header = ("run", "planned at", "model", *counts, "audio", "shards", "state")
    rows = [header, *(_describe_run(run, counts) for run in runs)]
    if len(runs) > 1:
        rows.append(_describe_total(runs, counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if name in counts or name in ("audio", "shards") else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    return lines


def _describe_run(run: "RunStatus", counts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the cells of a run's line."""
    return (
        run.run,
        format_local_time(run.created_at) or "?",
        (run.model or "?").rstrip("/").rpartition("/")[2],
        *(f"{getattr(run, name):,}" for name in counts),
        _format_hours(run.audio_s),
        f"{run.committed}/{run.shards}",
        _describe_state(run),
    )


def _describe_state(run: "RunStatus") -> str:
    if run.drivers:
        return ", ".join(
            f"running since {format_local_time(driver.started_at)} on {driver.host}" for driver in run.drivers
        )
    closed_by = f" by {run.closed_by}" if run.closed_by else ""
    return f"{run.state}{closed_by}"


def _describe_total(runs: list["RunStatus"], counts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the cells of the last line. What is missing of a closed run is planned by later ones."""
    summed = ("made", "failed", "removed")
    sums = (f"{sum(getattr(run, name) for run in runs):,}" if name in summed else "" for name in counts)
    return ("total", "", "", *sums, _format_hours(sum(run.audio_s for run in runs)), "", "")


def _format_hours(audio_s: float) -> str:
    return f"{audio_s / 3600:,.2f} h" if audio_s >= 360 else f"{audio_s:,.1f} s"
