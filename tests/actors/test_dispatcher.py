"""The dispatcher's laws, over simulated clusters where anything may go wrong."""

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.actions import AssignAttempt, KillActor, StartActor, StopActor
from actors.dispatcher import Dispatcher
from actors.fault_limits import FaultLimits
from actors.messages import ActorsFailed, ShardAttempt

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
    silence_rate: float = 0.0
    now: float = 0.0
    starting: set[int] = field(default_factory=set)
    holding: dict[int, list[ShardAttempt]] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)
    committed: dict[int, tuple] = field(default_factory=dict)
    max_held: int = 0
    max_actors_seen: int = 0

    def is_poisonous(self, attempt: ShardAttempt) -> bool:
        first, end = attempt.row_range or (0, ROWS)
        skipped = {row.position for row in attempt.poison_rows}
        return any(shard == attempt.shard and first <= row < end and row not in skipped for shard, row in self.poison)

    def carry_out_actions(self) -> None:
        for action in self.dispatcher.decide(self.now):
            match action:
                case StartActor(actor):
                    self.starting.add(actor)
                case AssignAttempt(actor, attempt):
                    assert actor in self.holding, "an attempt was given to an actor that is not ready"
                    self.holding[actor].append(attempt)
                    histories = self.dispatcher._histories
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
        held = [attempt.shard for attempts in self.holding.values() for attempt in attempts]
        assert len(held) == len(set(held)), "two actors hold one shard"
        self.max_held = max([self.max_held, *map(len, self.holding.values())])
        self.max_actors_seen = max(self.max_actors_seen, len(self.holding) + len(self.starting))

    def next_event(self) -> None:
        self.now += 0.5
        for actor in list(self.holding):
            if actor not in self.silent:
                self.dispatcher.on_heartbeat(actor, self.now)
        if self.starting and (not any(self.holding.values()) or self.chance.random() < 0.5):
            actor = self.starting.pop()
            if self.chance.random() < self.crash_rate:
                self.dispatcher.on_died(actor, "crash", "no luck", self.now)
            else:
                self.holding[actor] = []
                self.dispatcher.on_ready(actor, self.now)
            return
        busy = [actor for actor, attempts in self.holding.items() if attempts and actor not in self.silent]
        if not busy:
            return
        actor = self.chance.choice(busy)
        attempt = self.holding[actor][0]
        roll = self.chance.random()
        if self.is_poisonous(attempt) or roll < self.crash_rate:
            del self.holding[actor]
            self.dispatcher.on_died(actor, "crash", "signal 6", self.now)
        elif roll < self.crash_rate + self.preemption_rate:
            del self.holding[actor]
            self.dispatcher.on_died(actor, "preempted", "the node was taken", self.now)
        elif roll < self.crash_rate + self.preemption_rate + self.silence_rate:
            self.silent.add(actor)
        elif roll < self.crash_rate + self.preemption_rate + self.silence_rate + self.error_rate:
            self.holding[actor].remove(attempt)
            self.dispatcher.on_failed(actor, attempt, "503 slow down", self.now)
        else:
            self.holding[actor].remove(attempt)
            if self.dispatcher.on_finished(actor, attempt, self.now):
                assert attempt.shard not in self.committed, "a shard was settled twice"
                assert not attempt.is_trial
                self.committed[attempt.shard] = tuple(sorted(row.position for row in attempt.poison_rows))

    def run(self, max_events: int = 200_000) -> None:
        for _ in range(max_events):
            self.carry_out_actions()
            if self.dispatcher.finished:
                return
            self.next_event()
        pytest.fail("the dispatcher does not come to an end")


@settings(max_examples=120, deadline=None)
@given(
    shards=st.integers(0, 30),
    actors=st.tuples(st.integers(1, 4), st.integers(0, 3)),
    poison=st.sets(st.tuples(st.integers(0, 29), st.integers(0, ROWS - 1)), max_size=6),
    seed=st.integers(0, 2**32),
)
def test_every_poisonous_row_is_found_and_every_shard_is_settled_once(shards, actors, poison, seed):
    min_actors, extra_actors = actors
    poison = {(shard, row) for shard, row in poison if shard < shards}
    dispatcher = Dispatcher(range(shards), count_rows, LIMITS, min_actors, min_actors + extra_actors)
    cluster = SimulatedCluster(dispatcher, poison, random.Random(seed), error_rate=0.02, preemption_rate=0.05)
    cluster.run()
    assert set(cluster.committed) == set(range(shards))
    assert dispatcher.shards_done == shards
    assert {(shard, row) for shard, rows in cluster.committed.items() for row in rows} == poison
    assert cluster.max_held <= 2
    assert cluster.max_actors_seen <= min_actors + extra_actors


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), shards=st.integers(1, 20), actors=st.integers(1, 3))
def test_on_a_bad_day_it_ends_and_accounts_for_every_shard(seed, shards, actors):
    limits = replace(LIMITS, failed_starts=50, given_up_shards=1000)
    dispatcher = Dispatcher(range(shards), count_rows, limits, actors, actors)
    cluster = SimulatedCluster(
        dispatcher, set(), random.Random(seed), crash_rate=0.1, error_rate=0.1, preemption_rate=0.1, silence_rate=0.05
    )
    cluster.run()
    assert set(cluster.committed) | set(dispatcher.given_up) == set(range(shards))
    assert not set(cluster.committed) & set(dispatcher.given_up)


def test_preemptions_are_free():
    dispatcher = Dispatcher(range(3), count_rows, LIMITS)
    now = 0.0
    for _ in range(200):
        now += 100
        (start,) = [action for action in dispatcher.decide(now) if isinstance(action, StartActor)]
        dispatcher.on_ready(start.actor, now)
        assigned = [action.attempt for action in dispatcher.decide(now) if isinstance(action, AssignAttempt)]
        assert [attempt.row_range for attempt in assigned] == [None, None]
        dispatcher.on_died(start.actor, "preempted", "spot", now)
    assert dispatcher.preemptions == 200
    assert not dispatcher.given_up


def test_actors_that_never_start_end_the_run_with_the_first_reason():
    dispatcher = Dispatcher(range(3), count_rows, LIMITS)
    for now in (100, 200, 300):
        (start,) = dispatcher.decide(now)
        dispatcher.on_died(start.actor, "crash", f"no such checkpoint {now}", now)
    with pytest.raises(ActorsFailed, match=r"3 attempts.*no such checkpoint 100"):
        dispatcher.decide(400)


def test_one_broken_node_does_not_end_a_run_that_has_an_actor():
    dispatcher = Dispatcher(range(50), count_rows, LIMITS, 2, 2)
    first, second = dispatcher.decide(0)
    dispatcher.on_ready(first.actor, 0)
    dispatcher.on_died(second.actor, "crash", "no GPU", 0)
    now = 0.0
    for _ in range(100):
        now += 50
        dispatcher.on_heartbeat(first.actor, now)
        for action in dispatcher.decide(now):
            if isinstance(action, StartActor):
                dispatcher.on_died(action.actor, "crash", "no GPU", now)
            elif isinstance(action, AssignAttempt):
                dispatcher.on_finished(action.actor, action.attempt, now)
    assert dispatcher.shards_done == 50


@pytest.mark.parametrize("stalled_s", [None, 1000.0])
def test_a_silent_or_stalled_actor_is_killed_and_its_late_report_does_not_count(stalled_s):
    dispatcher = Dispatcher(range(2), count_rows, LIMITS)
    (start,) = dispatcher.decide(0)
    dispatcher.on_ready(start.actor, 0)
    attempts = [action.attempt for action in dispatcher.decide(0)]
    assert [attempt.shard for attempt in attempts] == [0, 1]
    assert dispatcher.decide(59) == []
    if stalled_s is not None:
        dispatcher.on_heartbeat(start.actor, 60, stalled_s=stalled_s)
    actions = dispatcher.decide(61)
    assert [type(action) for action in actions] == [KillActor, StartActor]
    assert actions[0].actor == start.actor
    assert not dispatcher.on_finished(start.actor, attempts[0], 62)
    assert dispatcher.shards_done == 0
    dispatcher.on_ready(actions[1].actor, 62)
    (again,) = dispatcher.decide(62)
    assert again.attempt == ShardAttempt(0, number=1)  # alone, because the shard is suspected now


def test_a_shard_that_crashes_only_as_a_whole_is_given_up_and_the_others_are_made():
    dispatcher = Dispatcher(range(4), count_rows, LIMITS)
    cluster = SimulatedCluster(dispatcher, set(), random.Random(0))
    cluster.is_poisonous = lambda attempt: attempt.shard == 2 and attempt.row_range is None
    cluster.run()
    assert set(cluster.committed) == {0, 1, 3}
    assert "none of its rows does so alone" in dispatcher.given_up[2]


def test_storage_faults_shard_after_shard_end_the_run():
    dispatcher = Dispatcher(range(100), count_rows, limits=replace(LIMITS, storage_errors=1, given_up_shards=3))
    (start,) = dispatcher.decide(0)
    dispatcher.on_ready(start.actor, 0)
    for now in (0, 1):
        for action in dispatcher.decide(now):
            dispatcher.on_failed(action.actor, action.attempt, "the bucket is gone", now)
    with pytest.raises(ActorsFailed, match=r"shards failed.*the bucket is gone"):
        dispatcher.decide(2)


def test_an_elastic_pool_grows_while_there_is_work_and_lets_idle_actors_go():
    dispatcher = Dispatcher(range(20), count_rows, LIMITS, 1, 3)
    held, stopped, max_held = {}, 0, 0
    for now in range(1000):
        for action in dispatcher.decide(now):
            match action:
                case StartActor(actor):
                    held[actor] = []
                    dispatcher.on_ready(actor, now)
                case AssignAttempt(actor, attempt):
                    held[actor].append(attempt)
                case StopActor(actor):
                    assert not held.pop(actor)
                    stopped += 1
        max_held = max(max_held, len(held))
        if dispatcher.finished:
            break
        for actor, attempts in held.items():
            if attempts and now % (actor + 2) == 0:
                dispatcher.on_finished(actor, attempts.pop(0), now)
    assert dispatcher.shards_done == 20
    assert (max_held, stopped) == (3, 2)
