"""Who makes which shard, and what follows when that goes wrong: a state machine without Ray, threads or a clock.

The pool tells it what happened (`ready`, `heard`, `done`, `failed`, `died`) and does what `decide` returns. It holds
counters and shard numbers only. Laws (tests/actors/test_dispatcher.py): every shard is settled once; no actor holds
more than `in_flight` works; a shard under suspicion is alone in its actor, so that its next crash is its own; a row
that ends its process is found by bisection and everything beside it is made.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from actors.messages import ActorsFailed, Condemned, Death, Work
from musicgen.errors import ErrorClass


@dataclass(frozen=True, slots=True)
class Limits:
    """When to give up on what."""

    in_flight: int = 2  # works in an actor's hands: the next shard is there when one ends
    errors: int = 4  # of a shard whose actor survives (storage faults)
    crashes: int = 2  # of a shard before it is bisected
    bisections: int = 2  # of a shard before it is given up
    init_failures: int = 3  # one after another, while no actor works
    given_up: int = 3  # shards one after another, with none made between
    init_s: float = 3600.0  # a hub download of the largest checkpoint on a slow line
    silence_s: float = 60.0
    stall_s: float = 900.0
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Start:
    """Start an actor process under this number."""

    actor: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Hand a work to an actor."""

    actor: int
    work: Work


@dataclass(frozen=True, slots=True)
class Kill:
    """End an actor that does not answer or cannot go on. Its works are already taken back."""

    actor: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Release an idle actor that nobody needs any more."""

    actor: int


Action = Start | Assign | Kill | Stop


@dataclass(slots=True)
class _Actor:
    started_at: float
    heard_at: float
    ready: bool = False
    alone: bool = False  # what it holds is under suspicion
    works: list[Work] = field(default_factory=list)


@dataclass(slots=True)
class _Case:
    """The record of a shard that has not gone smoothly."""

    attempts: int = 0
    errors: int = 0
    crashes: int = 0
    bisections: int = 0
    not_before: float = -math.inf
    verdict: ErrorClass = "crash"
    reason: str = ""
    trials: list[tuple[int, int]] = field(default_factory=list)  # ranges still to be tried, the next one last
    condemned: list[Condemned] = field(default_factory=list)


class Dispatcher:
    """Keeps `min_actors` to `max_actors` actors in shards until every shard is done or given up.

    `rows(shard)` says how many rows a shard has; it is asked only when one has to be bisected.
    Raises `ActorsFailed` from `decide` when going on is pointless.
    """

    def __init__(
        self,
        shards: Iterable[int],
        rows: Callable[[int], int],
        min_actors: int = 1,
        max_actors: int = 1,
        limits: Limits | None = None,
    ):
        self.limits = limits or Limits()
        self.done: int = 0
        self.crashes: int = 0
        self.preemptions: int = 0
        self.given_up: dict[int, str] = {}
        self._rows = rows
        self._min, self._max = max(1, min_actors), max(1, min_actors, max_actors)
        self._fresh: deque[int] = deque(shards)
        self._again: list[int] = []  # tried before and waiting to be tried again
        self._cases: dict[int, _Case] = {}
        self._actors: dict[int, _Actor] = {}
        self._next_actor = 0
        self._init_failures = 0
        self._init_reason = ""
        self._start_not_before = -math.inf
        self._given_up_in_a_row = 0

    @property
    def finished(self) -> bool:
        """Every shard is done or given up."""
        return not (self._fresh or self._again or any(actor.works for actor in self._actors.values()))

    @property
    def actors(self) -> int:
        """Actors that are ready."""
        return sum(actor.ready for actor in self._actors.values())

    # What happened

    def ready(self, actor: int, now: float) -> None:
        """The actor has its weights and takes work."""
        if actor in self._actors:
            self._actors[actor].ready = True
            self._init_failures = 0
            self.heard(actor, now)

    def heard(self, actor: int, now: float, stalled_s: float = 0.0) -> None:
        """The actor gave a sign of life. One whose generation thread stands still is as good as silent."""
        if actor in self._actors and stalled_s < self.limits.stall_s:
            self._actors[actor].heard_at = now
        elif actor in self._actors:
            self._actors[actor].heard_at = -math.inf

    def finish(self, actor: int, work: Work, now: float) -> bool:
        """The attempt came to its end. True if that settles the shard; a late word of a lost actor does not count."""
        if not self._take_back(actor, work):
            return False
        self.heard(actor, now)
        if work.trial:
            self._again.insert(0, work.shard)  # that range is cleared; on with the next one
            return False
        self.done += 1
        self._given_up_in_a_row = 0
        self._cases.pop(work.shard, None)
        return True

    def failed(self, actor: int, work: Work, reason: str, now: float) -> None:
        """The attempt failed and the actor lives (a storage fault)."""
        if not self._take_back(actor, work):
            return
        case = self._case(work.shard)
        case.errors += 1
        if work.rows is not None:
            case.trials.append(work.rows)
        if case.errors >= self.limits.errors:
            self._give_up(work.shard, reason)
            return
        case.not_before = now + self._backoff(case.errors)
        self._again.append(work.shard)

    def died(self, actor: int, death: Death, reason: str, now: float) -> None:
        """The actor is gone. Preemptions are free; before it was ready it counts as a failed start."""
        lost = self._actors.pop(actor, None)
        if lost is None:
            return
        if death == "preempted":
            self.preemptions += 1
        elif not lost.ready:
            self._init_failures += 1
            self._init_reason = self._init_reason or reason
            self._start_not_before = now + self._backoff(self._init_failures)
        else:
            self.crashes += 1
        for work in lost.works:
            if death == "preempted":
                self._put_back(work)
            else:
                self._crashed(work, "generation" if death == "engine" else "crash", reason)

    # What to do

    def decide(self, now: float) -> list[Action]:
        """What the pool must do now. Call it again after every event and every fraction of a second."""
        actions: list[Action] = []
        for number, actor in list(self._actors.items()):
            patience = self.limits.silence_s if actor.ready else self.limits.init_s
            if now - (actor.heard_at if actor.ready else actor.started_at) > patience:
                what = "gave no sign of life" if actor.ready else "was not ready"
                reason = (
                    f"the actor {what} for {patience:.0f} s" if actor.heard_at > -math.inf else "generation stood still"
                )
                actions.append(Kill(number, reason))
                self.died(number, "silent", reason, now)
        self._check()
        actions += self._assign(now)
        actions += self._resize(now)
        return actions

    def _check(self) -> None:
        if self._init_failures >= max(self.limits.init_failures, self._min) and not self.actors:
            raise ActorsFailed(
                f"no generator actor could start ({self._init_failures} attempts). The first reason: "
                f"{self._init_reason}"
            )
        if self._given_up_in_a_row >= self.limits.given_up:
            shard, reason = next(reversed(self.given_up.items()))
            raise ActorsFailed(
                f"{self._given_up_in_a_row} shards failed one after another. The last, shard {shard}: {reason}"
            )

    def _assign(self, now: float) -> list[Action]:
        actions: list[Action] = []
        # Round by round, so that the last shards of a run spread over all actors.
        for depth in range(self.limits.in_flight):
            for number, actor in self._actors.items():
                if not actor.ready or actor.alone or len(actor.works) != depth:
                    continue
                if (shard := self._due(now, suspects=depth == 0)) is not None:
                    actor.alone = self._cases[shard].crashes > 0
                    actions.append(self._hand(number, shard))
                elif self._fresh:
                    actions.append(self._hand(number, self._fresh.popleft()))
        return actions

    def _due(self, now: float, suspects: bool) -> int | None:
        for index, shard in enumerate(self._again):
            case = self._cases[shard]
            if case.not_before <= now and (suspects or not case.crashes):
                return self._again.pop(index)
        return None

    def _hand(self, actor: int, shard: int) -> Assign:
        case = self._cases.get(shard)
        work = Work(shard)
        if case is not None:
            rows = case.trials.pop() if case.trials else None
            work = Work(shard, case.attempts, rows, tuple(case.condemned))
            case.attempts += 1
        self._actors[actor].works.append(work)
        return Assign(actor, work)

    def _resize(self, now: float) -> list[Action]:
        waiting = len(self._fresh) + len(self._again)
        wanted = min(self._min, waiting + sum(bool(a.works) for a in self._actors.values()))
        settled = all(actor.ready for actor in self._actors.values())
        if waiting and settled and len(self._actors) >= self._min:
            wanted = min(self._max, len(self._actors) + 1)  # one at a time: the next one when this one is of use
        actions: list[Action] = []
        if now >= self._start_not_before:
            while len(self._actors) < wanted:
                self._actors[self._next_actor] = _Actor(now, now)
                actions.append(Start(self._next_actor))
                self._next_actor += 1
        if not waiting and self._max > self._min:
            idle = [n for n, a in self._actors.items() if not a.works]
            for number in idle[: max(0, len(self._actors) - self._min)]:
                del self._actors[number]
                actions.append(Stop(number))
        return actions

    # The record of a shard

    def _take_back(self, actor: int, work: Work) -> bool:
        holder = self._actors.get(actor)
        if holder is None or work not in holder.works:
            return False
        holder.works.remove(work)
        holder.alone = holder.alone and bool(holder.works)
        return True

    def _case(self, shard: int) -> _Case:
        return self._cases.setdefault(shard, _Case(attempts=1))  # the first attempt was made without a record

    def _put_back(self, work: Work) -> None:
        case = self._case(work.shard)
        if work.rows is not None:
            case.trials.append(work.rows)
        self._again.insert(0, work.shard)

    def _crashed(self, work: Work, verdict: ErrorClass, reason: str) -> None:
        case = self._case(work.shard)
        case.crashes += 1
        case.verdict, case.reason = verdict, reason
        if work.rows is not None:
            self._narrow(case, work.rows)
        elif case.crashes >= self.limits.crashes:
            if case.bisections >= self.limits.bisections:
                self._give_up(work.shard, f"it ends its process, but none of its rows does so alone ({reason})")
                return
            case.bisections += 1
            self._narrow(case, (0, self._rows(work.shard)))
        self._again.append(work.shard)

    def _narrow(self, case: _Case, rows: tuple[int, int]) -> None:
        first, end = rows
        if end - first == 1:
            reason = f"{case.reason}; it did so with this row alone, after {case.crashes - 1} times with others"
            case.condemned.append(Condemned(first, case.verdict, reason, attempts=case.attempts))
        else:
            middle = (first + end) // 2
            case.trials += [(middle, end), (first, middle)]

    def _give_up(self, shard: int, reason: str) -> None:
        self.given_up[shard] = reason
        self._given_up_in_a_row += 1
        del self._cases[shard]

    def _backoff(self, failures: int) -> float:
        return min(self.limits.backoff_max_s, self.limits.backoff_s * 2.0 ** min(failures - 1, 16))
