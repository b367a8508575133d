"""Counts the seconds that a process runs, without the time that it is stopped (SIGSTOP, a closed laptop)."""

import threading
import time

_TICK_S = 0.25
_LONGEST_S = 2.0  # between two updates of a running process, even on a busy machine; a longer gap is a pause


class RunningClock:
    """Counts seconds within a `with` block. A thread reads the time often, so that a long gap shows a pause."""

    def __init__(self, seconds: float = 0.0):
        self._seconds = seconds
        self._last_time_s = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    @property
    def seconds(self) -> float:
        """Return the seconds so far, including those given at the beginning."""
        self._update()
        return self._seconds

    def __enter__(self) -> "RunningClock":
        self._last_time_s = time.monotonic()
        threading.Thread(target=self._run, name="clock", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_TICK_S):
            self._update()

    def _update(self) -> None:
        with self._lock:
            time_s = time.monotonic()
            self._seconds += min(time_s - self._last_time_s, _LONGEST_S)
            self._last_time_s = time_s
