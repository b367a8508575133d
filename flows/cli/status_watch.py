"""Follows the runs of a dataset that are at work, for `musicgen status --watch`: plain lines, until they have ended.

What it shows is what the drivers put into their tokens every few seconds: the progress of their own terminals.
"""

import json
import time
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

import typer

import musicgen.dataset
from actors.messages import Progress
from flows.cli.safe_output import escape_controls
from flows.progress import describe_progress
from musicgen.dataset.driver_token import DriverToken, read_living_drivers
from musicgen.unfinished_clips import UnfinishedClips
from musicgen.value_types import JsonObject

if TYPE_CHECKING:
    from musicgen.dataset.reader import Dataset

_INTERVAL_S = 3.0
_STARTING_S = 20.0  # for the first sign of a driver, which starts Ray after it has planned
_REPEATED_S = 25.0  # a line that has not changed is shown again


def watch_runs(dataset: "Dataset", as_json: bool, sleep: Callable[[float], None] = time.sleep) -> None:
    """Print how far the unfinished runs are, until none has a driver at work. Raises `StoreError`."""
    runs = [status.run for status in musicgen.dataset.run_statuses(dataset) if not status.finished]
    began_at, heard = time.monotonic(), False
    shown: dict[str, tuple[str, float]] = {}
    while runs:
        drivers = [(run, token) for run in runs for token in read_living_drivers(dataset.store, run)]
        if not drivers and (heard or time.monotonic() - began_at >= _STARTING_S):
            return
        heard = heard or bool(drivers)
        for run, token in drivers:
            _show_changed(shown, f"{run} {token.started_at}", _describe_driver(run, token, as_json))
        sleep(_INTERVAL_S)


def _show_changed(shown: dict[str, tuple[str, float]], name: str, line: str) -> None:
    """Print a line that has changed, or was not shown for a while; `shown` has the last one by name, and its time."""
    now = time.monotonic()
    before, shown_at = shown.get(name, ("", now))
    if line != before or now - shown_at >= _REPEATED_S:
        typer.echo(line)
        shown[name] = (line, now)


def _describe_driver(run: str, token: DriverToken, as_json: bool) -> str:
    """Return one line: the run, where its driver is, and the words of its own terminal."""
    if as_json:
        return json.dumps({"run": run, "host": token.host, "started_at": token.started_at, "progress": token.progress})
    progress = parse_progress(token.progress)
    text = "starting" if progress is None else "; ".join([describe_progress(progress), *progress.waiting_for])
    return escape_controls(f"run {run} on {token.host}: {text}")


def parse_progress(document: JsonObject) -> Progress | None:
    """Return the progress of a token, of this or another release; None if it has none."""
    known = {field.name: document[field.name] for field in fields(Progress) if field.name in document}
    try:
        known["unfinished"] = UnfinishedClips(**known.get("unfinished", {}))
        known["waiting_for"] = tuple(str(wait) for wait in known.get("waiting_for", ()))
        return Progress(**known)
    except TypeError:
        return None
