"""How long one request to an object store may take, and how long it is tried again."""

import os
from dataclasses import dataclass

from musicgen.errors import StoreError

TIMEOUT_VARIABLE = "MUSICGEN_STORE_TIMEOUT_S"
DEFAULT_TIMEOUT_S = 60.0
SLOWEST_BYTES_PER_S = 1_000_000  # a connection that is slower counts as one that does not answer


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The seconds that a request without a body may take: one try of it, and all of them with the pauses between.

    A request that carries `size` bytes, in either direction, may take `size / SLOWEST_BYTES_PER_S` longer. One that is
    denied is tried `denied_tries` times, each with credentials that are read anew.
    """

    try_s: float
    total_s: float
    denied_tries: int = 1

    def limit_try(self, size: int) -> float:
        """Return the seconds for one try of a request that carries `size` bytes."""
        return self.try_s + size / SLOWEST_BYTES_PER_S

    def limit_total(self, size: int) -> float:
        """Return the seconds for all tries of a request that carries `size` bytes."""
        return self.total_s + size / SLOWEST_BYTES_PER_S


CHECK_DEADLINES = Deadlines(try_s=4.0, total_s=6.0)
"""For `Store.check`: whoever starts a job sees within seconds that the store cannot be reached."""


def read_work_deadlines() -> Deadlines:
    """Return the deadlines of all other requests: `MUSICGEN_STORE_TIMEOUT_S` seconds (60), half of it for one try.

    Raises `StoreError` if the variable is not a number of seconds.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "") or str(DEFAULT_TIMEOUT_S)
    try:
        total_s = float(text)
    except ValueError:
        total_s = 0.0
    if not 0 < total_s < float("inf"):
        raise StoreError(f"{TIMEOUT_VARIABLE} is {text!r}; give the seconds that a request may take, such as 60")
    return Deadlines(try_s=total_s / 2, total_s=total_s, denied_tries=5)
