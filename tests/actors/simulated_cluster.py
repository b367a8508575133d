"""A pool and its actors that a dispatcher can be tried with, where anything may go wrong."""

import random
from dataclasses import dataclass, field

import pytest

from actors.actions import AssignAttempt, KillActor, StartActor, StopActor
from actors.dispatcher import Dispatcher
from actors.fault_limits import FaultLimits
from actors.messages import Heartbeat, ShardAttempt

ROWS = 8
LIMITS = FaultLimits(storage_errors=4, start_timeout_s=3600.0, heartbeat_timeout_s=60.0)


def count_rows(shard: int) -> int:
    """Every shard has as many rows."""
    return ROWS


@dataclass
class SimulatedCluster:
    """Stands for the pool and its actors. How an attempt ends depends on `poison`, (shard, row), and on chance."""

    dispatcher: Dispatcher
    poison: set[tuple[int, int]]
    chance: random.Random
    crash_rate: float = 0.0
    error_rate: float = 0.0
    preemption_rate: float = 0.0
    node_loss_rate: float = 0.0  # of actors that are lost with their node
    silence_rate: float = 0.0
    pause_rate: float = 0.0  # of turns in which the driver stands still for a long time
    kills: int = 0  # processes that somebody ends, which look like crashes
    kill_rate: float = 0.0
    nodes: tuple[str, ...] = ("node",)
    now: float = 0.0
    starting: set[int] = field(default_factory=set)
    holding: dict[int, list[ShardAttempt]] = field(default_factory=dict)
    node_of: dict[int, str] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    committed: dict[int, tuple] = field(default_factory=dict)
    deaths: int = 0
    max_held: int = 0
    max_actors_seen: int = 0
    rows: int = ROWS  # of each shard

    def poison_in(self, attempt: ShardAttempt) -> list[int]:
        if attempt.harmless:
            return []
        first, end = attempt.row_range or (0, self.rows)
        skipped = {row.position for row in attempt.poison_rows}
        return [row for row in range(first, end) if (attempt.shard, row) in self.poison and row not in skipped]

    def is_poisonous(self, attempt: ShardAttempt) -> bool:
        return bool(self.poison_in(attempt))

    def carry_out_actions(self) -> None:
        for action in self.dispatcher.decide(self.now):
            match action:
                case StartActor(actor):
                    self.starting.add(actor)
                case AssignAttempt(actor, attempt):
                    assert actor in self.holding, "an attempt was given to an actor that is not ready"
                    self.holding[actor].append(attempt)
                    histories = self.dispatcher.queue.histories
                    suspects = [
                        held
                        for held in self.holding[actor]
                        if held.shard in histories and histories[held.shard].crashes
                    ]
                    assert not suspects or len(self.holding[actor]) == 1, "a suspect is not alone"
                case KillActor(actor) | StopActor(actor):
                    self.starting.discard(actor)
                    self.holding.pop(actor, None)
                    self.silent.discard(actor)
        held = self.dispatcher.held_shards
        assert len(held) == len(set(held)), "two actors hold one shard"
        self.max_held = max([self.max_held, *map(len, self.holding.values())])
        self.max_actors_seen = max(self.max_actors_seen, len(self.holding) + len(self.starting))

    def next_event(self) -> None:
        self.now += 0.5
        self.answer_heartbeats()
        if self.starting and (not any(self.holding.values()) or self.chance.random() < 0.5):
            self.start(self.starting.pop())
            return
        busy = [actor for actor, attempts in self.holding.items() if attempts and actor not in self.silent]
        if busy:
            actor = self.chance.choice(busy)
            self.end_attempt(actor, self.holding[actor][0])

    def answer_heartbeats(self) -> None:
        for actor in list(self.holding):
            self.dispatcher.on_heartbeat_asked(actor, self.now)
            if actor not in self.silent:
                self.dispatcher.on_heartbeat(actor, Heartbeat())

    def start(self, actor: int) -> None:
        self.node_of[actor] = self.chance.choice(self.nodes)
        self.dispatcher.on_started(actor, self.node_of[actor], self.now)
        if self.chance.random() < self.crash_rate:
            self.dispatcher.on_died(actor, "crash", "no luck", self.now)
        else:
            self.holding[actor] = []
            self.dispatcher.on_ready(actor, self.now)

    def end_attempt(self, actor: int, attempt: ShardAttempt) -> None:
        roll = self.chance.random()
        poison = self.poison_in(attempt) if self.is_poisonous(attempt) else []
        if self.kills and self.chance.random() < self.kill_rate:
            self.kills -= 1
            self.lose(actor, "crash", "signal 9")
        elif self.is_poisonous(attempt) or roll < self.crash_rate:
            if poison and poison[0] > (attempt.row_range or (0, 0))[0] and self.chance.random() < 0.5:
                self.dispatcher.on_heartbeat(actor, Heartbeat(clips=1000))  # the rows before it were made, and seen
            self.lose(actor, "crash", "signal 6")
        elif (roll := roll - self.crash_rate) < self.preemption_rate:
            self.lose(actor, "preempted", "the node was taken")
        elif (roll := roll - self.preemption_rate) < self.node_loss_rate:
            self.lose(actor, "node", "the node is gone")
        elif (roll := roll - self.node_loss_rate) < self.silence_rate:
            self.silent.add(actor)
        elif (roll := roll - self.silence_rate) < self.error_rate:
            self.holding[actor].remove(attempt)
            self.dispatcher.on_failed(actor, attempt, "503 slow down", self.now)
        else:
            self.holding[actor].remove(attempt)
            first, end = attempt.row_range or (0, self.rows)
            if self.dispatcher.on_finished(actor, attempt, end - first - len(attempt.poison_rows)):
                assert attempt.shard not in self.committed, "a shard was settled twice"
                assert not attempt.is_trial
                self.committed[attempt.shard] = tuple(sorted(row.position for row in attempt.poison_rows))

    def lose(self, actor: int, cause: str, reason: str) -> None:
        self.deaths += 1
        del self.holding[actor]
        self.dispatcher.on_died(actor, cause, reason, self.now)

    def run(self, max_events: int = 200_000) -> None:
        for _ in range(max_events):
            self.carry_out_actions()
            if self.dispatcher.finished:
                return
            self.next_event()
        pytest.fail("the dispatcher does not come to an end")

    @property
    def condemned(self) -> set[tuple[int, int]]:
        return {(shard, row) for shard, rows in self.committed.items() for row in rows}
