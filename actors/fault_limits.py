"""When an actor, a shard or the run is given up."""

from dataclasses import dataclass

from musicgen.job import ClusterSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultLimits:
    """Counts and times that the dispatcher waits for. The fields without a default are settings of the job."""

    storage_errors: int  # of a shard whose actor survives
    start_timeout_s: float  # until an actor is ready
    heartbeat_timeout_s: float  # between two heartbeats of an actor
    stall_timeout_s: float = 900.0  # without progress of an actor's generation thread
    attempts_per_actor: int = 2  # held at a time: the next shard is there when one ends
    crashes: int = 2  # of a shard before it is bisected
    bisections: int = 2  # of a shard before it is given up
    failed_starts: int = 3  # one after another, while no actor works
    given_up_shards: int = 3  # one after another, with none made between
    backoff_s: float = 1.0  # before the second try; doubled for each further one
    max_backoff_s: float = 60.0

    def backoff_after(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row."""
        return min(self.max_backoff_s, self.backoff_s * 2.0 ** min(failures - 1, 16))


def make_fault_limits(settings: ClusterSettings) -> FaultLimits:
    """Return the limits that a job sets."""
    return FaultLimits(
        storage_errors=settings.attempts,
        start_timeout_s=settings.start_timeout_s,
        heartbeat_timeout_s=settings.silent_after_s,
    )
