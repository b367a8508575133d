"""The result of verifying a dataset: its counts and its faults."""

from dataclasses import dataclass, field

MAX_NAMED_FAULTS = 10_000
"""How many faults a report holds; all are counted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its kind, its location (a path or a key) and a description.

    `part` is the path of the index part of the clip or shard, `key` the clip's, as far as the fault has them.
    """

    # index | missing | size | sha256 | decode | duration | rate | channels | samples | duplicate | failures | storage
    # | tar | plan | manifest | report | info | table | card | removed
    kind: str
    location: str
    description: str
    part: str | None = None
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.location}: {self.description}"


@dataclass
class VerificationReport:
    """The counts of a verification and its faults. `faults` holds the first ten thousand of `fault_count`.

    `notes` are sentences on what is no fault, such as a card that a person has edited. `audio_checked` counts the clips
    whose audio was read.
    """

    uri: str
    deep: bool
    quick: bool = False
    parts: int = 0
    rows: int = 0
    audio_checked: int = 0
    failed: int = 0
    closed: int = 0  # rows of shards that were closed, so that a later run could plan them anew
    audio_bytes: int = 0
    audio_s: float = 0.0
    orphans: int = 0
    fault_count: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Return whether there are no faults."""
        return self.fault_count == 0

    def add(self, fault: Fault) -> None:
        """Count a fault, and keep it if there are fewer than `MAX_NAMED_FAULTS`."""
        self.fault_count += 1
        if len(self.faults) < MAX_NAMED_FAULTS:
            self.faults.append(fault)

    def to_json(self) -> dict[str, object]:
        """Return the report as values for `--json`."""
        plain = {name: value for name, value in vars(self).items() if name != "faults"}
        return {
            **plain,
            "audio_s": round(self.audio_s, 6),
            "sound": self.sound,
            "faults": [
                {"kind": fault.kind, "where": fault.location, "what": fault.description} for fault in self.faults
            ],
        }
