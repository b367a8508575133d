"""What planning found out."""

from collections.abc import Sequence
from dataclasses import dataclass

from musicgen.run_plan import Plan


@dataclass(frozen=True)
class PlanOutcome:
    """What planning found. `plan` is None if there is nothing to do."""

    plan: Plan | None
    new: int  # rows never tried
    made: int  # rows the dataset has
    failed_before: int  # rows that failed in an earlier run; `retried` of them are in the plan
    retried: int
    held_back: int  # failed rows that are tried again only when asked: class crash
    invalid_count: int
    invalid: Sequence[tuple[str, str]]  # (source, reason); the first INVALID_SHOWN of them
    shards: int
    audio_s: float
    duplicates: int = 0  # rows without id that equal an earlier row
    adopted: bool = False  # an unfinished run of the same job is continued
    estimated_s: float = 0.0  # of work, a guess
    seconds: float = 0.0  # planning took

    @property
    def rows(self) -> int:
        """Rows the plan would make."""
        return self.new + self.retried
