"""Publishes a run as Prefect artifacts: a progress bar, counts, failures and a summary.

An artifact that cannot be published does not stop the run, and one that takes long does not delay it: each is made in a
thread of its own.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from types import TracebackType
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from actors.messages import Progress
from flows.progress import describe_progress, format_count
from flows.summary import Summary
from musicgen.dataset.readme import fence_code

_UPDATE_INTERVAL_S = 10.0
_END_WAIT_S = 10.0  # for artifacts that are being published when a task ends


class ProgressArtifact:
    """A progress bar in Prefect. While Prefect takes long, only the latest progress is kept."""

    def __init__(self, run: str):
        self._run = run
        self._latest: Progress | None = None
        self._news = threading.Event()
        self._ended = threading.Event()
        self._thread = _start_thread(self._publish)

    def __enter__(self) -> "ProgressArtifact":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._news.set()
        if error is None:
            self._thread.join(_END_WAIT_S)

    def update(self, progress: Progress) -> None:
        """Take the progress, and return at once."""
        self._latest = progress
        self._news.set()

    def _publish(self) -> None:
        key = f"progress-{self._run}".lower()
        with suppress(Exception):
            artifact_id = create_progress_artifact(0.0, key=key, description="clips made or failed")
            while isinstance(artifact_id, UUID):  # in async code it would be a coroutine
                self._news.wait()
                self._news.clear()
                last = self._ended.is_set()
                if (progress := self._latest) is not None:
                    percent = 100.0 * progress.share
                    with suppress(Exception):
                        update_progress_artifact(artifact_id, percent, description=_describe(progress))
                if last:
                    return
                self._ended.wait(_UPDATE_INTERVAL_S)


def publish_summary(summary: Summary, failures: Sequence[Mapping[str, object]]) -> None:
    """Publish the counts and failures as tables and the summary as text.

    Failed rows are a warning, not a failed run.
    """
    _start_thread(lambda: _publish_summary(summary, failures)).join(_END_WAIT_S)


def _publish_summary(summary: Summary, failures: Sequence[Mapping[str, object]]) -> None:
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
            description = f"WARNING: {format_count(not_made, 'row')} failed"
            create_table_artifact(table, key=f"failures-{run}", description=description)
    with suppress(Exception):
        warning = f"\n\n> **Warning:** {format_count(not_made, 'row')} failed; see failures/." if failures else ""
        page = f"\n\n[How the run went]({summary.page})" if summary.page else ""
        create_markdown_artifact(
            f"{fence_code(summary.to_text())}{page}{warning}", key=f"summary-{run}", description="how the run ended"
        )


def _describe(progress: Progress) -> str:
    return "; ".join([describe_progress(progress), *progress.waiting_for])


def _start_thread(work: Callable[[], None]) -> threading.Thread:
    """Start a thread that belongs to the flow run of the caller; the process does not wait for it."""
    thread = threading.Thread(target=copy_context().run, args=(work,), name="artifacts", daemon=True)
    thread.start()
    return thread
