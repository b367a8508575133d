"""What a run leaves in Prefect's interface: progress, counts, failures, a summary. None of it may stop a run."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from actors.messages import Progress
from flows.progress import line
from flows.summary import Summary

_EVERY_S = 10.0
_FAILURES_SHOWN = 50


class ProgressArtifact:
    """A progress bar in Prefect, touched every few seconds."""

    def __init__(self, run: str):
        self._id: Any = None
        self._due = 0.0
        with suppress(Exception):
            self._id = create_progress_artifact(0.0, key=f"progress-{run}".lower(), description="clips settled")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        finished = progress.shards_done == progress.shards
        if self._id is None or (now < self._due and not finished):
            return
        self._due = now + _EVERY_S
        with suppress(Exception):
            update_progress_artifact(
                self._id, 100.0 * progress.settled / max(1, progress.rows), description=line(progress)
            )


def both(*listeners: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """One listener that tells several."""

    def tell(progress: Progress) -> None:
        for listener in listeners:
            listener(progress)

    return tell


def publish_summary(summary: Summary, failures: list[dict[str, Any]]) -> None:
    """The counts and the failures as tables, the summary as text. Failed rows make it a warning, not a failed run."""
    run = summary.run.lower()
    counts = [
        {"": "planned", "rows": summary.rows},
        {"": "made", "rows": summary.made},
        {"": "failed", "rows": summary.failed},
    ]
    counts += [{"": "refused while planning", "rows": summary.invalid}, {"": "missing", "rows": summary.missing}]
    with suppress(Exception):
        create_table_artifact(counts, key=f"counts-{run}", description="rows of the run")
    if failures:
        with suppress(Exception):
            shown = [
                {name: row[name] for name in ("source", "id", "error_class", "error")}
                for row in failures[:_FAILURES_SHOWN]
            ]
            create_table_artifact(
                shown, key=f"failures-{run}", description=f"WARNING: {summary.failed + summary.invalid} rows failed"
            )
    with suppress(Exception):
        warning = (
            f"\n\n> **Warning:** {summary.failed + summary.invalid} rows failed; see failures/." if failures else ""
        )
        create_markdown_artifact(
            f"```\n{summary.text()}\n```{warning}", key=f"summary-{run}", description="how it ended"
        )
