"""What a repair has done, or would do."""

from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Mending:
    """One object: its path, what was done with it (or would be), and why it could not be made good, if it could not."""

    path: str
    action: str
    failure: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.failure or self.action}"


@dataclass
class RepairReport:
    """The faults that a deep verification counted, and what became of the objects that it named."""

    uri: str
    dry_run: bool
    faults: int = 0
    mendings: list[Mending] = field(default_factory=list)

    @property
    def failed(self) -> list[Mending]:
        """The objects that could not be made good."""
        return [mending for mending in self.mendings if mending.failure]

    @property
    def is_good(self) -> bool:
        """Whether all was made good, or would be."""
        return not self.failed

    def to_json(self) -> dict[str, object]:
        """Return the report as values for `--json`."""
        mendings = [asdict(mending) for mending in self.mendings]
        return {"dataset": self.uri, "dry_run": self.dry_run, "faults": self.faults, "objects": mendings}
