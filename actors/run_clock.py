"""The clock of a run, which stands still while the driver does."""

import time
from collections.abc import Callable

_LONGEST_STEP_S = 1.0  # of a turn of the driver's loop that counts


class RunClock:
    """Counts the seconds in which the driver was at work.

    While the driver is stopped (Ctrl-Z, a debugger, a machine that swaps) it hears no actor, and that is not the
    actors' fault. So a turn of its loop counts for a second at most, however long it was.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic):
        self._monotonic = monotonic
        self._seen_at = monotonic()
        self.now = 0.0

    def tick(self) -> float:
        """Go on by the time since the last tick, and return the new time. Call it once in each turn of the loop."""
        seen_at = self._monotonic()
        self.now += min(_LONGEST_STEP_S, max(0.0, seen_at - self._seen_at))
        self._seen_at = seen_at
        return self.now
