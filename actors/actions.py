"""What the dispatcher asks of the pool."""

from dataclasses import dataclass

from actors.messages import ShardAttempt


@dataclass(frozen=True, slots=True)
class StartActor:
    """Start an actor process under this number, on none of the nodes of `avoid`."""

    actor: int
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AssignAttempt:
    """Give an attempt to an actor."""

    actor: int
    attempt: ShardAttempt


@dataclass(frozen=True, slots=True)
class KillActor:
    """End an actor that does not answer or cannot go on. Its attempts are already taken back."""

    actor: int
    reason: str


@dataclass(frozen=True, slots=True)
class StopActor:
    """End an idle actor that is not needed any more."""

    actor: int


Action = StartActor | AssignAttempt | KillActor | StopActor
