"""Progress on stderr: a bar on a terminal, lines elsewhere. No command is silent for longer than half a minute."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

from actors.messages import Progress
from flows.cli.safe_output import escape_controls
from flows.progress import describe_progress, format_duration
from musicgen.errors import redact_urls
from musicgen.store_waits import find_longest_wait

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_INTERVAL_S = 10.0  # between two lines of counts where there is no terminal
_SILENCE_S = 25.0  # after which a line says what is going on, also if nothing has changed
_WAIT_SHOWN_S = 20.0  # how long something has to hold a run up before it is shown
_START_S = 20.0  # of a slow start of the process that counts as silence
_TICK_S = 1.0
_ESTIMATED_AFTER_S = 5.0  # of counting, before which no time to go is guessed


class ProgressBar:
    """Shows progress while it is entered. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._lock = threading.RLock()
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._text = ""
        self._done: float = 0
        self._total: int | None = None
        self._waiting_for: tuple[str, ...] = ()
        now = time.monotonic()
        self._stage_began = self._changed_at = self._waiting_since = now
        self._printed_at = now - min(_measure_age_s(), _START_S)
        self._printed_count: float = -1
        self._printed_wait = ""
        self._ended = threading.Event()

    def __enter__(self) -> "ProgressBar":
        threading.Thread(target=self._tick_until_closed, name="progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar from the terminal; lines can still be announced."""
        self._ended.set()
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = self._task = None

    def announce(self, text: str) -> None:
        """Print a line; on a terminal it stands above the bar. Passwords in URLs are left out."""
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(escape_controls(redact_urls(text)), highlight=False, markup=False)
            else:
                self._print(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name what the block does, which is shown as long as it reports no progress."""
        now = time.monotonic()
        with self._lock:
            self._stage, self._text, self._waiting_for = name, "", ()
            self._stage_began = self._changed_at = now
            self._printed_count = -1
        yield

    def update(self, progress: Progress) -> None:
        """Show how many clips of a run are made, and what holds it up once that lasts."""
        with self._lock:
            if not progress.waiting_for or not self._waiting_for:
                self._waiting_since = time.monotonic()
            self._waiting_for = progress.waiting_for
            finished = progress.shards_done == progress.shards
            first = self._printed_count < 0
            self._show(describe_progress(progress), progress.done, progress.rows, at_once=finished or first)

    def count(self, label: str) -> Callable[[int, int | None], None]:
        """Return a callback (done, total) that shows `label` with the count, and when it will be done.

        The total is None if it is not known.
        """
        began = time.monotonic()

        def show_count(done: int, total: int | None = None) -> None:
            text = f"{label}: {done:,}" if total is None else f"{label}: {done:,} of {total:,}"
            spent_s = time.monotonic() - began
            if total is not None and 0 < done < total and spent_s >= _ESTIMATED_AFTER_S:
                text += f", {format_duration(spent_s * (total - done) / done)} to go"
            self._show(text, done, total, at_once=False)

        return show_count

    def _show(self, text: str, done: float, total: int | None, at_once: bool) -> None:
        with self._lock:
            now = time.monotonic()
            if self._ended.is_set():
                return
            self._text, self._done, self._total, self._changed_at = text, done, total, now
            # Counts of short work are not shown without a terminal.
            due = at_once or now - max(self._printed_at, self._stage_began) >= _LINE_INTERVAL_S
            if not self._is_terminal and due and done != self._printed_count:
                self._print_state(now)

    def _tick_until_closed(self) -> None:
        while not self._ended.wait(_TICK_S):
            with self._lock:
                if not self._ended.is_set() and self._stage:
                    self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if self._is_terminal:
            self._draw(self._describe(now))
            return
        quiet_s = now - self._printed_at
        new_wait = self._describe_wait(now) != self._printed_wait
        if quiet_s >= _SILENCE_S or (new_wait and quiet_s >= _LINE_INTERVAL_S):
            self._print_state(now)

    def _describe(self, now: float) -> str:
        """Return the counts, or the stage, and what it waits for."""
        text = self._text or self._stage
        if wait := self._describe_wait(now):
            return f"{text}; {wait}"
        if now - self._changed_at < _WAIT_SHOWN_S:
            return text
        if not self._text:
            return f"{text}, for {format_duration(now - self._stage_began)} so far"
        return f"{text}; nothing new for {format_duration(now - self._changed_at)}"

    def _describe_wait(self, now: float) -> str:
        """Return what has held the command up for a while, in the actors or in this process; empty if nothing has."""
        if self._waiting_for and now - self._waiting_since >= _WAIT_SHOWN_S:
            return "; ".join(self._waiting_for)
        wait = find_longest_wait(_WAIT_SHOWN_S)
        return str(wait) if wait is not None else ""

    def _print_state(self, now: float) -> None:
        self._printed_count, self._printed_at = self._done, now
        self._printed_wait = self._describe_wait(now)
        self._print(self._describe(now))

    def _print(self, text: str) -> None:
        sys.stderr.write(redact_urls(text) + "\n")  # in one piece, beside what other threads write
        sys.stderr.flush()
        self._printed_at = time.monotonic()

    def _draw(self, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                BarColumn(None),
                TextColumn("{task.description}", markup=False),
                console=Console(file=sys.__stderr__),
                transient=True,
                expand=True,
            )
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        assert self._task is not None
        description = escape_controls(redact_urls(text))
        self._bar.update(self._task, completed=self._done, total=self._total, description=description)


def _measure_age_s() -> float:
    """Return for how long this process has run."""
    return time.time() - float(psutil.Process().create_time())
