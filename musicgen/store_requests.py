"""Counts this process's requests to buckets, and the time that they take."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_requests = 0
_seconds = 0.0


@contextmanager
def measure_request() -> Iterator[None]:
    """Count the request inside the block, whether it succeeds or not; its repetitions are one with it."""
    global _requests, _seconds
    began_at = time.monotonic()
    try:
        yield
    finally:
        with _lock:
            _requests += 1
            _seconds += time.monotonic() - began_at


def count_requests() -> tuple[int, float]:
    """Return how many requests there were, and how many seconds they took together."""
    with _lock:
        return _requests, _seconds
