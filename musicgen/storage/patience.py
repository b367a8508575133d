"""Waits for a store that cannot be used at the moment.

A call of a store retries by itself for about a minute (`deadlines.py`) and then raises `StoreUnavailable`. Work that
must outlast a longer outage goes through `wait_for_store`.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from musicgen.errors import StoreDenied, StoreUnavailable
from musicgen.store_waits import track_wait

_T = TypeVar("_T")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
SHORT_PATIENCE_S = 120.0  # where a person waits: planning, the Python API, `encode`
DENIED_PATIENCE_S = 300.0  # a session token that has expired is renewed within minutes, or by hand


def wait_for_store(
    call: Callable[[], _T],
    patience_s: float,
    on_wait: Callable[[StoreUnavailable | StoreDenied, float], None] | None = None,
    stop: threading.Event | None = None,
    denied_patience_s: float = DENIED_PATIENCE_S,
) -> _T:
    """Return what `call` returns; while the store cannot be used, call again, for at most `patience_s` seconds.

    `StoreUnavailable` is retried after pauses of 1 s that double up to 60 s. `StoreDenied` is retried in the same way
    for at most `denied_patience_s`: each new call reads the credentials afresh, so that a renewed token is noticed.
    Both clocks start at the first such error and start anew only with a new `wait_for_store`. Before each pause
    `on_wait(error, since)` is called in this thread, `since` being the time (`time.time()`) of the first error.

    Every other error is raised at once, `StoreFull` too, since time does not cure it. When patience is spent, or `stop`
    is set, the last error is raised. `call` must be safe to repeat: a write whose reply was lost may have happened.
    """
    try:
        return call()
    except (StoreUnavailable, StoreDenied) as error:
        last_error = error
    since, began, pause_s = time.time(), time.monotonic(), FIRST_PAUSE_S
    while True:
        limit_s = patience_s
        if isinstance(last_error, StoreDenied):
            limit_s = min(patience_s, denied_patience_s)
        left_s = limit_s - (time.monotonic() - began)
        if left_s <= 0 or (stop is not None and stop.is_set()):
            raise last_error
        if on_wait is not None:
            on_wait(last_error, since)
        with track_wait(since, str(last_error)):
            _pause(min(left_s, pause_s * random.uniform(0.5, 1.0)), stop)  # many actors do not return at one moment
            try:
                return call()
            except (StoreUnavailable, StoreDenied) as error:
                last_error = error
        pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)


def _pause(seconds: float, stop: threading.Event | None) -> None:
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)
