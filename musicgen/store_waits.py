"""Tells what this process is waiting for in its stores, without the libraries that access them.

Displays and heartbeats ask `find_longest_wait`, which also knows of calls that have not failed yet and simply get no
answer.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreWait:
    """Something that a store holds up: since when (seconds of `time.time()`), and why, as far as that is known."""

    since: float
    reason: str = "no answer yet"

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"waiting for the store since {clock} ({self.reason})"

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return max(0.0, time.time() - self.since)


_waits: dict[object, StoreWait] = {}
_waits_lock = threading.Lock()


@contextmanager
def track_wait(since: float, reason: str | None = None) -> Iterator[Callable[[str], None]]:
    """Let `find_longest_wait` know of the block; the value is a function that changes the reason meanwhile."""
    token = object()

    def set_reason(new_reason: str) -> None:
        with _waits_lock:
            _waits[token] = StoreWait(since, new_reason)

    with _waits_lock:
        _waits[token] = StoreWait(since) if reason is None else StoreWait(since, reason)
    try:
        yield set_reason
    finally:
        with _waits_lock:
            del _waits[token]


def find_longest_wait(at_least_s: float = 0.0) -> StoreWait | None:
    """Return what the threads of this process have waited for longest: a call without an answer, or one being retried.

    None if nothing has waited for `at_least_s` seconds. Ask with some seconds: every call is a wait for a moment.
    """
    with _waits_lock:
        oldest = min(_waits.values(), key=lambda wait: wait.since, default=None)
    return oldest if oldest is not None and oldest.seconds >= at_least_s else None
