"""Decides which actor makes which shard, and what follows from failures: no Ray, no threads, no clock.

The pool reports events (`on_started`, `on_ready`, `on_heartbeat`, `on_finished`, `on_failed`, `on_died` ...) and does
what `decide` returns. The state is counters and shard numbers only. All times are of one clock, which stands still
while the driver does.

Laws, which tests/actors/test_dispatcher.py checks:
- Every shard is settled once.
- No actor holds more than `attempts_per_actor` attempts.
- While untried shards are left, an actor has more rows before it than slots, or its share of what is left
  (tests/actors/test_feeding.py).
- A suspected shard is alone in its actor, so that the next crash is known to be its own.
- A row that ends its process is found by bisection, and all rows beside it are made.
- A row is found guilty only by deaths of its own, while other rows live: deaths of machines cost time.
"""

import math
from collections.abc import Callable, Collection, Iterable

from actors.actions import Action, AssignAttempt, KillActor, StartActor, StopActor
from actors.actor_state import ActorState
from actors.death_counts import DeathCounts
from actors.fault_limits import FaultLimits
from actors.feeding import LEAST_ATTEMPTS, count_wanted_rows
from actors.machine_faults import MachineFaults
from actors.messages import ActorsFailed, DeathCause, Heartbeat, ShardAttempt
from actors.shard_history import Death
from actors.shard_queue import ShardQueue
from musicgen.errors import ErrorClass, UserError

_ROOM_WAIT_S = 15.0  # an actor that waits for room longer than this may never get any


class Dispatcher:
    """Gives shards to `min_actors` to `max_actors` actors until every shard is done or given up.

    `count_rows(shard)` returns how many rows a shard has.
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
        self.deaths = DeathCounts()
        self.queue = ShardQueue(shards, count_rows, limits)
        self.actors: dict[int, ActorState] = {}
        self._min_actors, self._max_actors = max(1, min_actors), max(1, min_actors, max_actors)
        self.machines = MachineFaults(limits, self._min_actors)
        self.stopping = False  # no shard is given out, and no actor started, any more
        self._next_actor = 0
        self._next_start_at = -math.inf
        self._lost_in_a_row = 0  # actors, by no fault of theirs, since the last clip
        self._empty_controls = 0  # one after another, that ended well without a clip

    @property
    def finished(self) -> bool:
        """Whether every shard is done or given up."""
        working = any(actor.attempts for actor in self.actors.values())
        may_try_again = self.queue.given_up and not self.queue.is_last_round
        return not (len(self.queue) or working or may_try_again)

    @property
    def given_up(self) -> dict[int, str]:
        """The shards that are given up -> why."""
        return self.queue.given_up

    @property
    def ready_actors(self) -> int:
        """How many actors are ready."""
        return sum(actor.ready for actor in self.actors.values())

    @property
    def held_shards(self) -> list[int]:
        """The shards that actors are making."""
        return [attempt.shard for actor in self.actors.values() for attempt in actor.attempts if not actor.control]

    def may_claim(self, now: float) -> bool:
        """Whether an actor is there for shards, or may be soon.

        Without any, one is started as soon as there is a shard for it. Where all wait for room, another driver's actors
        may have it, which would wait for the shards in their turn.
        """
        if not self.actors:
            return not self.stopping and now >= self._next_start_at
        actors = self.actors.values()
        return any(actor.started_at is not None or now - actor.asked_at < _ROOM_WAIT_S for actor in actors)

    # ------------------------------------------------------------ events

    def on_nodes(self, nodes: frozenset[str]) -> None:
        """Take the cluster's nodes that could hold an actor."""
        self.machines.on_nodes(nodes)

    def on_committed_elsewhere(self, shards: Collection[int]) -> list[int]:
        """Drop those of these shards that no actor holds: another driver has committed them. Returns those dropped."""
        dropped = self.queue.drop(shards)
        self.shards_done += len(dropped)
        return dropped

    def on_started(self, actor: int, node: str, now: float) -> None:
        """Record that the actor's process has begun on a node: from now on it has to be ready in time."""
        if actor in self.actors:
            self.actors[actor].started_at, self.actors[actor].node = now, node

    def on_ready(self, actor: int, now: float, slots: int = 1) -> None:
        """Record that the actor has loaded its model and can take shards; it makes `slots` rows at once."""
        if actor in self.actors:
            state = self.actors[actor]
            state.ready, state.slots, state.started_at = True, slots, state.started_at or now
            self.machines.on_ready()

    def on_heartbeat_asked(self, actor: int, now: float) -> None:
        """Record that the actor was asked for a heartbeat; it is silent as long as it does not answer."""
        if actor in self.actors and self.actors[actor].heartbeat_asked_at is None:
            self.actors[actor].heartbeat_asked_at = now

    def on_heartbeat(self, actor: int, heartbeat: Heartbeat) -> None:
        """Record a heartbeat. An actor whose generation thread has stalled is treated like a silent one."""
        state = self.actors.get(actor)
        if state is None:
            return
        state.heartbeat_asked_at = None
        state.settled_rows = heartbeat.uncommitted_rows
        state.stalled = heartbeat.stalled_s >= self.limits.stall_timeout_s
        state.waiting_for = heartbeat.waiting_for if heartbeat.waiting_s >= self.limits.shown_wait_s else ""
        if heartbeat.clips > state.clips:
            self._note_clips(state, heartbeat.clips - state.clips)

    def on_finished(self, actor: int, attempt: ShardAttempt, made: int = 1) -> bool:
        """Record that the attempt has ended well, with `made` clips. Returns True if that settles the shard.

        A late report of an attempt that was taken back from the actor does not count.
        """
        state = self._take_back(actor, attempt)
        if state is None:
            return False
        is_control, state.control = state.control == attempt, None
        if is_control and not made:
            self._empty_controls += 1
        # A machine on which control after control fails by a mistake in its row, and lives, is taken for sound.
        if made or self._empty_controls >= self.limits.empty_controls:
            self._note_clips(state, max(1, made))
        if attempt.is_trial:
            self.queue.on_trial_made(attempt, made, is_control)
            return False
        self.shards_done += 1
        self.queue.on_committed(attempt, made)
        return True

    def on_failed(self, actor: int, attempt: ShardAttempt, reason: str, now: float) -> None:
        """Record that the attempt failed while its actor lives on (a storage fault)."""
        state = self._take_back(actor, attempt)
        if state is None:
            return
        if state.control == attempt:
            state.control = None
        else:
            self.queue.repeat_failed(attempt, reason, now)

    def on_node_fault(self, actor: int, reason: str, now: float) -> None:
        """Record that the actor's machine cannot do the work; the actor is gone. Raises `ActorsFailed` without another.

        Its shards are tried again elsewhere.
        """
        node = self.actors[actor].node if actor in self.actors else ""
        self.on_died(actor, "node", reason, now)
        if not self.machines.set_node_aside(node, reason):
            raise ActorsFailed(reason)

    def on_died(self, actor: int, cause: DeathCause, reason: str, now: float, error: UserError | None = None) -> None:
        """Record that the actor is gone; before it was ready, that is a failed start.

        `error` says that the job is wrong, or the node. Only a crash counts against a shard, if other rows live.
        """
        lost = self.actors.pop(actor, None)
        if lost is None:
            return
        free = cause in ("preempted", "node", "slots")
        if lost.ready or free:  # another one has failed to start, which is counted apart
            self.deaths = self.deaths.add(cause)
        self._lost_in_a_row += 1
        if not lost.ready and not free:
            self.machines.on_failed_start(lost.node, reason, now, error)
            self._next_start_at = now + self.limits.backoff_after(self.machines.failed_starts)
        elif lost.ready and not free and not lost.clips:
            self.machines.on_death(lost.node, reason, now, lost.assigned_at)
            self._next_start_at = now + self.limits.backoff_after(self.machines.deaths)
        if lost.ready and not self.ready_actors:
            self.machines.on_last_ready_lost()
        for attempt in lost.attempts:
            if attempt == lost.control:
                continue
            if cause in ("crash", "engine"):
                self._record_crash(lost, attempt, cause, reason)
            else:
                self.queue.repeat_lost(attempt, reason, is_free=cause in ("preempted", "slots"))

    # ------------------------------------------------------------ decisions

    def decide(self, now: float) -> list[Action]:
        """Return what the pool has to do now. Call it after every event, and every fraction of a second.

        Raises `ActorsFailed` or an actor's `UserError` if the run cannot go on.
        """
        actions: list[Action] = self._kill_overdue_actors(now)
        self._check_limits(now)
        if not (len(self.queue) or self.finished or any(actor.attempts for actor in self.actors.values())):
            self.queue.begin_last_round()
        actions += self._assign_shards(now)
        actions += self._adjust_actors(now)
        return actions

    def _kill_overdue_actors(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for number, actor in list(self.actors.items()):
            timeout_s, omission = actor.overdue_s(now, self.limits.start_timeout_s, self.limits.heartbeat_timeout_s)
            if actor.stalled:
                reason = "generation stood still"
            elif omission:
                reason = f"the actor {omission} for {timeout_s:.0f} s"
            elif not actor.ready and actor.node in self.machines.set_aside:
                del self.actors[number]  # Ray had placed it there before
                actions.append(StopActor(number))
                continue
            else:
                continue
            actions.append(KillActor(number, reason))
            self.on_died(number, "killed", reason, now)
        return actions

    def _check_limits(self, now: float) -> None:
        actors = self.actors.values()
        self.machines.check(
            self.ready_actors,
            [actor.started_at for actor in actors if actor.started_at is not None and not actor.ready],
            min((actor.asked_at for actor in actors if actor.started_at is None), default=None),
            now,
        )
        if self.queue.given_up_in_a_row >= self.limits.given_up_shards and not self.queue.is_last_round:
            shard, reason = next(reversed(self.given_up.items()))
            raise ActorsFailed(
                f"{self.queue.given_up_in_a_row} shards failed one after another. The last, shard {shard}: {reason}"
            )
        if self._lost_in_a_row >= self.limits.lost_actors * self._max_actors:
            raise ActorsFailed(f"{self._lost_in_a_row} actors were lost one after another, and not a clip was made")

    def _assign_shards(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if self.stopping:
            return actions
        two_nodes = len({actor.node for actor in self.actors.values() if actor.ready}) > 1
        takers = {number: actor for number, actor in self.actors.items() if actor.ready}
        # Every actor gets its first shard before any gets a second, so that a run's last shards spread over all actors.
        most_attempts = self._limit_attempts()
        for held in range(most_attempts):
            for number, actor in list(takers.items()):
                if len(actor.attempts) > held:
                    continue
                attempt = (
                    self._choose_attempt(actor, now, two_nodes)
                    if self._count_wanted_rows(actor, most_attempts)
                    else None
                )
                if attempt is None:
                    del takers[number]
                    continue
                actor.attempts.append(attempt)
                actor.assigned_at = now
                actions.append(AssignAttempt(number, attempt))
            if not takers:
                break
        return actions

    def _limit_attempts(self) -> int:
        """Return the most attempts that an actor may hold now: its share of what is left, or a few.

        Actors become ready one after the other, and the first one should not take the whole of a small job. Those whose
        process has begun count.
        """
        started = sum(actor.ready or actor.started_at is not None for actor in self.actors.values())
        left = len(self.queue) + sum(len(actor.attempts) for actor in self.actors.values())
        share = math.ceil(left / max(1, started))
        return min(self.limits.attempts_per_actor, max(LEAST_ATTEMPTS, share))

    def _count_wanted_rows(self, actor: ActorState, most_attempts: int) -> int:
        if actor.isolated or len(actor.attempts) >= most_attempts:
            return 0
        rows = [self.queue.count_attempt_rows(attempt) for attempt in actor.attempts]
        return count_wanted_rows(rows, actor.settled_rows, actor.slots)

    def next_untried(self, is_wanted: Callable[[int], bool]) -> list[int]:
        """Return the wanted untried shards that actors should get next, those of actors that are not ready too."""
        least = LEAST_ATTEMPTS * max(1, len(self.actors))
        most_attempts = self._limit_attempts()
        rows = sum(self._count_wanted_rows(actor, most_attempts) for actor in self.actors.values())
        shards: list[int] = []
        for shard in self.queue.iterate_untried(is_wanted):
            if rows <= 0 and len(shards) >= least:
                break
            shards.append(shard)
            rows -= self.queue.count_rows(shard)
        return shards

    def _choose_attempt(self, actor: ActorState, now: float, two_nodes: bool) -> ShardAttempt | None:
        """Return what the actor makes next.

        After a death without a clip it is not known whether the row or the machine is at fault, so an actor that has
        made nothing yet begins with a row that should do no harm.
        """
        if not actor.clips and (self.machines.deaths or self.queue.is_control_needed(now)):
            if actor.attempts or not len(self.queue):
                return None
            actor.control = self.queue.make_control()
            if actor.control is not None:
                actor.isolated = True
                return actor.control
        attempt = self.queue.take_retry(now, not actor.attempts, actor.node, two_nodes)
        if attempt is None:
            return self.queue.take_untried()
        actor.isolated = self.queue.histories[attempt.shard].suspected
        return attempt

    def _adjust_actors(self, now: float) -> list[Action]:
        """Start actors that are missing or of use, and stop idle ones above the minimum."""
        waiting = 0 if self.stopping else self.queue.count_takeable(self._max_actors)
        working = sum(bool(actor.attempts) for actor in self.actors.values())
        target = min(self._max_actors, waiting + working)
        actions: list[Action] = []
        if now >= self._next_start_at and not self.stopping:
            while len(self.actors) < target:
                self.actors[self._next_actor] = ActorState(asked_at=now)
                actions.append(StartActor(self._next_actor, self.machines.avoided_nodes))
                self._next_actor += 1
        kept = 0 if self.stopping else self._min_actors
        if not waiting and self._max_actors > kept:
            idle = [number for number, actor in self.actors.items() if not actor.attempts]
            for number in idle[: max(0, len(self.actors) - kept)]:
                del self.actors[number]
                actions.append(StopActor(number))
        return actions

    # ------------------------------------------------------------ evidence

    def _note_clips(self, actor: ActorState, clips: int) -> None:
        actor.clips += clips
        self._lost_in_a_row = self._empty_controls = 0
        self.machines.on_clip(actor.node)

    def _record_crash(self, lost: ActorState, attempt: ShardAttempt, cause: DeathCause, reason: str) -> None:
        error_class: ErrorClass = "generation" if cause == "engine" else "crash"
        death = Death(lost.node, lost.clips > 0, error_class, reason)
        self.queue.repeat_crashed(attempt, death)

    def _take_back(self, actor: int, attempt: ShardAttempt) -> ActorState | None:
        """Remove the attempt from its actor, and return the actor; None if it does not hold it."""
        holder = self.actors.get(actor)
        if holder is None or attempt not in holder.attempts:
            return None
        holder.attempts.remove(attempt)
        holder.settled_rows = max(0, holder.settled_rows - self.queue.count_attempt_rows(attempt))
        holder.isolated = holder.isolated and bool(holder.attempts)
        return holder
