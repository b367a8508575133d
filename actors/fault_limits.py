"""When an actor, a shard or the run is given up."""

from dataclasses import dataclass

from musicgen.cluster_settings import ClusterSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultLimits:
    """Counts and times that the dispatcher waits for. The fields without a default are settings of the job."""

    storage_errors: int  # of a shard whose actor survives
    start_timeout_s: float  # from the begin of an actor's process until it is ready
    heartbeat_timeout_s: float  # from asking for a heartbeat until it is answered
    stall_timeout_s: float = 900.0  # without progress of an actor's generation thread
    attempts_per_actor: int = 256  # held at a time at most: each is a thread of the actor
    crashes: int = 2  # of a shard before it is bisected
    bisections: int = 2  # of a shard before it is given up
    losses: int = 10  # of a shard's actors, by no fault of the shard, before it is given up
    deaths: int = 3  # of actors without a clip, one after another, before the run ends or a node is set aside
    failed_starts: int = 3  # one after another, while no actor works
    lost_actors: int = 250  # one after another without a clip, for each actor that the job may have
    empty_controls: int = 8  # controls that end well and make no clip, before the machine is taken for sound
    shown_wait_s: float = 30.0  # from when on it is said what an actor waits for
    given_up_shards: int = 3  # one after another, with none made between
    backoff_s: float = 1.0  # before the second try; doubled for each further one
    max_backoff_s: float = 60.0

    def backoff_after(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row."""
        return min(self.max_backoff_s, self.backoff_s * 2.0 ** min(max(failures, 1) - 1, 16))


def make_fault_limits(settings: ClusterSettings) -> FaultLimits:
    """Return the limits that a job sets."""
    return FaultLimits(
        storage_errors=settings.attempts,
        start_timeout_s=settings.start_timeout_s,
        heartbeat_timeout_s=settings.silent_after_s,
    )
