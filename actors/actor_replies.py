"""Calls of actors and what comes back, whether they are Ray's or run in this process."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from actors.messages import DeathCause, ShardAttempt


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call of an actor that has not been answered."""

    method: Literal["report_start", "load_model", "make_shard", "heartbeat"]
    actor: int
    attempt: ShardAttempt | None = None  # of make_shard


@dataclass(frozen=True, slots=True)
class CallFailed:
    """The call raised an exception; its actor lives."""

    error: Exception


@dataclass(frozen=True, slots=True)
class ActorEnded:
    """The actor's process has ended, and why."""

    cause: DeathCause
    reason: str


@dataclass(frozen=True, slots=True)
class ActorUnreachable:
    """The actor does not answer at the moment; it may live."""


class ActorGroup(Protocol):
    """Actors by the dispatcher's numbers. No method waits for long."""

    def start(self, actor: int, avoid: frozenset[str]) -> None:
        """Ask for an actor on none of the nodes of `avoid`; it reports when its process begins, and then loads."""

    def assign(self, actor: int, attempt: ShardAttempt) -> None:
        """Give the actor an attempt."""

    def ask_heartbeat(self, actor: int) -> None:
        """Ask the actor for a heartbeat."""

    def end(self, actor: int) -> None:
        """End the actor and forget its calls."""

    def end_all(self, commit_wait_s: float) -> None:
        """End all actors, after waiting a moment for commits that are being written."""

    def collect_replies(self, timeout_s: float) -> Iterator[tuple[PendingCall, object]]:
        """Yield all replies that are there, after waiting for the first one for at most `timeout_s`.

        A reply is what the call returned, `CallFailed`, `ActorEnded` or `ActorUnreachable`.
        """


class NodeWatch(Protocol):
    """Knows the machines that actors run on, as far as there are several."""

    usable_nodes: frozenset[str]  # those large enough for an actor

    @property
    def hosts(self) -> Mapping[str, str]:
        """The host name of each node."""

    @property
    def head_lost_s(self) -> float:
        """For how many seconds the head of the cluster has refused connections."""

    def start(self) -> None:
        """Start watching."""

    def close(self) -> None:
        """Stop watching."""

    def check(self) -> None:
        """Raise `ActorsFailed` if the driver cannot go on without what has ended."""

    def is_alive(self, node: str) -> bool:
        """Whether the node was alive when it was last looked at, or is not known."""
