"""What a plan amounts to, in rows and time."""

from collections.abc import Sequence
from dataclasses import dataclass

from musicgen.run_plan import Plan


@dataclass(frozen=True)
class PlanOutcome:
    """The run that was planned or adopted (None if there is nothing to do, or in a dry run), and the counts of rows."""

    made: int  # rows the dataset has
    failed_before: int  # rows that failed in an earlier run; `retried` of them are in the plan
    held_back: int  # failed rows that are tried again only when asked: class crash
    duplicates: int  # rows without id that equal an earlier row
    invalid_count: int
    invalid: Sequence[tuple[str, str]]  # (source, reason); the first INVALID_SHOWN of them
    plan: Plan | None = None
    new: int = 0  # rows never tried; of an adopted run, all its missing rows
    retried: int = 0
    shards: int = 0
    audio_s: float = 0.0
    adopted: bool = False  # an unfinished run of the same job is continued
    estimated_s: float = 0.0  # of work, a guess
    seconds: float = 0.0  # that planning took

    @property
    def rows(self) -> int:
        """Rows the plan would make."""
        return self.new + self.retried
