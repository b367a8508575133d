"""What a plan amounts to, in rows and time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from musicgen.plan.prompt_check import PromptCheck
from musicgen.plan.run_estimate import RunEstimate
from musicgen.run_plan import Plan


@dataclass(frozen=True)
class PlanOutcome:
    """The run that was planned or adopted (None if there is nothing to do, or in a dry run), and the counts of rows."""

    made: int  # rows the dataset has
    failed_before: int  # rows that failed in an earlier run; `retried` of them are in the plan
    held_back: int  # failed rows that are tried again only when asked
    invalid_count: int
    invalid: Sequence[tuple[str, str]]  # (source, reason); the first INVALID_SHOWN of them
    duplicates: int = 0  # rows without id that equal an earlier row
    conflicting: int = 0  # of these, the ones that carry other values than the row that is kept
    carried: tuple[str, ...] = ()  # the manifest's columns that are no fields of a row, under their names in the index
    used: Mapping[str, str] = field(
        default_factory=dict
    )  # field of a row -> the manifest's column that it is read from
    near_misses: tuple[str, ...] = ()  # what to do about carried columns that are nearly named like a field
    csv: str = ""  # the dialect of the manifest's CSV files, in words; empty: it has none
    added: tuple[str, ...] = ()  # carried columns that the dataset has not had so far
    lacking: tuple[str, ...] = ()  # carried columns of the dataset that the manifest lacks
    not_carried: tuple[str, ...] = ()  # columns of the manifest that are neither read nor carried
    left_out: tuple[str, ...] = ()  # columns in the names of folders that the dataset was begun without
    prompts: PromptCheck = field(default_factory=PromptCheck)  # those that the text encoder cannot read in full
    removed: int = 0  # rows whose clips were removed from the dataset; they are not made again
    unasked: int = 0  # clips of the dataset that are of no row of the manifest
    plan: Plan | None = None
    new: int = 0  # rows never tried; of an adopted run, all its missing rows
    retried: int = 0
    shards: int = 0
    audio_s: float = 0.0
    held_back_classes: Mapping[str, int] = field(default_factory=dict)  # the same, by the class of the last failure
    to_close: tuple[str, ...] = ()  # unfinished runs that a run would close; only in a dry run
    becomes_current: bool = False  # nothing is to be made, but other rows, or in another order, become the current ones
    current_waits_for: str = ""  # the run that has to be finished before they can
    adopted: bool = False  # an unfinished run of the same job is continued
    estimate: RunEstimate | None = None  # of the time of the run; None if there is nothing to do
    seconds: float = 0.0  # that planning took

    @property
    def rows(self) -> int:
        """Rows the plan would make."""
        return self.new + self.retried
