"""Progress on stderr: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from actors.messages import Progress
from flows.progress import describe_progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_INTERVAL_S = 10.0


class ProgressBar:
    """Shows progress while it is entered; it is the `RunObserver` of the command line."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._printed_count = -1
        self._printed_at = 0.0

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def announce(self, text: str) -> None:
        """Print a line; on a terminal it stands above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def update(self, progress: Progress) -> None:
        """Show how many clips of a run are made."""
        finished = progress.shards_done == progress.shards
        self._show(
            describe_progress(progress), progress.settled, progress.rows, at_once=finished or self._printed_count < 0
        )

    def count(self, label: str) -> Callable[[int, int | None], None]:
        """Return a callback (done, total) that shows `label` with the count; the total is None if it is not known."""

        def show_count(done: int, total: int | None = None) -> None:
            text = f"{label}: {done:,}" if total is None else f"{label}: {done:,} of {total:,}"
            self._show(text, done, total, at_once=False)

        self._printed_at = time.monotonic()  # short work shows nothing where there is no terminal
        return show_count

    def _show(self, text: str, done: int, total: int | None, at_once: bool) -> None:
        if self._is_terminal:
            self._draw(text, done, total)
            return
        now = time.monotonic()
        if (at_once and done != self._printed_count) or (
            now - self._printed_at >= _LINE_INTERVAL_S and done != self._printed_count
        ):
            self._printed_count, self._printed_at = done, now
            print(text, file=sys.stderr, flush=True)

    def _draw(self, text: str, done: int, total: int | None) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                BarColumn(None),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )
            self._task = self._bar.add_task("", total=total)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, description=text)
