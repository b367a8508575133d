"""Publishes a run as Prefect artifacts: a progress bar, counts, failures and a summary.

An artifact that cannot be published does not stop the run.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from actors.messages import Progress
from flows.progress import RunObserver, describe_progress
from flows.summary import Summary

_UPDATE_INTERVAL_S = 10.0


class ProgressArtifact:
    """Passes a run's progress on to another observer, and every few seconds to a progress bar in Prefect."""

    def __init__(self, run: str, observer: RunObserver):
        self._observer = observer
        self._artifact_id: UUID | None = None
        self._next_update = 0.0
        with suppress(Exception):
            artifact_id = create_progress_artifact(
                0.0, key=f"progress-{run}".lower(), description="clips made or failed"
            )
            if isinstance(artifact_id, UUID):  # in async code it would be a coroutine
                self._artifact_id = artifact_id

    def announce(self, text: str) -> None:
        """Pass the event on."""
        self._observer.announce(text)

    def update(self, progress: Progress) -> None:
        """Pass the progress on, and update the bar when it is due or the run is finished."""
        self._observer.update(progress)
        now = time.monotonic()
        finished = progress.shards_done == progress.shards
        if self._artifact_id is None or (now < self._next_update and not finished):
            return
        self._next_update = now + _UPDATE_INTERVAL_S
        with suppress(Exception):
            percent = 100.0 * progress.settled / max(1, progress.rows)
            update_progress_artifact(self._artifact_id, percent, description=describe_progress(progress))


def publish_summary(summary: Summary, failures: Sequence[Mapping[str, object]]) -> None:
    """Publish the counts and failures as tables and the summary as text.

    Failed rows are a warning, not a failed run.
    """
    run = summary.run.lower()
    not_made = summary.failed + summary.invalid
    counts = {
        "planned": summary.rows,
        "made": summary.made,
        "failed": summary.failed,
        "refused while planning": summary.invalid,
        "missing": summary.missing,
    }
    with suppress(Exception):
        table = [{"": name, "rows": count} for name, count in counts.items()]
        create_table_artifact(table, key=f"counts-{run}", description="rows of the run")
    if failures:
        with suppress(Exception):
            table = [{name: row[name] for name in ("source", "id", "error_class", "error")} for row in failures]
            create_table_artifact(table, key=f"failures-{run}", description=f"WARNING: {not_made} rows failed")
    with suppress(Exception):
        warning = f"\n\n> **Warning:** {not_made} rows failed; see failures/." if failures else ""
        create_markdown_artifact(
            f"```\n{summary.to_text()}\n```{warning}", key=f"summary-{run}", description="how it ended"
        )
