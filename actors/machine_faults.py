"""Evidence against machines: actors that do not start, and actors that end without having made a clip."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from actors.fault_limits import FaultLimits
from actors.messages import ActorsFailed
from musicgen.errors import UserError

_PATIENCE_WITH_WRONG_JOBS_S = 60.0  # for room on a node that might contradict


@dataclass(frozen=True, slots=True)
class _Fault:
    node: str  # empty if it is not known
    reason: str
    at: float
    error: UserError | None = None


class MachineFaults:
    """Decides when a node is set aside, and when the run ends because no node does the work.

    A node is set aside if actors fail there one after another and there is another node that could hold them. The run
    ends if they fail so on two nodes, or on the only one.
    """

    def __init__(self, limits: FaultLimits, min_actors: int):
        self.set_aside: dict[str, str] = {}  # node -> why
        self.nodes: frozenset[str] = frozenset()  # that could hold an actor
        self._limits = limits
        self._most_failed_starts = max(limits.failed_starts, min_actors)
        self._deaths: list[_Fault] = []  # without a clip by that actor, since the last clip by any actor
        self._starts: list[_Fault] = []  # that failed since the last ready actor
        self._faults_of_node: Counter[str] = Counter()  # since the last clip there
        self._was_ready = False

    @property
    def deaths(self) -> int:
        """How many actors have ended one after another without a clip."""
        return len(self._deaths)

    @property
    def failed_starts(self) -> int:
        """How many actors have failed to start one after another."""
        return len(self._starts)

    @property
    def last_reason(self) -> str:
        """Why the last actor failed."""
        return max([*self._deaths, *self._starts], key=lambda fault: fault.at).reason

    @property
    def avoided_nodes(self) -> frozenset[str]:
        """Where no actor should be started: nodes set aside, and those where the job was called wrong."""
        accusers = {fault.node for fault in self._starts if fault.error is not None}
        avoided = self.set_aside.keys() | accusers
        return frozenset(avoided if self.nodes - avoided else self.set_aside.keys()) - {""}

    def on_nodes(self, nodes: frozenset[str]) -> None:
        """Take the nodes that could hold an actor now. If all of them are set aside, all get another chance."""
        self.nodes = nodes
        if nodes and nodes <= self.set_aside.keys():
            self.set_aside.clear()
            self._faults_of_node.clear()

    def on_clip(self, node: str) -> None:
        """Record that an actor on the node has made a clip: it works."""
        self._deaths.clear()
        self._faults_of_node.pop(node, None)

    def on_ready(self) -> None:
        """Record that an actor has loaded its model."""
        self._was_ready = True
        self._starts.clear()

    def on_last_ready_lost(self) -> None:
        """Record that no actor is ready any more: only starts that fail from now on matter."""
        self._starts.clear()

    def on_death(self, node: str, reason: str, now: float, assigned_at: float) -> None:
        """Record that an actor has ended without having made a clip, and when it got its last attempt.

        Deaths count as one after another only if the later work began after the first death: from then on actors begin
        with rows that should do no harm, while earlier work may hold several rows that do.
        """
        if not self._deaths or assigned_at >= self._deaths[0].at:
            self._deaths.append(_Fault(node, reason, now))
            self._note_fault(node, reason)

    def on_failed_start(self, node: str, reason: str, now: float, error: UserError | None = None) -> None:
        """Record that an actor could not load its model. `error` says that the job is wrong, or its node is."""
        self._starts.append(_Fault(node, reason, now, error))
        self._note_fault(node, reason)

    def set_node_aside(self, node: str, reason: str) -> bool:
        """Start no more actors on the node. Returns False if there is no other one."""
        if node not in self.set_aside and self.nodes - self.set_aside.keys() - {node}:
            self.set_aside[node] = reason
        return node in self.set_aside

    def _note_fault(self, node: str, reason: str) -> None:
        self._faults_of_node[node] += 1
        if node and self._faults_of_node[node] >= self._limits.deaths:
            self.set_node_aside(node, reason)

    def check(self, ready_actors: int, loading_since: Sequence[float], pending_since: float | None, now: float) -> None:
        """Raise `ActorsFailed`, or the `UserError` of actors, if the run cannot go on.

        `loading_since` are the times since when actors load, `pending_since` that since when the first one waits for
        room.
        """
        if len(self._deaths) >= self._limits.deaths and self._agree(self._deaths):
            raise ActorsFailed(
                f"{len(self._deaths)} actors ended one after another without having made a clip, so it is not the rows "
                f"that are at fault. {self._describe(self._deaths)}"
            )
        if ready_actors or not self._starts:
            return
        if not self._was_ready:
            self._check_user_errors(loading_since, pending_since, now)
        first_failure_at = self._starts[0].at
        if any(since <= first_failure_at for since in loading_since):
            return  # an actor that has not answered yet may contradict
        if len(self._starts) >= self._most_failed_starts and self._agree(self._starts):
            raise ActorsFailed(
                f"no generator actor could start ({len(self._starts)} attempts). {self._describe(self._starts)}"
            )

    def _check_user_errors(self, loading_since: Sequence[float], pending_since: float | None, now: float) -> None:
        accusers = {fault.node: fault.error for fault in self._starts if fault.error is not None}
        errors = [error for error in accusers.values() if error is not None]
        if not errors:
            return
        nobody_contradicts = (
            not loading_since
            and pending_since is not None
            and now - max(pending_since, self._starts[-1].at) > _PATIENCE_WITH_WRONG_JOBS_S
        )
        if len(errors) >= min(self._limits.deaths, max(1, len(self.nodes))) or nobody_contradicts:
            raise errors[0]

    def _agree(self, faults: list[_Fault]) -> bool:
        """Whether the faults lie on two nodes, or on the only ones there are."""
        nodes = {fault.node for fault in faults}
        if nodes == {""}:  # not known, so they may all be the same
            return len(faults) >= 2 * self._limits.deaths or not self.nodes
        return len(nodes - {""}) > 1 or not self.nodes - self.set_aside.keys() - nodes

    def _describe(self, faults: list[_Fault]) -> str:
        return f"The first reason: {faults[0].reason}"
