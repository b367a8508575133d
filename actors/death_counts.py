"""How many actors have ended, and by whose fault."""

from dataclasses import dataclass, replace

from actors.messages import DeathCause


@dataclass(frozen=True, slots=True)
class DeathCounts:
    """Actors that have ended: by themselves, with a node that was taken, with their node, or by the driver's hand."""

    crashes: int = 0
    preemptions: int = 0
    losses: int = 0  # with their node, or for lack of memory
    kills: int = 0  # because they did not answer or stood still

    def add(self, cause: DeathCause) -> "DeathCounts":
        """Return the counts with one more actor."""
        match cause:
            case "crash" | "engine" | "error":
                return replace(self, crashes=self.crashes + 1)
            case "preempted":
                return replace(self, preemptions=self.preemptions + 1)
            case "node" | "memory" | "slots":
                return replace(self, losses=self.losses + 1)
            case "killed":
                return replace(self, kills=self.kills + 1)
