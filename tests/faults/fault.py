"""The faults that the proxy can make, and which requests they hit."""

import re
import time
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal[
    "swallow",  # the request's head is read and never answered, not even with "100 Continue"
    "swallow_body",  # the body is taken too, and never answered; the store knows nothing of it
    "drop_reply",  # the store does it, its reply is thrown away and the connection closed
    "hang_reply",  # the store does it, its reply never arrives
    "cut_reply",  # the reply ends half-way through its body, and the connection is closed
    "stall_reply",  # the reply stops half-way through its body, and the connection stays open
    "status",  # answered with `status` and `code` without asking the store
    "reset",  # the connection is reset after the request's head
    "delay",  # forwarded `seconds_late` later
    "throttle",  # bodies pass at `bytes_per_s`, both ways
]


@dataclass(eq=False)
class Fault:
    """A fault for the requests whose line, such as `PUT /bucket/x?y`, matches the regular expression `pattern`.

    It passes over the first `skip` of them, hits at most `count` and ends after `seconds` (None: no limit). `hits` says
    how many it has hit.
    """

    mode: Mode
    pattern: str = ""
    count: int | None = None
    skip: int = 0
    seconds: float | None = None
    status: int = 503
    code: str = "SlowDown"
    seconds_late: float = 0.0
    bytes_per_s: float = 1e6
    hits: int = field(default=0, init=False)
    _began: float = field(default=0.0, init=False)

    def begin(self) -> None:
        """Start the clock of `seconds`."""
        self._began = time.monotonic()

    def takes(self, request_line: str) -> bool:
        """Return whether this request is hit, and count it."""
        if self.count is not None and self.hits >= self.count:
            return False
        if self.seconds is not None and time.monotonic() - self._began > self.seconds:
            return False
        if not re.search(self.pattern, request_line):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True
