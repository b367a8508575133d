"""Decides which actor makes which shard, and what follows from failures: no Ray, no threads, no clock.

The pool reports events (`on_ready`, `on_heartbeat`, `on_finished`, `on_failed`, `on_died`) and does what `decide`
returns. The state is counters and shard numbers only.

Laws, which tests/actors/test_dispatcher.py checks:
- Every shard is settled once.
- No actor holds more than `attempts_per_actor` attempts.
- A suspected shard is alone in its actor, so that the next crash is known to be its own.
- A row that ends its process is found by bisection, and all rows beside it are made.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from actors.actions import Action, AssignAttempt, KillActor, StartActor, StopActor
from actors.fault_limits import FaultLimits
from actors.messages import ActorsFailed, DeathCause, ShardAttempt
from actors.shard_history import ShardHistory
from musicgen.errors import ErrorClass


@dataclass(slots=True)
class _ActorState:
    started_at: float
    heartbeat_at: float
    ready: bool = False
    isolated: bool = False  # the shard that it holds is suspected, so it gets no second one
    attempts: list[ShardAttempt] = field(default_factory=list)


class Dispatcher:
    """Gives shards to `min_actors` to `max_actors` actors until every shard is done or given up.

    `count_rows(shard)` returns how many rows a shard has; it is called only when a shard has to be bisected.
    """

    def __init__(
        self,
        shards: Iterable[int],
        count_rows: Callable[[int], int],
        limits: FaultLimits,
        min_actors: int = 1,
        max_actors: int = 1,
    ):
        self.limits = limits
        self.shards_done: int = 0
        self.crashes: int = 0
        self.preemptions: int = 0
        self.given_up: dict[int, str] = {}  # shard -> reason
        self._count_rows = count_rows
        self._min_actors, self._max_actors = max(1, min_actors), max(1, min_actors, max_actors)
        self._untried: deque[int] = deque(shards)
        self._retries: list[int] = []  # shards tried before, in the order of their next attempt
        self._histories: dict[int, ShardHistory] = {}
        self._actors: dict[int, _ActorState] = {}
        self._next_actor = 0
        self._failed_starts = 0
        self._first_start_error = ""
        self._next_start_at = -math.inf
        self._given_up_in_a_row = 0

    @property
    def finished(self) -> bool:
        """Whether every shard is done or given up."""
        return not (self._untried or self._retries or any(actor.attempts for actor in self._actors.values()))

    @property
    def ready_actors(self) -> int:
        """How many actors are ready."""
        return sum(actor.ready for actor in self._actors.values())

    # ------------------------------------------------------------ events

    def on_ready(self, actor: int, now: float) -> None:
        """Record that the actor has loaded its model and can take shards."""
        if actor in self._actors:
            self._actors[actor].ready = True
            self._failed_starts = 0
            self.on_heartbeat(actor, now)

    def on_heartbeat(self, actor: int, now: float, stalled_s: float = 0.0) -> None:
        """Record a heartbeat. An actor whose generation thread has stalled is treated like a silent one."""
        if actor in self._actors:
            stalled = stalled_s >= self.limits.stall_timeout_s
            self._actors[actor].heartbeat_at = -math.inf if stalled else now

    def on_finished(self, actor: int, attempt: ShardAttempt, now: float) -> bool:
        """Record that the attempt has ended well. Returns True if that settles the shard.

        A late report of an attempt that was taken back from the actor does not count.
        """
        if not self._take_back(actor, attempt):
            return False
        self.on_heartbeat(actor, now)
        if attempt.is_trial:
            self._retries.insert(0, attempt.shard)  # this range is harmless; the next one is tried
            return False
        self.shards_done += 1
        self._given_up_in_a_row = 0
        self._histories.pop(attempt.shard, None)
        return True

    def on_failed(self, actor: int, attempt: ShardAttempt, reason: str, now: float) -> None:
        """Record that the attempt failed while its actor lives on (a storage fault)."""
        if not self._take_back(actor, attempt):
            return
        history = self._history_of(attempt.shard)
        history.storage_errors += 1
        history.repeat(attempt)
        if history.storage_errors >= self.limits.storage_errors:
            self._give_up(attempt.shard, reason)
            return
        history.retry_at = now + self.limits.backoff_after(history.storage_errors)
        self._retries.append(attempt.shard)

    def on_died(self, actor: int, cause: DeathCause, reason: str, now: float) -> None:
        """Record that the actor is gone.

        A preemption counts against no shard. Before the actor was ready, its end counts as a failed start.
        """
        lost = self._actors.pop(actor, None)
        if lost is None:
            return
        if cause == "preempted":
            self.preemptions += 1
        elif not lost.ready:
            self._failed_starts += 1
            self._first_start_error = self._first_start_error or reason
            self._next_start_at = now + self.limits.backoff_after(self._failed_starts)
        else:
            self.crashes += 1
        for attempt in lost.attempts:
            if cause == "preempted":
                self._history_of(attempt.shard).repeat(attempt)
                self._retries.insert(0, attempt.shard)
            else:
                self._record_crash(attempt, "generation" if cause == "engine" else "crash", reason)

    # ------------------------------------------------------------ decisions

    def decide(self, now: float) -> list[Action]:
        """Return what the pool has to do now. Call it after every event, and every fraction of a second.

        Raises `ActorsFailed` if the run cannot go on.
        """
        actions: list[Action] = []
        for number, actor in list(self._actors.items()):
            timeout_s = self.limits.heartbeat_timeout_s if actor.ready else self.limits.start_timeout_s
            if now - (actor.heartbeat_at if actor.ready else actor.started_at) > timeout_s:
                if actor.heartbeat_at == -math.inf:
                    reason = "generation stood still"
                else:
                    omission = "gave no sign of life" if actor.ready else "was not ready"
                    reason = f"the actor {omission} for {timeout_s:.0f} s"
                actions.append(KillActor(number, reason))
                self.on_died(number, "silent", reason, now)
        self._check_limits()
        actions += self._assign_shards(now)
        actions += self._adjust_actors(now)
        return actions

    def _check_limits(self) -> None:
        if self._failed_starts >= max(self.limits.failed_starts, self._min_actors) and not self.ready_actors:
            raise ActorsFailed(
                f"no generator actor could start ({self._failed_starts} attempts). The first reason: "
                f"{self._first_start_error}"
            )
        if self._given_up_in_a_row >= self.limits.given_up_shards:
            shard, reason = next(reversed(self.given_up.items()))
            raise ActorsFailed(
                f"{self._given_up_in_a_row} shards failed one after another. The last, shard {shard}: {reason}"
            )

    def _assign_shards(self, now: float) -> list[Action]:
        actions: list[Action] = []
        # Every actor gets its first shard before any gets a second, so that a run's last shards spread over all actors.
        for held in range(self.limits.attempts_per_actor):
            for number, actor in self._actors.items():
                if not actor.ready or actor.isolated or len(actor.attempts) != held:
                    continue
                if (shard := self._take_due_retry(now, with_suspects=held == 0)) is not None:
                    actor.isolated = self._histories[shard].crashes > 0
                    actions.append(self._assign_shard(number, shard))
                elif self._untried:
                    actions.append(self._assign_shard(number, self._untried.popleft()))
        return actions

    def _take_due_retry(self, now: float, with_suspects: bool) -> int | None:
        for index, shard in enumerate(self._retries):
            history = self._histories[shard]
            if history.retry_at <= now and (with_suspects or not history.crashes):
                return self._retries.pop(index)
        return None

    def _assign_shard(self, actor: int, shard: int) -> AssignAttempt:
        history = self._histories.get(shard)
        attempt = ShardAttempt(shard) if history is None else history.next_attempt(shard)
        self._actors[actor].attempts.append(attempt)
        return AssignAttempt(actor, attempt)

    def _adjust_actors(self, now: float) -> list[Action]:
        """Start actors that are missing or of use, and stop idle ones above the minimum."""
        waiting = len(self._untried) + len(self._retries)
        target = min(self._min_actors, waiting + sum(bool(actor.attempts) for actor in self._actors.values()))
        all_ready = all(actor.ready for actor in self._actors.values())
        if waiting and all_ready and len(self._actors) >= self._min_actors:
            target = min(self._max_actors, len(self._actors) + 1)  # the next one only after this one is ready
        actions: list[Action] = []
        if now >= self._next_start_at:
            while len(self._actors) < target:
                self._actors[self._next_actor] = _ActorState(now, now)
                actions.append(StartActor(self._next_actor))
                self._next_actor += 1
        if not waiting and self._max_actors > self._min_actors:
            idle = [number for number, actor in self._actors.items() if not actor.attempts]
            for number in idle[: max(0, len(self._actors) - self._min_actors)]:
                del self._actors[number]
                actions.append(StopActor(number))
        return actions

    # ------------------------------------------------------------ histories of shards

    def _take_back(self, actor: int, attempt: ShardAttempt) -> bool:
        """Remove the attempt from its actor. Returns False if the actor does not hold it."""
        holder = self._actors.get(actor)
        if holder is None or attempt not in holder.attempts:
            return False
        holder.attempts.remove(attempt)
        holder.isolated = holder.isolated and bool(holder.attempts)
        return True

    def _history_of(self, shard: int) -> ShardHistory:
        return self._histories.setdefault(shard, ShardHistory(attempts=1))  # the first attempt needs no history

    def _record_crash(self, attempt: ShardAttempt, error_class: ErrorClass, reason: str) -> None:
        history = self._history_of(attempt.shard)
        history.record_crash(error_class, reason)
        if attempt.row_range is not None:
            history.bisect(attempt.row_range)
        elif history.crashes >= self.limits.crashes:
            if history.bisections >= self.limits.bisections:
                self._give_up(attempt.shard, f"it ends its process, but none of its rows does so alone ({reason})")
                return
            history.bisections += 1
            history.bisect((0, self._count_rows(attempt.shard)))
        self._retries.append(attempt.shard)

    def _give_up(self, shard: int, reason: str) -> None:
        self.given_up[shard] = reason
        self._given_up_in_a_row += 1
        del self._histories[shard]
