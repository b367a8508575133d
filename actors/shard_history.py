"""What has happened to a shard that did not succeed at once, and what its next attempt is."""

import math
from dataclasses import dataclass, field

from actors.messages import PoisonRow, ShardAttempt
from musicgen.errors import ErrorClass


@dataclass(slots=True)
class ShardHistory:
    """The failures of a shard, the ranges of its rows that trials have still to test, and the rows found guilty."""

    attempts: int = 0
    storage_errors: int = 0
    crashes: int = 0
    bisections: int = 0
    retry_at: float = -math.inf
    error_class: ErrorClass = "crash"  # of the last crash, like the reason
    reason: str = ""
    untested_ranges: list[tuple[int, int]] = field(default_factory=list)  # (first, end), the next one last
    poison_rows: list[PoisonRow] = field(default_factory=list)

    def next_attempt(self, shard: int) -> ShardAttempt:
        """Return the next attempt: a trial of the next untested range, or of the whole shard if none is left."""
        row_range = self.untested_ranges.pop() if self.untested_ranges else None
        attempt = ShardAttempt(shard, self.attempts, row_range, tuple(self.poison_rows))
        self.attempts += 1
        return attempt

    def repeat(self, attempt: ShardAttempt) -> None:
        """Keep the range of a trial that was cut short, so that the next attempt tests it again."""
        if attempt.row_range is not None:
            self.untested_ranges.append(attempt.row_range)

    def record_crash(self, error_class: ErrorClass, reason: str) -> None:
        """Count a crash of the process that made this shard."""
        self.crashes += 1
        self.error_class, self.reason = error_class, reason

    def bisect(self, row_range: tuple[int, int]) -> None:
        """Halve a range that has ended its process; a range of one row is the poison row itself."""
        first, end = row_range
        if end - first == 1:
            reason = f"{self.reason}; it did so with this row alone, after {self.crashes - 1} times with others"
            self.poison_rows.append(PoisonRow(first, self.error_class, reason, attempts=self.attempts))
        else:
            middle = (first + end) // 2
            self.untested_ranges += [(middle, end), (first, middle)]
