"""Hands progress to an observer in a thread of its own, so that a slow one never holds up the run."""

import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from actors.messages import Progress

_END_WAIT_S = 2.0  # for the last call, when the run has ended


class ProgressThread:
    """Calls `on_progress` with the latest progress. What comes while a call lasts replaces what waits.

    Exceptions of `on_progress` are dropped, and a call that does not return is left behind at the end.
    """

    def __init__(self, on_progress: Callable[[Progress], None]):
        self._on_progress = on_progress
        self._latest: Progress | None = None
        self._ended = False
        self._changed = threading.Condition()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="progress", daemon=True)

    def __enter__(self) -> "ProgressThread":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(_END_WAIT_S)

    def put(self, progress: Progress) -> None:
        """Take the progress, and return at once."""
        with self._changed:
            self._latest = progress
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._latest is None and not self._ended:
                    self._changed.wait()
                progress, self._latest = self._latest, None
            if progress is None:
                return
            with suppress(Exception):
                self._on_progress(progress)
