"""What the dispatcher knows of an actor."""

from dataclasses import dataclass, field

from actors.messages import ShardAttempt


@dataclass(slots=True)
class ActorState:
    """An actor from the moment it is asked for. It waits for room, loads its model, and is then ready."""

    asked_at: float
    started_at: float | None = None  # when its process had begun; None: it waits for room in the cluster
    node: str = ""  # Ray's id; empty as long as it is not known
    ready: bool = False
    slots: int = 1  # rows that it makes at once
    clips: int = 0  # that it is known to have made
    settled_rows: int = 0  # of the attempts that it holds, as far as it has told
    assigned_at: float = 0.0  # when it last got an attempt
    isolated: bool = False  # the shard that it holds is suspected, so it gets no second one
    stalled: bool = False  # its generation thread makes no progress
    heartbeat_asked_at: float | None = None  # of the heartbeat that is not answered yet
    waiting_for: str = ""  # what holds it up from outside, in its own words
    control: ShardAttempt | None = None  # the attempt that only shows whether its machine can make a clip
    attempts: list[ShardAttempt] = field(default_factory=list)

    def overdue_s(self, now: float, start_timeout_s: float, heartbeat_timeout_s: float) -> tuple[float, str]:
        """Return the time-out that has passed and what the actor did not do within it; (0, "") if none has."""
        if not self.ready and self.started_at is not None and now - self.started_at > start_timeout_s:
            return start_timeout_s, "was not ready"
        if self.heartbeat_asked_at is not None and now - self.heartbeat_asked_at > heartbeat_timeout_s:
            return heartbeat_timeout_s, "gave no sign of life"
        return 0.0, ""
