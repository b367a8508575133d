"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

from actors.messages import Progress
from flows.progress import line

_LINE_EVERY_S = 10.0


class Display:
    """Shows progress while it is entered; `say` prints a line above it."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._shown = (-1, 0.0)

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str) -> None:
        """A line for people."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def __call__(self, progress: Progress) -> None:
        if self._terminal:
            self._draw(progress)
            return
        settled, shown_at = self._shown
        now = time.monotonic()
        finished = progress.shards_done == progress.shards
        if settled < 0 or (progress.settled != settled and (finished or now - shown_at >= _LINE_EVERY_S)):
            self._shown = (progress.settled, now)
            print(line(progress), file=sys.stderr, flush=True)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(None),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )
            self._task = self._bar.add_task("", total=progress.rows)
            self._bar.start()
        self._bar.update(self._task, completed=progress.settled, description=line(progress))
